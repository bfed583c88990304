"""Argilla's exports: flat rows of a Hugging Face data set, or one JSON array of nested records."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from loopwright.data.importers.base import Fields, Importer, Notes, Row, Settings, Unreadable, note_same, user
from loopwright.schemas import Comparison, Correction, Message, Ranking, Rating, Record, Span, SpanFeedback

# Questions and fields have the names that the project gave them.
COLUMNS = {
    "prompt": "instruction",
    "response": "response",  # the one answer that is rated, marked or rewritten
    "ranking": "ranking",  # the question about the whole; other questions of ranks are criteria
    "correction": "correction",
    "scale": "1-5",  # of rating questions; the best is the highest
}


class Answer(NamedTuple):
    question: str
    given: Fields  # with a "value"
    person: str | None


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """What each person said: rankings (a comparison where there are two), ratings, marked spans, rewritten answers."""
    nested = row.has("fields")
    fields = row.inside("fields") if nested else row
    answers = list(_nested(row, notes) if nested else _flat(row, notes))
    if not answers:
        notes.skip("a record without a submitted answer")
        return
    prompt = user(fields.text_or_none(settings.column("prompt")) or "")
    name = row.name_of("id") or row.name
    marking = {answer.question for answer in answers if _each_has(answer.given.get("value"), "label")}
    counted = Counter[str]()
    for answer in answers:
        counted[answer.question] += 1
        about = {"id": f"{name}/{answer.question}/{counted[answer.question]}", "annotator": answer.person}
        if answer.given.get("value") == [] and answer.question not in marking:
            notes.skip("an empty list: unmarked text or no ranks, which only other answers to the question could tell")
            continue
        yield from _record(answer, fields, prompt, settings, notes, about)


def _record(
    answer: Answer, fields: Fields, prompt: tuple[Message, ...], settings: Settings, notes: Notes, about: dict[str, Any]
) -> Iterator[Record]:
    value, column = answer.given.get("value"), settings.column
    if _each_has(value, "rank"):
        yield _ranking(answer, fields, prompt, settings, notes, about)
    elif value == [] or _each_has(value, "label"):
        found = tuple(
            Span(start=item.whole("start", 0, 2**31), end=item.whole("end", 0, 2**31), label=item.text("label"))
            for item in answer.given.objects("value")
        )
        responses = (fields.text(column("response")),)
        yield SpanFeedback(prompt=prompt, responses=responses, spans=found, **about)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = _scale(column("scale"))
        yield Rating(
            prompt=prompt,
            responses=(fields.text(column("response")),),
            scores={answer.question: Fields({answer.question: value}).whole(answer.question, low, high)},
            scale_low=low,
            scale_high=high,
            higher_is_better=True,
            **about,
        )
    elif isinstance(value, str) and answer.question == column("correction"):
        response = fields.text(column("response"))
        if value == response:
            notes.skip("a correction that changes nothing")
            return
        yield Correction(prompt=prompt, responses=(response,), edited=value, **about)
    else:
        notes.skip("an answer that is neither ranks, a rating, spans nor a correction")


def _each_has(value: Any, key: str) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and key in item for item in value)


def _ranking(
    answer: Answer,
    fields: Fields,
    prompt: tuple[Message, ...],
    settings: Settings,
    notes: Notes,
    about: dict[str, Any],
) -> Comparison | Ranking:
    places = answer.given.objects("value")
    ranks = [place.whole("rank", 1, 1000) for place in places]
    responses = tuple(fields.text(place.text("value")) for place in places)  # values name the fields of the answers
    note_same(responses, notes)
    overall = answer.question == settings.column("ranking")
    if len(places) == 2 and overall:
        choice = None if ranks[0] == ranks[1] else int(ranks[0] > ranks[1])
        return Comparison.model_validate({"prompt": prompt, "responses": responses, "choice": choice, **about})
    criterion = None if overall else answer.question
    return Ranking(prompt=prompt, responses=responses, ranks=tuple(ranks), criterion=criterion, **about)


def _flat(row: Row, notes: Notes) -> Iterator[Answer]:
    """Columns "<question>.responses", ".responses.users" and ".responses.status", lists side by side."""
    for key in row.values:
        if not key.endswith(".responses"):
            continue
        values, users, states = (row.items(f"{key}{part}") for part in ("", ".users", ".status"))
        if len(users) not in (0, len(values)) or len(states) not in (0, len(values)):
            raise Unreadable(f'"{key[:60]}" has {len(values)} answers, {len(users)} users and {len(states)} states')
        for place, value in enumerate(values):
            if _submitted(states[place] if states else None, notes):
                given = Fields({"value": value}, f"{key}.{place}.")
                row.below.setdefault(key, []).append(given)
                yield Answer(key.removesuffix(".responses"), given, _person(users[place] if users else None))


def _nested(row: Row, notes: Notes) -> Iterator[Answer]:
    """responses: {question: [{value, user_id}]}."""
    if not row.has("responses"):
        return
    responses = row.inside("responses")
    for question in responses.values:
        for given in responses.objects(question):
            if _submitted(given.get("status"), notes):
                yield Answer(question, given, _person(given.get("user_id")))
            else:
                given.ignore()


def _submitted(state: Any, notes: Notes) -> bool:
    if state is None:
        notes.warn("an answer without a status: a draft cannot be told from what was submitted")
        return True
    if state != "submitted":
        notes.skip(f"an answer that is a {state[:20]}" if isinstance(state, str) else "an answer of unknown status")
        return False
    return True


def _person(value: Any) -> str | None:
    return None if value is None else str(value)[:200]


def _scale(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and int(low) < int(high)):
        raise Unreadable(f"the scale {text[:20]!r} is not two whole numbers such as 1-5; set it with --columns scale=")
    return int(low), int(high)


ARGILLA = Importer(
    convert, 'rows {"<field>", "<question>.responses", …} or an array of {"fields", "responses"}', COLUMNS
)
