"""What a file is to those who read its rows, and how much of it they take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from loopwright.errors import DataError

MAX_ROW_BYTES = 16 * 2**20
MAX_EXPANSION = 200  # of a .gz or Parquet file; dialogues shrink to a third or a tenth
FREE_BYTES = 64 * 2**20  # a small file may expand to this, whatever its ratio


class Limits(NamedTuple):
    """How much of a file is taken, beyond what holds for every file; None: all of it."""

    file_bytes: int | None = None
    unpacked_bytes: int | None = None  # of a .gz file's content, or of all rows of a Parquet file
    rows: int | None = None
    records_bytes: int | None = None  # of all files of an import together, as our records


# Of what people send through a browser.
UPLOADED = Limits(file_bytes=64 * 2**20, unpacked_bytes=512 * 2**20, rows=200_000, records_bytes=2**30)


class Item(NamedTuple):
    """One row, or why it is none."""

    number: int  # counted from 1: the line, the item of an array, the row of a Parquet file
    values: dict[str, Any] | None
    raw: Callable[[], str]  # the row as it stands in the file, or close to that
    problem: str = ""
    cells: bool = False  # the values are cells of a table that has texts alone


class Source:
    """An open file.

    Args:
        total: bytes on the disk, or rows of a Parquet file; `position()` counts in the same unit.
    """

    def __init__(self, total: int, position: Callable[[], int], items: Iterator[Item]) -> None:
        self.total = total
        self.position = position
        self.items = items


def item_of(number: int, values: Any, raw: Callable[[], str], problem: str = "") -> Item:
    if not problem and not isinstance(values, dict):
        problem = f"{type(values).__name__}, not an object with named fields"
    return Item(number, None if problem else values, raw, problem)


def shown(values: Any) -> Callable[[], str]:
    """A row as `Item.raw` gives it."""

    def dump() -> str:
        try:
            return json.dumps(values, ensure_ascii=False, default=str)
        except (RecursionError, ValueError, TypeError):
            return "(nested too deeply to be shown)"

    return dump


def too_large_when_unpacked(path: Path, size: int) -> DataError:
    return DataError(
        f"{path}: expands to more than {MAX_EXPANSION} times its {size:,} bytes, as no text does; "
        "if you trust it, unpack it yourself (Parquet: write it as JSON lines) and import that"
    )


def within(path: Path, limits: Limits, items: Iterator[Item]) -> Iterator[Item]:
    """
    Raises:
        DataError: there are more rows than may be.
    """
    for count, item in enumerate(items, start=1):
        if limits.rows is not None and count > limits.rows:
            raise DataError(f"{path}:{item.number}: more than {limits.rows:,} rows; split the file")
        yield item


def check_expansion(path: Path, size: int, unpacked: int, limits: Limits) -> None:
    """
    Args:
        size: of the file, in bytes.
        unpacked: bytes that came out of it so far.

    Raises:
        DataError: that is more than the file could honestly hold, or than the limits allow.
    """
    if unpacked > max(FREE_BYTES, MAX_EXPANSION * size):
        raise too_large_when_unpacked(path, size)
    check_unpacked(path, unpacked, limits)


def check_unpacked(path: Path, unpacked: int, limits: Limits) -> None:
    """
    Raises:
        DataError: so many bytes are more than the limits allow.
    """
    if limits.unpacked_bytes is not None and unpacked > limits.unpacked_bytes:
        raise DataError(f"{path}: unpacks to more than {limits.unpacked_bytes:,} bytes; split the file")
