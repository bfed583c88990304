"""From files of a format to files of our records, row by row: nothing is kept but counts."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from loopwright.data.importers.alpaca_eval import references
from loopwright.data.importers.base import Importer, Notes, Row, Settings, Unreadable
from loopwright.data.importers.items import MAX_ROW_BYTES, Item, Limits, Source
from loopwright.data.importers.own import reason_of
from loopwright.data.importers.sources import open_source, require_file
from loopwright.data.importers.table import IMPORTERS
from loopwright.data.readers import BadRow, Quarantine
from loopwright.errors import ConfigError, DataError
from loopwright.schemas import KINDS, Record
from loopwright.tracking.files import disk_full_is_an_error, publish, sha256_file

if TYPE_CHECKING:  # its package loads torch, which no import of feedback needs
    from loopwright.runtime.display import Display

FILES = {record: f"{kind}.jsonl" for kind, record in KINDS.items()}
PLACES = ".places"  # the ending of files that say where records came from
TRIED = 1000  # rows that are all bad at the start of an import: this is another format
MAX_RECORDS_BYTES = 4 * MAX_ROW_BYTES  # that a row's records may have: each repeats the prompt
SHOWN_EVERY = 256  # rows between two moves of the progress bar


@dataclass
class ImportReport:
    """What came in and what came out; import.json holds the same."""

    format: str
    columns: dict[str, str]
    where: dict[str, str]
    sources: list[dict[str, Any]] = field(default_factory=list)  # {path, sha256, bytes, rows}
    rows: int = 0
    bad_rows: int = 0
    bad_rows_file: str | None = None
    records: dict[str, int] = field(default_factory=dict)  # file name -> records
    warnings: dict[str, dict[str, Any]] = field(default_factory=dict)  # reason -> {count, first}
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)
    fields_left: dict[str, int] = field(default_factory=dict)  # field that has no place in a record -> rows with it


def import_feedback(  # noqa: PLR0913 -- what is read, and what the user says about it
    format: str,
    paths: Sequence[Path],
    out: Path,
    *,
    columns: Mapping[str, str] | None = None,
    reference: Path | None = None,
    where: Mapping[str, str] | None = None,
    max_bad_share: float = 0.05,
    limits: Limits = Limits(),
    places: bool = False,
    bad_rows: Path | None = None,
    display: Display | None = None,
) -> ImportReport:
    """Read feedback in one of IMPORTERS' formats; write comparisons.jsonl, rankings.jsonl, … and import.json.

    Memory does not grow with the files. Bad rows go to a file as they come; the folder `out` appears
    when all is done, whole or not at all.

    Args:
        paths: .jsonl, .json (an array, too), .csv, .tsv, their .gz, or .parquet.
        out: a folder that does not exist yet, or is empty.
        columns: role -> the name it has in these files, for formats that leave names open.
        reference: of "alpaca-eval": the answers that the rows were compared with.
        where: only rows with these values of top-level fields are imported, such as {"split": "train"}.
        max_bad_share: more than this share of bad rows is an error.
        limits: of each file; `UPLOADED` is for those of people who are not known.
        bad_rows: their file; none: "<out>.bad_rows.jsonl".
        places: beside each file of records, comparisons.places and so on say line by line where they came from.

    Raises:
        ConfigError: an unknown format, or a setting that the format does not have.
        DataError: a file is missing, damaged, hostile or beyond the limits, too many rows are bad, or nothing is in it;
            `out` exists and is not empty.
    """
    importer = _importer(format)
    settings = _settings(format, importer, columns or {}, reference, limits)
    if not paths:
        raise ConfigError("no file to import; name one or more")
    bad_file = _bad_rows_file(out, bad_rows, [*paths, *([reference] if reference else [])])
    quarantine = Quarantine(bad_file, max_bad_share, kept=20)
    report = ImportReport(format, dict(settings.columns), dict(where or {}))
    notes = Notes()
    with _written_whole(out) as folder:
        with ExitStack() as files, disk_full_is_an_error(out):
            writer = _Writer(folder, files, limits.records_bytes, places)
            for path, name in zip(paths, _names(paths), strict=True):
                read = _File(importer, settings, report.where, notes, quarantine)
                with open_source(path, limits) as source, progress(display, f"import {path.name}", source.total) as bar:
                    rows = read.into(writer, path, name, source, bar)
                size = path.stat().st_size
                report.sources.append({"path": str(path), "sha256": sha256_file(path), "bytes": size, "rows": rows})
        quarantine.check()
        if not writer.counts:
            skipped = "; ".join(f"{noted.count} × {reason}" for reason, noted in notes.skipped.items())
            raise DataError(
                f"{paths[0]}: no feedback in {quarantine.rows} rows" + (f" ({skipped})" if skipped else "")
                + f"; {format} reads {importer.reads}"
            )  # fmt: skip
        report.rows, report.bad_rows = quarantine.rows, quarantine.count
        report.bad_rows_file = str(bad_file) if quarantine.count else None
        report.records = dict(writer.counts)
        report.warnings = {reason: asdict(noted) for reason, noted in notes.warnings.items()}
        report.skipped = {reason: asdict(noted) for reason, noted in notes.skipped.items()}
        report.fields_left = dict(sorted(notes.fields_left.items()))
        text = json.dumps(asdict(report), indent=1) + "\n"  # ASCII: names in a file may hold anything
        (folder / "import.json").write_text(text, encoding="utf-8")
    return report


def imported_records(folder: Path) -> Iterator[tuple[str, Record]]:
    """What an import with `places` wrote: where each record came from ("file:line") and the record, kind by kind."""
    for record, name in FILES.items():
        file = folder / name
        if file.is_file():
            with file.open(encoding="utf-8") as lines, file.with_suffix(PLACES).open(encoding="utf-8") as places:
                for line, place in zip(lines, places, strict=True):
                    yield json.loads(place), record.model_validate_json(line)


class _File:
    """Reads one file."""

    def __init__(
        self, importer: Importer, settings: Settings, where: Mapping[str, str], notes: Notes, quarantine: Quarantine
    ) -> None:
        self._importer, self._settings, self._where = importer, settings, where
        self._notes, self._quarantine = notes, quarantine

    def into(self, writer: _Writer, path: Path, name: str, source: Source, advance: Callable[..., None]) -> int:
        """Returns the number of rows, bad ones included."""
        quarantine = self._quarantine
        before, shown = quarantine.rows, 0
        for item in source.items:
            try:
                writer.write(self._lines(item, path, name), f"{path}:{item.number}")
                quarantine.good()
            except Unreadable as error:
                quarantine.set_aside(BadRow(str(path), item.number, str(error)), item.raw())
            if quarantine.rows == quarantine.count == TRIED and quarantine.max_bad_share < 1:
                first = quarantine.bad[0]
                raise DataError(
                    f"{first.where}: {first.reason}; the first {TRIED} rows are all bad: another format? "
                    f"(this one reads {self._importer.reads}); all are listed in {quarantine.path}"
                )
            if quarantine.rows % SHOWN_EVERY == 0:
                position = source.position()
                advance(position - shown, rows=quarantine.rows - before, bad=quarantine.count)
                shown = position
        advance(max(0, source.total - shown), rows=quarantine.rows - before, bad=quarantine.count)
        return quarantine.rows - before

    def _lines(self, item: Item, path: Path, name: str) -> list[tuple[type[Record], str]]:
        """The records of a row as JSON; all or none, so that a row is good or bad.

        Raises:
            Unreadable: with the reason.
        """
        if item.values is None:
            raise Unreadable(item.problem)
        row = Row(item.values, f"{name}:{item.number}", f"{path}:{item.number}", item.cells)
        self._notes.where = row.where
        for key, wanted in self._where.items():
            if _spelled(row.get(key)) != wanted:
                self._notes.skip(f"{key} is not {wanted}")
                return []
        try:
            lines, length = [], 0
            for record in self._importer.convert(row, self._notes, self._settings):
                lines.append((type(record), _line(record)))
                length += len(lines[-1][1])
                if length > MAX_RECORDS_BYTES:
                    raise Unreadable(f"records of more than {MAX_RECORDS_BYTES:,} bytes, for each repeats the prompt")
        except ValidationError as error:
            raise Unreadable(reason_of(error)) from None
        if lines:
            self._notes.leave(row)
        return lines


def _spelled(value: Any) -> str:
    """A value as a person writes it after --where FIELD=."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else ""


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _line(record: Record) -> str:
    try:
        line = record.model_dump_json()
    except (PydanticSerializationError, UnicodeEncodeError):
        raise Unreadable("half of a surrogate pair, which has no UTF-8 form") from None
    if "\\u0000" in line and _NUL.search(line):
        raise Unreadable("a NUL character, which is no text")
    return line


@contextmanager
def progress(display: Display | None, description: str, total: int) -> Iterator[Callable[..., None]]:
    """How a bar moves on, where somebody watches."""
    if display is None:
        yield lambda n, **shown: None
    else:
        with display.progress(description, total) as bar:
            yield bar.advance


class _Writer:
    """A file of each kind of record, opened when the first one comes."""

    def __init__(self, folder: Path, files: ExitStack, max_bytes: int | None, places: bool) -> None:
        self._folder, self._files = folder, files
        self._left, self._places = max_bytes, places
        self._open: dict[Path, BinaryIO] = {}
        self.counts: dict[str, int] = {}

    def write(self, lines: Sequence[tuple[type[Record], str]], where: str) -> None:
        """
        Raises:
            DataError: all records together would have more bytes than they may.
        """
        for kind, line in lines:
            file = self._folder / FILES[kind]
            content = line.encode() + b"\n"
            if self._left is not None:
                self._left -= len(content)
                if self._left < 0:
                    raise DataError(
                        f"{where}: the records have too many bytes; import the files one by one, or split them"
                    )
            self._add(file, content)
            if self._places:
                self._add(file.with_suffix(PLACES), json.dumps(where).encode() + b"\n")
            self.counts[file.name] = self.counts.get(file.name, 0) + 1

    def _add(self, file: Path, content: bytes) -> None:
        if file not in self._open:
            self._open[file] = self._files.enter_context(file.open("wb"))
        self._open[file].write(content)


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends well, and goes when it does not."""
    out = out if out.name not in ("", "..") else out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        publish(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bad_rows_file(out: Path, given: Path | None, sources: Sequence[Path]) -> Path:
    """Where the bad rows go: beside `out`, or where told. What an earlier import left there goes, unless it is read.

    Raises:
        DataError: `out` is taken, a source is missing, or the file would take the place of a source.
    """
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out}: is there and not empty; name a new folder")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a new folder")
    named = out if out.name not in ("", "..") else out.resolve()  # "." has no name that another could go with
    bad_file = given or named.with_name(f"{named.name}.bad_rows.jsonl")
    for source in sources:
        require_file(source)
        if bad_file.exists() and bad_file.samefile(source):
            raise DataError(
                f"{source}: the bad rows of this import would replace it; rename it, or name another folder"
            )
    return bad_file


def _importer(format: str) -> Importer:
    if format not in IMPORTERS:
        raise ConfigError(f"format {format}: unknown; choose from {', '.join(IMPORTERS)}")
    return IMPORTERS[format]


def _settings(
    format: str, importer: Importer, columns: Mapping[str, str], reference: Path | None, limits: Limits
) -> Settings:
    for role in columns:
        if role not in importer.columns:
            known = f"it has {', '.join(importer.columns)}" if importer.columns else "its names are fixed"
            raise ConfigError(f"--columns {role}: {format} has no such role; {known}")
    if reference is None:
        return Settings(dict(importer.columns) | dict(columns))
    if not importer.takes_references:
        raise ConfigError(f"--reference {reference}: {format} rows carry both answers; leave it out")
    with open_source(reference, limits) as source:
        return Settings(dict(importer.columns) | dict(columns), references(_whole_rows(reference, source.items)))


def _whole_rows(path: Path, items: Iterator[Item]) -> Iterator[Row]:
    for item in items:
        if item.values is None:
            raise DataError(f"{path}:{item.number}: {item.problem}; repair the row, or take it out")
        yield Row(item.values, "", f"{path}:{item.number}")


def _names(paths: Sequence[Path]) -> list[str]:
    """What the records of a file are called, by its name; files of one name are numbered."""
    stems = [path.name.removesuffix(".gz").rpartition(".")[0] for path in paths]
    return [stem if stems.count(stem) == 1 else f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]
