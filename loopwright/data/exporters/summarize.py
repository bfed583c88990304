"""OpenAI's summarize-from-feedback: comparisons of summaries, and ratings on axes."""

import re
from collections.abc import Iterator
from typing import Any

from loopwright.data.exporters.base import Account, Exporter, Row, on_scale, writers
from loopwright.data.importers.base import Fields
from loopwright.data.importers.summarize import SCALE, post
from loopwright.schemas import Comparison, Message, Rating, Record

_POST = re.compile(
    r"(SUBREDDIT: r/(?P<subreddit>.*?)\n\n)?(TITLE: (?P<title>.*?)\n\n)?"
    r"(POST: (?P<post>.*)|ARTICLE: (?P<article>.*))\n\nTL;DR:",
    re.DOTALL,
)


def rows(record: Record, account: Account, kept: frozenset[str]) -> Iterator[Row]:
    assert isinstance(record, (Comparison, Rating))
    info = _info(record.prompt)
    if info is None:
        account.leave("a prompt that is not made of TITLE, POST or ARTICLE, and TL;DR")
        return
    summaries = [
        {"text": f" {text}", "policy": policy, "note": None}
        for text, policy in zip(record.responses, writers(record, account), strict=True)
    ]
    if isinstance(record, Rating):
        if on_scale(record, SCALE):
            yield {"info": info, "summary": summaries[0] | {"axes": record.scores}, "worker": record.annotator}
        else:
            account.leave(f"a rating other than higher better, {SCALE[0]} to {SCALE[1]}")
    elif record.choice is None:
        account.leave("a tie")
    else:
        yield {"info": info, "summaries": summaries, "choice": record.choice, "worker": record.annotator, "extra": {}}


def _info(prompt: tuple[Message, ...]) -> dict[str, Any] | None:
    """The parts of a prompt, if they make the same prompt again."""
    found = _POST.fullmatch(prompt[0].content) if len(prompt) == 1 else None
    if found is None:
        return None
    info = {name: text for name, text in found.groupdict().items() if text is not None}
    return info if post(Fields(info)) == prompt else None


_BOTH = frozenset({"prompt", "responses", "annotator", "policy", "policies"})
SUMMARIZE = Exporter(
    rows,
    {
        Comparison: _BOTH | {"choice"},
        Rating: _BOTH | {"scores", "scale_low", "scale_high", "higher_is_better"},
    },
    '{"info", "summaries", "choice"} or {"info", "summary": {"axes"}}',
)
