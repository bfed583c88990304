"""The rows of a file, one after the other, in memory that no file can fill.

JSON lines, one JSON array, CSV, TSV and Parquet; the first four also as .gz. What is no row is given with the reason,
so that the rows after it are read all the same.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from loopwright.data.importers.items import (
    MAX_ROW_BYTES,
    Item,
    Limits,
    Source,
    check_expansion,
    item_of,
    shown,
    within,
)
from loopwright.data.readers import damage_named
from loopwright.errors import DataError

if TYPE_CHECKING:
    from _csv import Reader as _CsvReader  # what csv.reader returns; the name is known to type checkers alone

MAX_DEPTH = 500  # of a row; a conversation of 100 turns as a tree has 200 levels
MAX_COLUMNS = 1000


def require_file(path: Path) -> None:
    """
    Raises:
        DataError: there is no such file, or it is a folder.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder; name the files in it' if path.is_dir() else 'no such file'}")


@contextmanager
def open_source(path: Path, limits: Limits = Limits()) -> Iterator[Source]:
    """Rows of a file, by the ending of its name.

    Raises:
        DataError: there is no such file, its format is unknown, it is damaged, it expands to more than
            MAX_EXPANSION times its size, it goes beyond the limits; while reading, too.
    """
    require_file(path)
    size = path.stat().st_size
    if limits.file_bytes is not None and size > limits.file_bytes:
        raise DataError(f"{path}: {size:,} bytes, more than {limits.file_bytes:,}; split the file")
    ending = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if path.suffix.lower() == ".parquet":
        from loopwright.data.importers.parquet import open_parquet  # its libraries are heavy, and few files need them

        with open_parquet(path, limits) as source:
            yield Source(source.total, source.position, within(path, limits, source.items))
        return
    if ending not in _READERS:
        known = ", ".join([*_READERS, ".parquet"])
        raise DataError(f"{path}: unknown format; give {known} (or their .gz, but for .parquet)")
    with damage_named(path):
        content = _Bytes(path, limits)
    try:
        items = within(path, limits, _guarded(path, content, _READERS[ending]))
        yield Source(content.size, content.position, items)
    finally:
        content.close()


def _guarded(path: Path, content: _Bytes, reader: _Reader) -> Iterator[Item]:
    with damage_named(path):
        yield from reader(path, content)


class _Bytes:
    """The content of a plain or gzipped file, with a limit on how far it expands."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._limits = limits
        self._raw = path.open("rb")
        self._file: BinaryIO = gzip.GzipFile(fileobj=self._raw) if path.suffix == ".gz" else self._raw  # type: ignore[assignment]
        self._given = 0

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(size))

    def readline(self, size: int) -> bytes:
        return self._counted(self._file.readline(size))

    def starts_with(self, mark: bytes) -> bool:
        """Whether this is the first thing after a byte order mark and white space; consumes the former."""
        start = self._file.peek(1024)  # type: ignore[attr-defined]
        if start.startswith(codecs.BOM_UTF8):
            self._file.read(len(codecs.BOM_UTF8))
            start = start[len(codecs.BOM_UTF8) :]
        return start.lstrip().startswith(mark)

    def position(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def lines(self) -> Iterator[tuple[int, bytes | None]]:
        """(number, line) of all lines that are not blank; None stands for one that is too long."""
        number = 0
        while line := self.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = self.readline(2**20)
                yield number, None
            elif stripped := line.strip():
                yield number, stripped

    def _counted(self, data: bytes) -> bytes:
        self._given += len(data)
        if self._file is not self._raw:
            check_expansion(self.path, self.size, self._given, self._limits)
        return data


def _json(path: Path, content: _Bytes) -> Iterator[Item]:
    return _array(path, content) if content.starts_with(b"[") else _json_lines(content)


def _json_lines(content: _Bytes) -> Iterator[Item]:
    decode = json.JSONDecoder(parse_constant=_no_constant).decode
    for number, line in content.lines():
        if line is None:
            yield Item(number, None, str, f"a line of more than {MAX_ROW_BYTES:,} bytes")
            continue
        problem, values = "", None
        try:
            values = decode(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 (byte {error.start + 1} of the line)"
        except RecursionError:
            problem = "nested too deeply"
        except ValueError as error:
            problem = f"not JSON ({error})"[:200]
        if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _is_too_deep(values):
            problem = "nested too deeply"
        yield item_of(number, values, _decoded(line), problem)


def _is_too_deep(values: Any) -> bool:
    level = [values]
    for _ in range(MAX_DEPTH):
        level = [
            inside
            for outer in level
            if isinstance(outer, (dict, list))
            for inside in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(value, (dict, list)) for value in level)


def _array(path: Path, content: _Bytes) -> Iterator[Item]:
    import ijson  # only arrays need it

    within = _WithinItem(path, content)
    items = _built(ijson.basic_parse(within, use_float=True, buf_size=2**14))  # the events of one buffer are in memory
    number = 0
    while True:
        try:
            values = next(items, _END)
        except (ijson.JSONError, ValueError, OverflowError) as error:
            why = " ".join(str(error).split())[:120]
            raise DataError(
                f"{path}: the array cannot be read after item {number} ({why}); export it again, or mend it there"
            ) from error
        if values is _END:
            return
        number += 1
        within.beginitem_of()
        yield item_of(number, values, shown(values), "nested too deeply" if values is _TOO_DEEP else "")


_END, _TOO_DEEP = object(), object()


def _built(events: Iterator[tuple[str, Any]]) -> Iterator[Any]:
    """The items of an array; _TOO_DEEP for one of more than MAX_DEPTH levels.

    ijson's own builder keeps the path to where it is as one text, which takes time by the square of the depth.
    """
    next(events)  # the array begins
    builder = _Builder()
    for event, value in events:
        if builder.take(event, value):
            yield _TOO_DEEP if builder.cut else builder.value
            builder.cut = False


class _Builder:
    """Puts an item together from the parser's events."""

    def __init__(self) -> None:
        self.value: Any = None  # what was completed last
        self.cut = False  # something of the item was left out
        self._opened: list[Any] = []  # the containers that are open within the item
        self._keys: list[str] = []  # of each, where the next value goes if it is an object
        self._below = 0  # open containers that are left out

    def take(self, event: str, value: Any) -> bool:
        """Whether that was the end of an item."""
        if event == "map_key":
            if not self._below:
                self._keys[-1] = value
            return False
        return self._end() if event in ("end_map", "end_array") else self._begin(event, value)

    def _begin(self, event: str, value: Any) -> bool:
        container = event in ("start_map", "start_array")
        if self._below or (container and len(self._opened) == MAX_DEPTH):
            self._below += container
            self.cut = True
            return False
        if container:
            value = {} if event == "start_map" else []
        if self._opened and isinstance(self._opened[-1], dict):
            self._opened[-1][self._keys[-1]] = value
        elif self._opened:
            self._opened[-1].append(value)
        if container:
            self._opened.append(value)
            self._keys.append("")
            return False
        self.value = value
        return not self._opened

    def _end(self) -> bool:
        if self._below:
            self._below -= 1
            return False
        if not self._opened:  # the array itself ends
            return False
        self.value = self._opened.pop()
        self._keys.pop()
        return not self._opened


class _WithinItem:
    """Gives the parser the file, as long as no item grows too large."""

    def __init__(self, path: Path, content: _Bytes) -> None:
        self._path, self._content = path, content
        self._item, self._read = 1, 0

    def beginitem_of(self) -> None:
        self._item, self._read = self._item + 1, 0

    def read(self, size: int) -> bytes:
        data = self._content.read(size)
        self._read += len(data)
        if self._read > MAX_ROW_BYTES + size:
            raise DataError(
                f"{self._path}: item {self._item} has more than {MAX_ROW_BYTES:,} bytes; "
                "split the array, or take that item out"
            )
        return data


def _csv(path: Path, content: _Bytes) -> Iterator[Item]:
    return _table(path, content, csv.reader(_text_lines(path, content), strict=True))


def _tsv(path: Path, content: _Bytes) -> Iterator[Item]:
    """Quotes are letters: a tab or a line break has no place in a cell, so nothing needs them."""
    lines = _text_lines(path, content)
    return _table(path, content, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _table(path: Path, content: _Bytes, reader: _CsvReader) -> Iterator[Item]:
    """Cells are texts, formulas too: nothing is computed from them. Line breaks may stand inside quotes of CSV.

    A quote that opens by mistake swallows the rows after it; where that shows, it is said and never read as one text.
    """
    content.starts_with(b"")
    before = csv.field_size_limit(MAX_ROW_BYTES)  # the library keeps one limit for all readers
    try:
        names = _header(path, next(reader, []))
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(
                        f"{path}:{number}: a quote opens in this row and is not closed by the end of the file; "
                        'close it, or double a " that is part of the text'
                    ) from error
                lines = f"lines {number} to {reader.line_num}: " if reader.line_num > number else ""
                yield Item(number, None, str, f"not CSV ({lines}{error})"[:200])
                continue
            if cells is None:
                return
            if not cells:
                continue
            yield _cells(number, names, cells)
    except csv.Error as error:
        raise DataError(f"{path}: the header cannot be read ({error}); is this a table?") from error
    finally:
        csv.field_size_limit(before)


def _header(path: Path, names: list[str]) -> list[str]:
    if not names:
        raise DataError(f"{path}: no header; the first row of a table names its columns")
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{path}: {len(names):,} columns, more than {MAX_COLUMNS:,}; is this a table?")
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f'{path}: two columns are named "{min(twice)[:60]}"; rename one')
    return names


def _cells(number: int, names: list[str], cells: list[str]) -> Item:
    if len(cells) != len(names):
        return Item(number, None, shown(cells), f"{len(cells)} cells, but the header names {len(names)} columns")
    try:
        for cell in cells:
            cell.encode()
    except UnicodeEncodeError:
        return Item(number, None, shown(cells), "not UTF-8")
    # A table has no other way to say that there is no value than an empty cell.
    values = {name: cell or None for name, cell in zip(names, cells, strict=True)}
    return Item(number, values, shown(cells), cells=True)


def _text_lines(path: Path, content: _Bytes) -> Iterator[str]:
    number = 0
    while line := content.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise DataError(f"{path}:{number}: a line of more than {MAX_ROW_BYTES:,} bytes; is this a table?")
        yield line.decode("utf-8", errors="surrogateescape")


def _decoded(line: bytes) -> Callable[[], str]:
    return lambda: line[:8000].decode(errors="replace")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_Reader = Callable[[Path, _Bytes], Iterator[Item]]
_READERS: dict[str, _Reader] = {
    ".jsonl": _json,
    ".json": _json,
    ".ndjson": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
