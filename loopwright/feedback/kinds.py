"""The kinds of feedback that people can give: what the screen sends, and the records it becomes.

One declaration a kind: with a script for its form on the screen that is all. The loss is chosen by the records
(`loopwright.feedback.pairs`). The screen knows answers by the place at which they were shown (0 is A, 1 is B, …);
records know them by the place at which they are stored. Only this module turns one into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from loopwright.errors import DataError
from loopwright.feedback.forms import (
    Answer,
    Asked,
    AttackAnswer,
    ComparisonAnswer,
    CorrectionAnswer,
    DemonstrationAnswer,
    RankingAnswer,
    RatingAnswer,
    SpansAnswer,
    ThumbAnswer,
)
from loopwright.schemas import (
    Attack,
    Comparison,
    Correction,
    Demonstration,
    Judgement,
    Ranking,
    Rating,
    Record,
    SpanFeedback,
    Thumb,
)

PART = "."  # between a label's uid and what of it one of its records holds: no uid that the app takes has it


@dataclass(frozen=True)
class Kind:
    """One kind of feedback.

    Args:
        answer: what the form sends.
        records: what it becomes, given the item as shown and the fields that all records share.
        responses: how many an item may have, the fewest and the most.
        makes: the files its records belong in, the first always; the loss is theirs (`loopwright.feedback.pairs`).
        task: what a labeler is asked to do.
        about: what a manager chooses.
        settings: those of a project that only some kinds use.
        selections: what can be asked next, beside items drawn at random.
        votes: what the verdicts that people agree on, or not, are called.
        quick_gold: what is the right answer, at one press.
        written: the item is made by the labeler, in a conversation with the model.
    """

    answer: type[Answer]
    records: Callable[..., list[Record]]
    responses: tuple[int, int]
    makes: tuple[str, ...]
    task: str
    about: str
    settings: frozenset[str]
    selections: frozenset[str] = frozenset()
    votes: Mapping[int, str] = field(default_factory=dict)
    quick_gold: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
            strengths=answer.strengths,
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
    usual = asked.project.higher_is_better
    own = {name: asked.project.is_high_good(name) for name in answer.scores}
    kept = {"responses": (asked.responses[0],), "scale_low": low, "scale_high": high, "checks": answer.checks}
    kept["directions"] = {name: high_is_good for name, high_is_good in own.items() if high_is_good != usual}
    return [Rating(scores=answer.scores, higher_is_better=usual, **kept, **about)]


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


_EXPLAINED = frozenset({"reasons", "blur"})
_WITH_A_MODEL = frozenset({"responder", "reply_tokens"})
_THUMB = {0: "bad", 1: "good"}

FORMS: Mapping[str, Kind] = {
    "comparison": Kind(
        ComparisonAnswer, _comparison, (2, 2), ("comparisons", "corrections"),
        task="Compare two answers",
        about="Which of two answers is better, and how much.",
        settings=_EXPLAINED | {"criteria", "criteria_strengths", "safety", "improve", "reason_when_significant"},
        selections=frozenset({"uncertainty", "closeness", "disagreement"}),
        votes={-1: "the first is better", 0: "a tie", 1: "the second is better"},
        quick_gold={
            "The first": {"choice": 0, "strength": "better"},
            "The second": {"choice": 1, "strength": "better"},
            "Neither": {"choice": None},
        },
    ),
    "ranking": Kind(
        RankingAnswer, _rankings, (2, 9), ("rankings",),
        task="Put answers in order",
        about="Two to nine answers in order, with ties.",
        settings=_EXPLAINED | {"criteria"},
        selections=frozenset({"uncertainty", "closeness", "disagreement"}),
    ),
    "rating": Kind(
        RatingAnswer, _ratings, (1, 1), ("ratings",),
        task="Rate answers",
        about="Marks for one answer, on each criterion.",
        settings=_EXPLAINED | {"criteria", "checks", "scale", "higher_is_better"},
        selections=frozenset({"uncertainty", "disagreement"}),
    ),
    "thumb": Kind(
        ThumbAnswer, _thumb, (1, 1), ("thumbs",),
        task="Say whether answers are good",
        about="One answer: good or bad.",
        settings=_EXPLAINED,
        selections=frozenset({"uncertainty", "disagreement"}),
        votes=_THUMB,
        quick_gold={"Good": {"good": True}, "Bad": {"good": False}},
    ),
    "demonstration": Kind(
        DemonstrationAnswer, _demonstration, (0, 0), ("demonstrations",),
        task="Write answers",
        about="People write the answer that should have been given.",
        settings=frozenset({"blur"}),
    ),
    "correction": Kind(
        CorrectionAnswer, _correction, (1, 9), ("corrections",),
        task="Correct answers",
        about="People edit the best of the answers.",
        settings=_EXPLAINED,
        selections=frozenset({"uncertainty"}),
    ),
    "spans": Kind(
        SpansAnswer, _spans, (1, 1), ("spans",),
        task="Mark passages in answers",
        about="People mark what is the matter with an answer, passage by passage.",
        settings=_EXPLAINED | {"span_labels"},
        selections=frozenset({"uncertainty", "disagreement"}),
        votes={0: "nothing is wrong", 1: "something is wrong"},
    ),
    "chat": Kind(
        ThumbAnswer, _thumb, (1, 1), ("thumbs",),
        task="Talk with a model",
        about="People talk to a model, and give its answers a thumb up or down.",
        settings=_WITH_A_MODEL,
        votes=_THUMB,
        written=True,
    ),
    "red_team": Kind(
        AttackAnswer, _attack, (1, 1), ("attacks",),
        task="Try to break a model",
        about="People try to make a model misbehave, and say whether it did.",
        settings=_WITH_A_MODEL,
        votes={0: "it held", 1: "it broke"},
        written=True,
    ),
}  # fmt: skip


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
