"""Answers that a policy wrote and a reward scored."""

from loopwright.schemas.base import Record
from loopwright.schemas.prompts import Prompt


class ScoredAnswer(Record):
    """An answer as it was sampled, with its score. The tokens are the truth; the text is for people."""

    prompt: Prompt
    response: str
    prompt_ids: list[int]
    response_ids: list[int]  # EOS included
    finished: bool  # an EOS was sampled
    score: float  # less the penalty of an answer without EOS
    criteria: dict[str, float] = {}  # the same of each reward that the score is made of, by its name
    temperature: float  # it was sampled at
    stage: str  # that sampled it
