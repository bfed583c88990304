"""The kinds of records that files hold, under the names of these files."""

from collections.abc import Mapping

from loopwright.schemas.base import Record
from loopwright.schemas.feedback import Attack, Comparison, Correction, Ranking, Rating, SpanFeedback, Thumb
from loopwright.schemas.prompts import Demonstration, Prompt

KINDS: Mapping[str, type[Record]] = {  # kind -> the record of a line of kind.jsonl
    "comparisons": Comparison,
    "rankings": Ranking,
    "ratings": Rating,
    "thumbs": Thumb,
    "corrections": Correction,
    "spans": SpanFeedback,
    "attacks": Attack,
    "demonstrations": Demonstration,
    "prompts": Prompt,
}
