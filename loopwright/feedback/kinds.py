"""The kinds of feedback that people can give: what the screen sends, and the records it becomes.

One declaration a kind. The screen knows answers by the place at which they were shown (0 is A, 1 is B, …);
records know them by the place at which they are stored. Only this module turns one into the other.
A kind's form is the template and the script of its name; its loss is chosen by its records
(`loopwright.feedback.pairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from loopwright.errors import DataError
from loopwright.schemas import (
    Attack,
    Comparison,
    Correction,
    Demonstration,
    Judgement,
    Message,
    Ranking,
    Rating,
    Record,
    Span,
    SpanFeedback,
    Strength,
    Thumb,
)

if TYPE_CHECKING:
    from loopwright.feedback.projects import ProjectConfig

LONGEST = 20_000  # characters of a text that a labeler writes
PART = "."  # between a label's uid and what of it one of its records holds: no uid that the app takes has it


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
    improved: str | None = Field(default=None, min_length=1, max_length=LONGEST)  # the better answer, made better still

    @model_validator(mode="after")
    def _is_one_verdict(self) -> Self:
        if self.both_bad and self.choice is not None:
            raise ValueError("both_bad is a tie; choice must be null")
        if self.choice is None and self.strength is not None:
            raise ValueError("a choice comes with its strength, a tie without one")
        if self.improved is not None and self.choice is None:
            raise ValueError("only the better answer is improved; choose one")
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


@dataclass(frozen=True)
class Kind:
    """One kind of feedback.

    Args:
        answer: what the form sends.
        records: what it becomes, given the item as shown and the fields that all records share.
        responses: how many an item may have, the fewest and the most.
        makes: the files its records belong in, the first always.
        written: the item is made by the labeler, in a conversation with the model.
    """

    answer: type[Answer]
    records: Callable[..., list[Record]]
    responses: tuple[int, int]
    makes: tuple[str, ...]
    written: bool = False


def _comparison(answer: ComparisonAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    stored = {shown: place for shown, place in enumerate(asked.order)}

    def turned(choice: Literal[0, 1] | None) -> Any:
        return None if choice is None else stored[choice]

    safe = None if answer.safe is None else tuple(answer.safe[asked.order.index(place)] for place in (0, 1))
    records: list[Record] = [
        Comparison(
            responses=(asked.responses[0], asked.responses[1]),
            choice=turned(answer.choice),
            strength=answer.strength,
            both_bad=answer.both_bad,
            safe=safe if safe is None else (safe[0], safe[1]),
            criteria={name: turned(choice) for name, choice in answer.criteria.items()},
            **about,
        )
    ]
    chosen = turned(answer.choice)
    if answer.improved is not None and answer.improved != asked.responses[chosen]:
        about = {**about, "id": f"{about['id']}{PART}improved"}
        records.append(Correction(responses=asked.responses, chosen=chosen, edited=answer.improved, **about))
    return records


def _rankings(answer: RankingAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    named: list[tuple[str | None, tuple[int, ...]]] = [*answer.criteria.items()]
    if answer.ranks is not None:
        named.insert(0, (None, answer.ranks))
    return [
        Ranking(
            responses=asked.responses,
            ranks=tuple(ranks[asked.order.index(place)] for place in range(len(ranks))),
            criterion=criterion,
            **{**about, "id": about["id"] if criterion is None else f"{about['id']}{PART}{criterion}"},
        )
        for criterion, ranks in named
    ]


def _ratings(answer: RatingAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    low, high = asked.project.scale
    kept = {"responses": (asked.responses[0],), "scale_low": low, "scale_high": high, "checks": answer.checks}
    return [Rating(scores=answer.scores, higher_is_better=asked.project.higher_is_better, **kept, **about)]


def _thumb(answer: ThumbAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    return [Thumb(responses=(asked.responses[0],), good=answer.good, **about)]


def _demonstration(answer: DemonstrationAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    kept = {name: about[name] for name in ("id", "prompt", "annotator", "created")}
    return [Demonstration(response=answer.response, **kept)]


def _correction(answer: CorrectionAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    chosen = asked.order[answer.chosen]
    return [Correction(responses=asked.responses, chosen=chosen, edited=answer.edited, **about)]


def _spans(answer: SpansAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    return [SpanFeedback(responses=(asked.responses[0],), spans=answer.spans, **about)]


def _attack(answer: AttackAnswer, asked: Asked, about: Mapping[str, Any]) -> list[Record]:
    return [Attack(responses=(asked.responses[0],), broke=answer.broke, harm=answer.harm, **about)]


FORMS: Mapping[str, Kind] = {
    "comparison": Kind(ComparisonAnswer, _comparison, (2, 2), ("comparisons", "corrections")),
    "ranking": Kind(RankingAnswer, _rankings, (2, 9), ("rankings",)),
    "rating": Kind(RatingAnswer, _ratings, (1, 1), ("ratings",)),
    "thumb": Kind(ThumbAnswer, _thumb, (1, 1), ("thumbs",)),
    "demonstration": Kind(DemonstrationAnswer, _demonstration, (0, 0), ("demonstrations",)),
    "correction": Kind(CorrectionAnswer, _correction, (1, 9), ("corrections",)),
    "spans": Kind(SpansAnswer, _spans, (1, 1), ("spans",)),
    "chat": Kind(ThumbAnswer, _thumb, (1, 1), ("thumbs",), written=True),
    "red_team": Kind(AttackAnswer, _attack, (1, 1), ("attacks",), written=True),
}


def read_answer(kind: str, given: Any, asked: Asked) -> Answer:
    """Check what a form sent.

    Raises:
        ValueError: it is not what the kind's form sends (pydantic's ValidationError is one), or does not fit the item.
    """
    answer = FORMS[kind].answer.model_validate(given)
    answer.check(asked)
    answer.check_complete(asked)
    return answer


def to_records(kind: str, answer: Answer, asked: Asked, **about: Any) -> list[Record]:
    """The records of one label; `about` are the fields that all kinds share (id, annotator, seconds, …)."""
    said = {"rationale": answer.reason, "reasons": answer.reasons}
    shared: dict[str, Any] = {"prompt": asked.prompt, "order_shown": asked.order, **said, **about}
    records = FORMS[kind].records(answer, asked, shared)
    assert all(isinstance(record, Judgement | Demonstration) for record in records)
    return records


def check_item(kind: str, responses: Sequence[str], where: str) -> None:
    """Raises DataError where an item has too few or too many responses for the kind."""
    fewest, most = FORMS[kind].responses
    if not fewest <= len(responses) <= most:
        needed = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise DataError(f"{where}: has {len(responses)} responses, a {kind} needs {needed}")


def _known(names: Mapping[str, Any] | Sequence[str], known: Sequence[str]) -> None:
    if stray := next((name for name in names if name not in known), None):
        raise ValueError(f"{stray!r} is not one of {', '.join(known) or 'none'}")
