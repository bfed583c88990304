"""Tables of any make: the user says which column is what."""

from collections.abc import Iterator
from typing import Any

from loopwright.data.importers.base import (
    Importer,
    Notes,
    Row,
    Settings,
    Unreadable,
    choice_of,
    note_same,
    user,
)
from loopwright.data.importers.choices import read_choice
from loopwright.schemas import Attack, Comparison, Demonstration, Message, Prompt, Record, Thumb

ROLES = (
    "id", "prompt", "messages", "chosen", "rejected", "response_a", "response_b", "choice", "probability", "strength",
    "margin", "weight", "response", "good", "annotator", "seconds", "guideline", "policy", "reward_model",
    "selection_probability", "created", "rationale", "both_bad", "broke", "harm",
)  # fmt: skip
COLUMNS = {role: role for role in ROLES} | {"first": "a", "second": "b", "tie": "tie"}


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """A comparison, an attack, a thumb, a demonstration or a prompt, by the columns that have a value in the row."""
    prompt = _prompt(row, settings)
    name = {"id": row.name_of(settings.column("id")) or row.name}
    pair = _pair(row, notes, settings)
    if pair is not None:
        note_same(pair, notes)
        about = name | {"prompt": prompt, "responses": pair} | _choice(row, settings) | _about(row, settings)
        yield Comparison.model_validate(about)
    elif any(row.has(settings.column(role)) for role in ("response", "good", "broke")):
        yield _about_one(row, notes, settings, name | {"prompt": prompt})
    elif prompt:
        yield Prompt(**name, messages=prompt)
    else:
        reason = row.wrong(settings.column("prompt"), "text")
        raise Unreadable(f"{reason}; say what the columns are called: --columns prompt=…, chosen=…, rejected=…, …")


def _about_one(row: Row, notes: Notes, settings: Settings, about: dict[str, Any]) -> Record:
    """An attack, a thumb or a demonstration: what the row says of its one answer."""
    response, good, broke = (settings.column(role) for role in ("response", "good", "broke"))
    text = _answer(row, response, notes)
    if row.has(broke):
        said = {"broke": row.spelled_truth(broke), "harm": row.spelled_number(settings.column("harm"))}
        return Attack.model_validate(about | {"responses": (text,)} | said | _judgement(row, settings))
    if row.has(good):
        said = {"good": row.spelled_truth(good)}
        return Thumb.model_validate(about | {"responses": (text,)} | said | _judgement(row, settings))
    return Demonstration(
        response=text, **about, **{key: row.name_of(settings.column(key)) for key in ("annotator", "created")}
    )


def _prompt(row: Row, settings: Settings) -> tuple[Message, ...]:
    key = settings.column("messages")
    if not row.has(key) or row.values[key] == "":
        return user(row.text_or_none(settings.column("prompt")) or "")
    return row.messages(key)


def _pair(row: Row, notes: Notes, settings: Settings) -> tuple[str, str] | None:
    """(first, second) answer, or None where the row compares nothing."""
    for one, other in (("chosen", "rejected"), ("response_a", "response_b")):
        if row.has(settings.column(one)) or row.has(settings.column(other)):
            return _answer(row, settings.column(one), notes), _answer(row, settings.column(other), notes)
    return None


def _answer(row: Row, key: str, notes: Notes) -> str:
    """The text of an answer that must be there, for the row says more about it."""
    if row.cells and key in row.values and not row.has(key):  # so answers without text are written
        row.get(key)
        notes.warn("an empty cell where an answer should be is read as an answer without text")
        return ""
    return row.text(key)


def _choice(row: Row, settings: Settings) -> dict[str, Any]:
    """`choice` of a pair; of columns a and b it is given, or follows from the probability that a is better."""
    probability = row.spelled_number(settings.column("probability"))
    key = settings.column("choice")
    if row.has(settings.column("chosen")):
        return {"choice": 0, "probability": probability}
    if row.has(key):
        return {"choice": read_choice(row.get(key), settings), "probability": probability}
    if probability is None:
        raise row.wrong(key, "the better answer")
    return {"choice": choice_of(probability), "probability": probability}


def _about(row: Row, settings: Settings) -> dict[str, Any]:
    found = _judgement(row, settings)
    found |= {key: row.spelled_number(settings.column(key)) for key in ("margin", "weight")}
    found["strength"] = row.name_of(settings.column("strength"))
    if row.has(settings.column("both_bad")):
        found["both_bad"] = row.spelled_truth(settings.column("both_bad"))
    return {key: value for key, value in found.items() if value is not None}


def _judgement(row: Row, settings: Settings) -> dict[str, Any]:
    texts = ("annotator", "guideline", "policy", "reward_model", "created")
    found: dict[str, Any] = {key: row.name_of(settings.column(key)) for key in texts}
    found["rationale"] = row.text_or_none(settings.column("rationale"))
    return found | {key: row.spelled_number(settings.column(key)) for key in ("seconds", "selection_probability")}


COLUMN_MAP = Importer(convert, "JSON lines, CSV, TSV or Parquet with named columns", COLUMNS)
