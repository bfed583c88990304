"""What people said in other tools, as labels of a project: from records back to what its form would have sent.

The people who said it become annotators of their own, whom nobody can log in as, called after the tool and their name
there: "imported:label-studio/7". What a record says that no answer can hold is left out, and counted (`lost`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from pydantic import ValidationError

from loopwright.errors import DataError
from loopwright.feedback.asking import items_to_judge
from loopwright.feedback.forms import Answer, Asked
from loopwright.feedback.items import Item
from loopwright.feedback.kinds import FORMS, check_item
from loopwright.feedback.projects import ProjectConfig
from loopwright.schemas import (
    IMPORTED,
    KINDS,
    Comparison,
    Correction,
    Demonstration,
    Judgement,
    Ranking,
    Rating,
    Record,
    SpanFeedback,
    Thumb,
    is_ai,
)

SHOWN_OF_A_NAME = 40  # of one that is too long or cannot be printed; its hash tells it from others
LONGEST_NAME = 80
_NO_PLACE = ("margin", "probability", "weight", "guideline", "reward_model", "selection_probability")


class Row(NamedTuple):
    """A record, and where it came from."""

    where: str  # file:line
    record: Record


class Given(NamedTuple):
    """What one person said of one item, in one or several records: a ranking by each criterion, for instance."""

    item: Item
    annotator: str | None
    rows: tuple[Row, ...]


Refuse = Callable[[Row, str], None]  # told of a record that brings no label, and why


def items_about(record: Record, kind: str) -> Iterator[Item]:
    """What a project of this kind asks about a record's answers. Their order does not matter: a question is asked once.

    Raises:
        ValueError: it has too many answers for the kind, or a field of the item is none.
    """
    tags = {"imported": str(getattr(record, "id", ""))}
    if kind == "demonstration":
        messages = getattr(record, "prompt", ()) or getattr(record, "messages", ())
        found = items_to_judge(kind, messages, (), policy=None, tags=tags) if messages else iter(())
    elif isinstance(record, Judgement):
        order = sorted(range(len(record.responses)), key=lambda place: record.responses[place])
        strange = [place for place, stored in enumerate(order) if stored in record.off_topic]
        responses = [record.responses[place] for place in order]
        found = items_to_judge(
            kind, record.prompt, responses, policy=record.policy, tags=tags, off_topic=strange
        )  # fmt: skip
    elif isinstance(record, Demonstration):
        found = items_to_judge(kind, record.prompt, (record.response,), policy=None, tags=tags)
    else:
        return
    for item in found:
        try:
            check_item(kind, item.responses, "the record")
        except DataError as error:
            raise ValueError(str(error)) from None
        yield item


def labels_among(rows: Iterable[Row], config: ProjectConfig, refuse: Refuse) -> Iterator[Given]:
    """What was said of whole items of the project. Records of other kinds are passed over: they bring items alone.

    Records of one person about one item are one label where they stand together and are about different criteria.
    """
    said = KINDS[FORMS[config.kind].makes[0]]
    mine = ((row, _item_judged(row.record, config.kind)) for row in rows if isinstance(row.record, said))
    for _, group in groupby(mine, key=lambda pair: pair[1].key if isinstance(pair[1], Item) else None):
        people: dict[str | None, Given] = {}
        for row, item in group:
            who = getattr(row.record, "annotator", None)
            before = people.get(who)
            if isinstance(item, str):
                refuse(row, item)
            elif is_ai(who):
                refuse(row, "a model said it, which counts as no person")
            elif before is not None and any(_aspects(row.record) & _aspects(one.record) for one in before.rows):
                refuse(row, "whoever said this judged the same answers in an earlier row")
            elif (problem := _problem(row.record, item, config)) is not None:
                refuse(row, problem)
            else:
                people[who] = Given(item, who, (*(before.rows if before else ()), row))
        yield from people.values()


def answer_to(given: Given, responses: Sequence[str], config: ProjectConfig) -> tuple[Answer, Asked, bool]:
    """The label of an item whose responses are stored in this order: the answer, the item as it was seen, and whether
    that order is known; where it is not, the order is that of the responses.

    Raises:
        ValueError: the answer does not fit the project.
    """
    first = given.rows[0].record
    texts = getattr(first, "responses", ()) if responses else ()
    shown = getattr(first, "order_shown", None) if len(texts) > 1 else tuple(range(len(texts)))
    seen = [texts[place] for place in shown] if shown is not None else list(responses)
    answer: dict[str, Any] = {}
    for row in given.rows:
        _on_the_scale(row.record, config)
        texts = getattr(row.record, "responses", ()) if responses else ()
        for name, value in _answer_of(row.record, [texts.index(text) for text in seen]).items():
            answer[name] = {**answer[name], **value} if isinstance(value, dict) and name in answer else value
    order = tuple(responses.index(text) for text in seen)
    asked = Asked(given.item.prompt, tuple(responses), order, config)
    read = FORMS[config.kind].answer.model_validate(answer)
    read.check(asked)
    return read, asked, shown is not None


def account_name(tool: str, annotator: str | None) -> str:
    """Whom labels of another tool count as: "imported:argilla/ann". What came out of a store keeps its name."""
    if annotator is None:
        return f"{IMPORTED}{tool}"
    name = annotator if annotator.startswith(IMPORTED) else f"{IMPORTED}{tool}/{annotator}"
    if len(name) <= LONGEST_NAME and name.isprintable():
        return name
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    return f"{shown[:SHOWN_OF_A_NAME]}… {hashlib.sha256(annotator.encode()).hexdigest()[:16]}"


def said_at(record: Record, now: float) -> float:
    """When it was said, in seconds since 1970; `now` where that is not told, no time, or still to come."""
    try:
        told = datetime.fromisoformat(str(getattr(record, "created", None)))
        at = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return now
    return at if 0 <= at <= now else now


def reason_of(error: ValueError) -> str:
    """What is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:100]
        return f"{place}: {first['msg'].removeprefix('Value error, ')[:300]}".removeprefix(": ")
    return " ".join(str(error).split())[:300]


def lost(record: Record) -> Iterator[str]:
    """The fields of a record that a label has no place for."""
    for name in _NO_PLACE:
        field = type(record).model_fields.get(name)
        if field is not None and getattr(record, name) != field.default:
            yield name


def _item_judged(record: Record, kind: str) -> Item | str:
    """The one item that a record of the project's own kind is about, or why there is none."""
    try:
        found = list(items_about(record, kind))
    except ValueError as error:
        return reason_of(error)
    responses = () if isinstance(record, Demonstration) else getattr(record, "responses", ())
    if len(found) != 1 or len(found[0].responses) != len(responses):
        return "two of its answers are the same text, so nobody is asked about them"
    return found[0]


def _problem(record: Record, item: Item, config: ProjectConfig) -> str | None:
    try:
        answer_to(Given(item, None, (Row("", record),)), item.responses, config)
    except ValueError as error:
        return reason_of(error)
    return None


def _aspects(record: Record) -> set[str | None]:
    """What of an item a record is about."""
    match record:
        case Ranking():
            return {record.criterion}
        case Rating():
            return {*record.scores, *record.checks}
    return {None}


def _on_the_scale(record: Record, config: ProjectConfig) -> None:
    """Raises ValueError where a rating is on another scale than the project's."""
    if isinstance(record, Rating):
        scale, names = (record.scale_low, record.scale_high), list(record.scores) or [""]
        turned = [name for name in names if record.is_high_good(name) != config.is_high_good(name)]
        if scale != tuple(config.scale) or turned:
            (low, high), name = config.scale, (turned or names)[0]
            by = f" by {name}" if 0 < len(turned) < len(names) else ""
            raise ValueError(
                f"is on the scale {scale[0]} to {scale[1]}, {_best(record.is_high_good(name))}{by}; the project's is "
                f"{low} to {high}, {_best(config.is_high_good(name))}{by}"
            )


def _best(higher: bool) -> str:
    return "the highest best" if higher else "the lowest best"


def _answer_of(record: Record, shown: Sequence[int]) -> dict[str, Any]:
    """What the form would have sent; `shown[0]` is the place in the record of the response shown first."""
    said = _by_place(record, shown)
    rationale, reasons = getattr(record, "rationale", None), getattr(record, "reasons", ())
    return said | ({"reason": rationale} if rationale else {}) | ({"reasons": reasons} if reasons else {})


def _by_place(record: Record, shown: Sequence[int]) -> dict[str, Any]:
    def place(stored: int | None) -> int | None:
        return None if stored is None else shown.index(stored)

    match record:
        case Comparison():
            safe = None if record.safe is None else [record.safe[stored] for stored in shown]
            criteria = {name: place(choice) for name, choice in record.criteria.items()}
            beside = {"both_bad": record.both_bad, "safe": safe, "criteria": criteria, "strengths": record.strengths}
            return {"choice": place(record.choice), "strength": record.strength, **beside}
        case Ranking():
            levels = sorted(set(record.ranks))  # other tools leave ranks out after a tie
            ranks = [1 + levels.index(record.ranks[stored]) for stored in shown]
            return {"ranks": ranks} if record.criterion is None else {"criteria": {record.criterion: ranks}}
        case Rating():
            return {"scores": record.scores, "checks": record.checks}
        case Thumb():
            return {"good": record.good}
        case Correction():
            return {"chosen": place(record.chosen), "edited": record.edited}
        case SpanFeedback():
            return {"spans": record.spans}
        case Demonstration():
            return {"response": record.response}
    raise AssertionError(f"{type(record).__name__} is what no form makes")
