"""A constitution: the principles that a model criticises, revises and compares answers by; and what came of it."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from loopwright.schemas.base import Record
from loopwright.schemas.prompts import Message

Request = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Principle(Record):
    """One principle, worded for each use (Bai et al. 2022, appendix C, arXiv:2212.08073)."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    critique_request: Request  # asks what is wrong with the answer
    revision_request: Request  # asks for the answer without that
    preference_question: Request  # asks which of two answers is better


class Constitution(Record):
    """Principles; a stage draws from them evenly."""

    principles: tuple[Principle, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [principle.id for principle in self.principles]
        if twice := sorted({id for id in ids if ids.count(id) > 1}):
            raise ValueError(f"two principles have the id {twice[0]}; give each an id of its own")
        return self


Flaw = Literal["empty", "unchanged", "too_long"]


class Revision(Record):
    """A critique of an answer by one principle, and the answer written again."""

    principle: str  # its id
    critique: str
    revision: str
    flaw: Flaw | None = None  # why the answer stays as it was; None: the revision takes its place

    @model_validator(mode="after")
    def _what_counts_says_something(self) -> Self:
        if self.flaw is None and not self.revision.strip():
            raise ValueError('an empty revision counts for nothing; its flaw is "empty"')
        return self


class RevisedAnswer(Record):
    """A policy's answer with all that a critic made of it."""

    id: str
    prompt: tuple[Message, ...] = Field(min_length=1)
    answer: str  # the policy's own
    revisions: tuple[Revision, ...] = ()
    policy: str | None = None  # artifact id of the policy that answered
    critic: str  # the model that criticised and revised

    @property
    def final(self) -> str:
        """The answer after the last revision that counts."""
        return next((one.revision for one in reversed(self.revisions) if one.flaw is None), self.answer)

    @property
    def flaw(self) -> Flaw | None:
        """Why there is nothing to learn from it; None: the final answer is another than the policy's."""
        if same_text(self.final, self.answer):
            return next((one.flaw for one in self.revisions if one.flaw not in (None, "unchanged")), "unchanged")
        return None


def same_text(one: str, other: str) -> bool:
    """Whether two answers differ in white space at most."""
    return one.split() == other.split()
