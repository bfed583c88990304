"""Our own JSON lines, of any mixture of records."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from loopwright.data.importers.base import Importer, Notes, Row, Settings, Unreadable
from loopwright.schemas import (
    Attack,
    Comparison,
    Correction,
    Demonstration,
    Prompt,
    Ranking,
    Rating,
    Record,
    SpanFeedback,
    Thumb,
)

# A field that only this kind has, and always.
KINDS: dict[str, type[Record]] = {
    "choice": Comparison,
    "ranks": Ranking,
    "scores": Rating,
    "good": Thumb,
    "broke": Attack,
    "edited": Correction,
    "spans": SpanFeedback,
    "messages": Prompt,
    "response": Demonstration,
}


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    row.read.update(row.values)
    yield record_of(row.values)


def record_of(values: Mapping[str, Any]) -> Record:
    """The record that a row is, told by its fields.

    Raises:
        Unreadable: it is no record.
    """
    kind = next((kind for field, kind in KINDS.items() if field in values), None)
    if kind is None:
        raise Unreadable(f"none of the fields that tell our records apart ({', '.join(KINDS)}) is there")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Unreadable(reason_of(error)) from None


def reason_of(error: ValidationError) -> str:
    """The first thing that is wrong with a record."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))[:100]
    message = first["msg"].removeprefix("Value error, ")[:300]
    return f'"{field}": {message}' if field else message


LOOPWRIGHT = Importer(convert, "Loopwright's own JSON lines")
