"""From a file of our records to one of another format, row by row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from loopwright.data.exporters.base import Account, Exporter, Row
from loopwright.data.exporters.flat import CellType, columns
from loopwright.data.exporters.table import EXPORTERS
from loopwright.data.importers.base import Unreadable
from loopwright.data.importers.own import record_of
from loopwright.data.importers.run import progress
from loopwright.data.importers.sources import open_source
from loopwright.errors import ConfigError, DataError
from loopwright.schemas import Record
from loopwright.tracking.files import disk_full_is_an_error, sync_folder

if TYPE_CHECKING:
    from loopwright.runtime.display import Display

ROWS_AT_ONCE = 1000  # in a batch of a Parquet file
_ENDINGS = {
    "jsonl": (".jsonl", ".jsonl.gz"),
    "json": (".json", ".json.gz"),
    "csv": (".csv", ".csv.gz"),
    "parquet": (".parquet",),
}


class ExportReport(NamedTuple):
    format: str
    source: str
    out: str
    account: Account


def export_feedback(format: str, path: Path, out: Path, *, display: Display | None = None) -> ExportReport:
    """Write the records of a JSON lines file in one of EXPORTERS' formats, and say what does not fit into it.

    Args:
        path: our own records, as `import_feedback` and the stages write them; .gz or not.
        out: a file that does not exist yet; it appears when it is whole.

    Raises:
        ConfigError: the format is unknown, or the name of `out` does not end as its files do.
        DataError: a row of `path` is no record (file:line), is of a kind that the format has no place for, or of
            another kind than the rows before it where the format is a table; nothing is left to export; `out` exists.
    """
    if format not in EXPORTERS:
        raise ConfigError(f"format {format}: unknown; choose from {', '.join(EXPORTERS)}")
    exporter = EXPORTERS[format]
    if not out.name.endswith(_ENDINGS[exporter.container]):
        raise ConfigError(f"--out {out}: {format} is written to {' or '.join(_ENDINGS[exporter.container])}")
    if out.exists():
        raise DataError(f"{out}: is there already; name a new file")
    account = Account()
    kept = _fields_of_all(path, exporter)
    with _written_whole(out) as file, _WRITERS[exporter.container](file) as write:
        for record in _records(path, exporter, display):
            account.count(record, exporter.keeps[type(record)] | kept)
            for row in exporter.rows(record, account, kept):
                write(type(record), row)
                account.rows += 1
        if not account.rows:
            why = "; ".join(f"{count} × {reason}" for reason, count in account.left_out.items()) or "it is empty"
            raise DataError(f"{path}: nothing to export ({why})")
    return ExportReport(format, str(path), str(out), account)


def _fields_of_all(path: Path, exporter: Exporter) -> frozenset[str]:
    """Those of `where_all` that no record lacks; takes a pass of its own over the file."""
    kept = set(exporter.where_all)
    if kept:
        for record in _records(path, exporter, None):
            kept -= {name for name in kept if getattr(record, name, None) is None}
            if not kept:
                break
    return frozenset(kept)


def _records(path: Path, exporter: Exporter, display: Display | None) -> Iterator[Record]:
    first: type[Record] | None = None
    position = 0
    with open_source(path) as source, progress(display, f"export {path.name}", source.total) as advance:
        for item in source.items:
            where = f"{path}:{item.number}"
            if item.values is None:
                raise DataError(f"{where}: {item.problem}; list every bad line: loopwright data check {path}")
            try:
                record = record_of(item.values)
            except Unreadable as error:
                raise DataError(f"{where}: {error}; list every bad line: loopwright data check {path}") from error
            kind = type(record)
            if kind not in exporter.keeps:
                known = ", ".join(kind.__name__ for kind in exporter.keeps)
                raise DataError(f"{where}: a {kind.__name__}, but this format holds {known}; export another file")
            first = first or kind
            if exporter.container in ("csv", "parquet") and kind is not first:
                raise DataError(
                    f"{where}: a {kind.__name__} among {first.__name__} records; a table has one kind, split the file"
                )
            yield record
            if item.number % 256 == 0:
                advance(source.position() - position)
                position = source.position()
        advance(max(0, source.total - position))


@contextmanager
def _written_whole(out: Path) -> Iterator[BinaryIO]:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.partial")
    with disk_full_is_an_error(out):
        try:
            with temporary.open("wb") as file:
                if out.suffix == ".gz":
                    with gzip.GzipFile(
                        filename="", mode="wb", fileobj=file, mtime=0
                    ) as packed:  # same rows, same bytes
                        yield packed  # type: ignore[misc]
                else:
                    yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, out)
            sync_folder(out.parent)
        finally:
            temporary.unlink(missing_ok=True)


Write = Callable[[type[Record], Row], None]


@contextmanager
def _json_lines(file: BinaryIO) -> Iterator[Write]:
    def write(kind: type[Record], row: Row) -> None:
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    yield write


@contextmanager
def _json_array(file: BinaryIO) -> Iterator[Write]:
    before = b"["

    def write(kind: type[Record], row: Row) -> None:
        nonlocal before
        file.write(before + json.dumps(row, ensure_ascii=False).encode())
        before = b",\n"

    yield write
    file.write(b"]\n")


@contextmanager
def _csv(file: BinaryIO) -> Iterator[Write]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer: csv.DictWriter[str] | None = None

    def write(kind: type[Record], row: Row) -> None:
        nonlocal writer
        if writer is None:
            writer = csv.DictWriter(text, fieldnames=list(row))
            writer.writeheader()
        writer.writerow(row)

    yield write
    text.detach()  # flushed; the file is closed where it was opened


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    import pyarrow
    import pyarrow.parquet

    cells: dict[CellType, pyarrow.DataType] = {
        "text": pyarrow.string(),
        "number": pyarrow.float64(),
        "whole": pyarrow.int64(),
        "flag": pyarrow.bool_(),
    }
    writer: pyarrow.parquet.ParquetWriter | None = None
    batch: list[Row] = []

    def write(kind: type[Record], row: Row) -> None:
        nonlocal writer
        if writer is None:
            schema = pyarrow.schema([(name, cells[cell]) for name, cell in columns(kind).items()])
            writer = pyarrow.parquet.ParquetWriter(file, schema)
        batch.append(row)
        if len(batch) == ROWS_AT_ONCE:
            flush()

    def flush() -> None:
        if writer is not None and batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=writer.schema))
            batch.clear()

    yield write
    flush()
    if writer is not None:
        writer.close()


_WRITERS = {"jsonl": _json_lines, "json": _json_array, "csv": _csv, "parquet": _parquet}
