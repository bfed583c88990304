"""What an importer is, and how it reads fields of rows that may hold anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from loopwright.schemas import Comparison, Message, Record

MAX_REASONS = 50  # distinct ones; a hostile file must not fill the memory with them
MAX_FIELDS_NAMED = 200
LARGEST = 1e300  # of numbers; Python's whole numbers have no end, and NaN is not smaller either
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_SPEAKERS = ("system", "user", "assistant")
_TURN = {"role", "content"}
_TRUTH = {"true": True, "1": True, "good": True, "up": True, "yes": True}
_TRUTH |= {"false": False, "0": False, "bad": False, "down": False, "no": False}


class Unreadable(ValueError):
    """Why a row gives no records. The row is set aside with this reason."""


class Fields:
    """A JSON object read field by field. It remembers which were read, its own and those of the objects in it, so that
    what nothing has asked for can be counted (`Notes.leave`); errors name the field.

    Args:
        cells: the values are cells of a table that has texts alone, so numbers and booleans are spelled.

    Raises:
        Unreadable: from every method, when the field is missing (unless it may be) or of another type.
    """

    __slots__ = ("below", "cells", "path", "read", "values")

    def __init__(self, values: Mapping[str, Any], path: str = "", cells: bool = False) -> None:
        self.values = values
        self.cells = cells
        self.path = path
        self.read: set[str] = set()
        self.below: dict[str, list[Fields]] = {}  # key -> the objects that were taken from there

    def get(self, key: str) -> Any:
        """The value as it is; None where there is none."""
        self.read.add(key)
        return self.values.get(key)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self.get(key) is None else self.text(key)

    def name_of(self, key: str) -> str | None:
        """Who or what: a text, or the number by which some tools name people."""
        value = self.get(key)
        if value is None or value == "":
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(key)

    def number(self, key: str) -> float | None:
        """A finite number, or None where there is none. Booleans are no numbers."""
        value = self.get(key)
        if value is None:
            return None
        if self.cells:
            return self.spelled_number(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST < value < LARGEST:
            raise self.wrong(key, "a finite number")
        return float(value)

    def whole(self, key: str, low: int, high: int) -> int:
        value = self.number(key) if self.cells else self.get(key)
        if isinstance(value, float) and value.is_integer():  # tables store whole numbers as 3.0
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        """Absent is false."""
        value = self.get(key)
        if self.cells and value is not None:
            return self.spelled_truth(key)
        if not isinstance(value, (bool, type(None))):
            raise self.wrong(key, "true or false")
        return bool(value)

    def spelled_number(self, key: str) -> float | None:
        """A number, or a text that spells one; None where there is none, or white space."""
        value = self.get(key)
        if not isinstance(value, str):
            return self.number(key)
        if not value.strip():
            return None
        try:
            number = float(value)
        except ValueError:
            raise self.wrong(key, "a number") from None
        if not -LARGEST < number < LARGEST:
            raise self.wrong(key, "a finite number")
        return number

    def spelled_truth(self, key: str) -> bool:
        """A boolean, or a text or number of _TRUTH."""
        value = self.get(key)
        if isinstance(value, bool):
            return value
        spelled = str(value).strip().casefold() if isinstance(value, (str, int)) else ""
        if spelled not in _TRUTH:
            raise self.wrong(key, "one of " + ", ".join(_TRUTH))
        return _TRUTH[spelled]

    def items(self, key: str) -> Sequence[Any]:
        """Absent is empty."""
        value = self.get(key)
        if not isinstance(value, (list, type(None))):
            raise self.wrong(key, "a list")
        return value or []

    def inside(self, key: str) -> Fields:
        return self._inside(key, self.get(key))

    def spelled_object(self, key: str) -> Fields:
        """An object, or one that a text spells as JSON."""
        return self._inside(key, self._spelled(key))

    def objects(self, key: str) -> Sequence[Fields]:
        return self._objects(key, self.items(key))

    def messages(self, key: str) -> tuple[Message, ...]:
        """A conversation from [{role, content}, …], or from a text that spells it as JSON."""
        values = self._spelled(key)
        if not isinstance(values, list):
            raise self.wrong(key, "a list of messages")
        if all(_is_plain(value) for value in values):  # nearly always, and faster
            return tuple(Message(role=value["role"], content=value["content"]) for value in values)
        found = []
        for turn in self._objects(key, values):
            role = turn.text("role")
            if role not in _SPEAKERS:
                raise Unreadable(f'"{turn.path}role" is {role[:40]!r}, not system, user or assistant')
            found.append(Message.model_validate({"role": role, "content": turn.text("content")}))
        return tuple(found)

    def ignore(self, *keys: str) -> None:
        """These fields, or all, are not counted one by one: as a whole they are, or they say nothing of their own."""
        for key in keys or self.values:
            self.read.add(key)
            self.below.pop(key, None)

    def _inside(self, key: str, value: Any) -> Fields:
        if key not in self.below:
            if not isinstance(value, dict):
                raise self.wrong(key, "an object")
            self.below[key] = [Fields(value, f"{self.path}{key}.")]
        return self.below[key][0]

    def _objects(self, key: str, values: Sequence[Any]) -> list[Fields]:
        if key not in self.below:
            found = []
            for number, value in enumerate(values):
                if not isinstance(value, dict):
                    raise Unreadable(f'"{self.path}{key}.{number}" is {_kind(value)}, not an object')
                found.append(Fields(value, f"{self.path}{key}.{number}."))
            self.below[key] = found
        return self.below[key]

    def _spelled(self, key: str) -> Any:
        value = self.get(key)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise Unreadable(f'"{self.path}{key}" is text that is not JSON') from None

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def wrong(self, key: str, wanted: str) -> Unreadable:
        if self.has(key):
            value = self.values[key]
            shown = repr(value)[:40] if isinstance(value, (int, float)) else _kind(value)
            return Unreadable(f'"{self.path}{key}" is {shown}, not {wanted}')
        present = [name for name in self.values if self.has(name)][:8]
        found = ", ".join(f'"{str(name)[:40]}"' for name in present) or "nothing"
        return Unreadable(f'no "{self.path}{key}"; found {found}')


class Row(Fields):
    """One row of a file."""

    __slots__ = ("name", "where")

    def __init__(self, values: Mapping[str, Any], name: str, where: str, cells: bool = False) -> None:
        super().__init__(values, cells=cells)
        self.name = name  # the id of a record that has none of its own: "hh_harmless:12"
        self.where = where  # "data/hh_harmless.jsonl.gz:12"


@dataclass
class Noted:
    count: int = 0
    first: str = ""  # where it was seen first


@dataclass
class Notes:
    """What was noticed on the way: counted by reason, with the first place of each.

    A warning is about a row that was read and deserves a look; what is skipped is no feedback by its format's own
    rules (a draft, a declined item), so it is no bad row either.
    """

    where: str = ""  # the row being read
    warnings: dict[str, Noted] = field(default_factory=dict)
    skipped: dict[str, Noted] = field(default_factory=dict)
    fields_left: dict[str, int] = field(default_factory=dict)  # of rows that were read -> how many rows had a value

    def warn(self, reason: str) -> None:
        self._count(self.warnings, reason)

    def skip(self, reason: str) -> None:
        self._count(self.skipped, reason)

    def leave(self, row: Fields) -> None:
        """Count the fields of a row that nothing has asked for, those inside others by their dotted names.

        The items of a list go by the name of the list, and replies to replies by the name of replies: each name
        counts once in a row.
        """
        left: set[str] = set()
        _unread(row, "", left)
        for name in left:
            if name not in self.fields_left and len(self.fields_left) >= MAX_FIELDS_NAMED:
                name = "other fields"
            self.fields_left[name] = self.fields_left.get(name, 0) + 1

    def _count(self, noted: dict[str, Noted], reason: str) -> None:
        reason = reason[:120]
        if reason not in noted and len(noted) >= MAX_REASONS:
            reason = "other reasons"
        found = noted.setdefault(reason, Noted(first=self.where))
        found.count += 1


def _unread(fields: Fields, start: str, found: set[str]) -> None:
    """Add the names of what nothing has asked for. It runs for every object that was read: it has to be fast."""
    values, read = fields.values, fields.read
    if not read.issuperset(values):
        for key in values:
            if key not in read and values[key] not in _NOTHING:
                found.add(f"{start}{key}"[:100])
    if fields.below:
        for key, inside in fields.below.items():
            repeated = start and f".{start}".endswith(f".{key}.")
            for one in inside:
                _unread(one, start if repeated else f"{start}{key}.", found)


@dataclass(frozen=True)
class Settings:
    """What a user says about a file whose format leaves names open."""

    columns: Mapping[str, str] = field(default_factory=dict)  # role -> the name it has in the file
    references: Mapping[str, str] = field(default_factory=dict)  # instruction -> reference answer

    def column(self, role: str) -> str:
        return self.columns[role]


Convert = Callable[[Row, Notes, Settings], Iterable[Record]]


@dataclass(frozen=True)
class Importer:
    """One format.

    Args:
        convert: the records of one row; raises Unreadable.
        columns: roles that `columns` may rename, with the names they have by default.
        takes_references: a second file holds the answers that the rows were compared with.
    """

    convert: Convert
    reads: str
    columns: Mapping[str, str] = field(default_factory=dict)
    takes_references: bool = False


def user(text: str) -> tuple[Message, ...]:
    """A prompt of one user message; an empty text is no prompt."""
    return (Message(role="user", content=text),) if text else ()


def shared_turns(first: Sequence[Message], second: Sequence[Message]) -> int:
    """How many messages two conversations have in common at their start."""
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


def written_by(policies: Sequence[str | None], notes: Notes) -> dict[str, Any]:
    """`policy` where one policy wrote all answers, `policies` where each answer's is known."""
    if len(set(policies)) == 1:
        return {"policy": policies[0]}
    if None in policies:
        notes.warn("who wrote some of the answers is known, but not who wrote the others; left out")
        return {}
    return {"policies": tuple(policies)}


def note_same(responses: Sequence[str], notes: Notes) -> None:
    if len(set(responses)) < len(responses):
        notes.warn("answers of the same text")


def choice_of(probability: float) -> Literal[0, 1] | None:
    """What a probability that the first is better says of the choice; one half is a tie."""
    if probability == 0.5:
        return None
    return 0 if probability > 0.5 else 1


def comparison_of_two(better: str, worse: str, notes: Notes, **about: Any) -> Comparison:
    """Formats of the columns chosen and rejected: the better answer is stored first."""
    note_same((better, worse), notes)
    return Comparison(responses=(better, worse), choice=0, **about)


def _is_plain(value: Any) -> bool:
    """Whether it is a message, and nothing more."""
    return (
        isinstance(value, dict)
        and value.keys() == _TURN
        and value["role"] in _SPEAKERS
        and isinstance(value["content"], str)
    )


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true/false", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), type(value).__name__)
