"""What the screen sends: an answer of each form, and whether it fits the item that was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from loopwright.schemas import (
    Message,
    Record,
    Span,
    Strength,
)

if TYPE_CHECKING:
    from loopwright.feedback.projects import ProjectConfig

LONGEST = 20_000  # characters of a text that a labeler writes


class Asked(NamedTuple):
    """An item as one person saw it."""

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]  # as stored
    order: tuple[int, ...]  # order[0] is the place of the response that was shown first
    project: ProjectConfig


class Answer(Record):
    """What every form sends."""

    reason: str | None = Field(default=None, max_length=LONGEST)
    reasons: tuple[str, ...] = ()  # of those that the project offers

    def check(self, asked: Asked) -> None:
        """Raises ValueError where the answer does not fit the item or the project."""
        _known(self.reasons, asked.project.reasons)
        if len(set(self.reasons)) < len(self.reasons):
            raise ValueError("a reason is given twice")

    def check_complete(self, asked: Asked) -> None:
        """Raises ValueError where the form asks for more; what other tools gathered has not been asked by it."""

    def vote(self, asked: Asked) -> int | None:
        """The one number by which agreement is measured; None: the kind has none."""
        return None


class ComparisonAnswer(Answer):
    """Which answer is better and how much; or neither."""

    choice: Literal[0, 1] | None  # by the place shown; None: a tie
    strength: Strength | None = None
    both_bad: bool = False
    safe: tuple[bool, bool] | None = None
    criteria: dict[str, Literal[0, 1] | None] = {}
    strengths: dict[str, Strength] = {}  # by a criterion
    improved: str | None = Field(default=None, min_length=1, max_length=LONGEST)  # the better answer, made better still

    @model_validator(mode="after")
    def _is_one_verdict(self) -> Self:
        if self.both_bad and self.choice is not None:
            raise ValueError("both_bad is a tie; choice must be null")
        if self.choice is None and self.strength is not None:
            raise ValueError("a choice comes with its strength, a tie without one")
        if self.improved is not None and self.choice is None:
            raise ValueError("only the better answer is improved; choose one")
        if any(self.criteria.get(name) is None for name in self.strengths):
            raise ValueError("strengths are of criteria by which one answer is better")
        return self

    def check(self, asked: Asked) -> None:
        super().check(asked)
        _known(self.criteria, asked.project.criterion_names)
        if self.safe is not None and not asked.project.safety:
            raise ValueError("this project does not ask which answers are safe")
        if self.improved is not None and not asked.project.improve:
            raise ValueError("in this project answers are not improved")

    def check_complete(self, asked: Asked) -> None:
        if self.choice is not None and self.strength is None:
            raise ValueError("a choice comes with its strength, a tie without one")
        if asked.project.criteria_strengths:
            for name, choice in self.criteria.items():
                if choice is not None and name not in self.strengths:
                    raise ValueError(f"a choice by {name} comes with its strength")
        why = self.reason or self.reasons
        if self.strength == "significantly" and asked.project.reason_when_significant and not why:
            raise ValueError("say why one answer is significantly better")

    def vote(self, asked: Asked) -> int:
        return 0 if self.choice is None else (-1, 1)[asked.order[self.choice]]


class RankingAnswer(Answer):
    """Ranks from 1, the best; equal ones are ties. Overall, on each criterion, or both."""

    ranks: tuple[int, ...] | None = None  # overall, by the place shown
    criteria: dict[str, tuple[int, ...]] = {}

    def check(self, asked: Asked) -> None:
        super().check(asked)
        _known(self.criteria, asked.project.criterion_names)
        for ranks in self.criteria.values() if self.ranks is None else (self.ranks, *self.criteria.values()):
            if len(ranks) != len(asked.responses) or not all(1 <= rank <= len(ranks) for rank in ranks):
                raise ValueError(f"rank each of the {len(asked.responses)} answers from 1, the best")

    def check_complete(self, asked: Asked) -> None:
        missing = set(asked.project.criterion_names) - set(self.criteria)
        if self.ranks is None and (missing or not self.criteria):
            raise ValueError(f"rank the answers on {min(missing)} as well" if missing else "rank the answers")

    def vote(self, asked: Asked) -> int | None:
        """The place of the best response; None where several are, or none was ranked overall."""
        best = [shown for shown, rank in enumerate(self.ranks or ()) if rank == min(self.ranks or ())]
        return asked.order[best[0]] if len(best) == 1 else None


class RatingAnswer(Answer):
    """A score on each criterion, and yes or no to what the project asks beside."""

    scores: dict[str, int] = Field(min_length=1)
    checks: dict[str, bool] = {}

    def check(self, asked: Asked) -> None:
        super().check(asked)
        _known(self.scores, asked.project.criterion_names or ("overall",))
        _known(self.checks, asked.project.checks)
        low, high = asked.project.scale
        if stray := next((score for score in self.scores.values() if not low <= score <= high), None):
            raise ValueError(f"{stray} is not on the scale {low} to {high}")

    def check_complete(self, asked: Asked) -> None:
        if missing := set(asked.project.criterion_names) - set(self.scores):
            raise ValueError(f"rate {min(missing)} as well")

    def vote(self, asked: Asked) -> int | None:
        """On the first criterion; None: it was asked for later."""
        return self.scores.get(next(iter(asked.project.criterion_names), "overall"))


class ThumbAnswer(Answer):
    """Good or bad."""

    good: bool

    def vote(self, asked: Asked) -> int:
        return int(self.good)


class DemonstrationAnswer(Answer):
    """The answer that should have been given."""

    response: str = Field(min_length=1, max_length=LONGEST)


class CorrectionAnswer(Answer):
    """One of the answers, edited."""

    chosen: int = Field(default=0, ge=0)  # by the place shown
    edited: str = Field(min_length=1, max_length=LONGEST)

    def check(self, asked: Asked) -> None:
        super().check(asked)
        if self.chosen >= len(asked.responses):
            raise ValueError(f"there is no answer {self.chosen}")
        if self.edited == asked.responses[asked.order[self.chosen]]:
            raise ValueError("the answer is as it was; change it, or say that it needs no correction by skipping")


class SpansAnswer(Answer):
    """Passages of the answer, in characters of its raw text; none: nothing is wrong."""

    spans: tuple[Span, ...] = Field(default=(), max_length=500)

    def check(self, asked: Asked) -> None:
        super().check(asked)
        for span in self.spans:
            _known([span.label], asked.project.span_labels)
            if span.end > len(asked.responses[0]):
                raise ValueError(f"the passage {span.start} to {span.end} ends after the answer does")

    def vote(self, asked: Asked) -> int:
        return int(bool(self.spans))


class AttackAnswer(Answer):
    """Whether the red-team prompt broke the model."""

    broke: bool
    harm: int | None = Field(default=None, ge=0, le=3)

    def vote(self, asked: Asked) -> int:
        return int(self.broke)


def _known(names: Mapping[str, Any] | Sequence[str], known: Sequence[str]) -> None:
    if stray := next((name for name in names if name not in known), None):
        raise ValueError(f"{stray!r} is not one of {', '.join(known) or 'none'}")
