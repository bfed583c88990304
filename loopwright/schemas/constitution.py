"""A constitution: the principles that a model criticises, revises and compares answers by."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from loopwright.schemas.base import Record

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
