"""Records into a store's project, with what others said of them; and what was said there, as records."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from loopwright.cli.display import on_stderr
from loopwright.data.importers import ImportReport, import_feedback, imported_records
from loopwright.data.readers import BadRow, Quarantine
from loopwright.errors import ConfigError, DataError
from loopwright.feedback.imported import Row, items_about, labels_among, lost, reason_of
from loopwright.feedback.items import Item
from loopwright.feedback.kinds import FORMS
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.imported import Imported, import_labels
from loopwright.feedback.store.items import publish_all
from loopwright.feedback.store.labels import records
from loopwright.feedback.store.migrate import open_store
from loopwright.feedback.store.projects import Project, find_project
from loopwright.schemas import KINDS

BY_WHOM = "import"  # the batch


class Brought(NamedTuple):
    """What an import brought into a project."""

    new: int  # items
    known: int
    labels: int = 0
    labels_known: int = 0
    bad_labels: int = 0
    bad_labels_file: str | None = None
    lost: Mapping[str, int] = {}  # fields of records that labels have no place for

    def told(self, project: str) -> Iterator[str]:
        """Lines for a person."""
        yield f"project {project}: {self.new:,} new items, {self.known:,} were there"
        if self.labels or self.labels_known:
            yield f"project {project}: {self.labels:,} new labels, imported; {self.labels_known:,} were there"
        if self.lost:
            yield "no place in labels: " + ", ".join(f"{name} ({count:,})" for name, count in self.lost.items())
        if self.bad_labels:
            yield f"{self.bad_labels:,} records bring nothing, listed in {self.bad_labels_file}"


def import_into_project(
    store: str, project: str, format: str, files: Sequence[Path], with_labels: bool, settings: Mapping[str, Any]
) -> tuple[ImportReport, Brought]:
    """Files of another tool into a project. What is bad is listed in the working folder, under the first file's name.

    Raises:
        DataError: a list of what is bad would take the place of a file that is read.
    """
    bad_rows, bad_labels = (Path(f"{files[0].name}.bad_{what}.jsonl") for what in ("rows", "labels"))
    if any(bad_labels.exists() and file.exists() and bad_labels.samefile(file) for file in files):
        raise DataError(f"{bad_labels}: what is bad would be listed there; rename the file before you import it")
    with on_stderr() as display, TemporaryDirectory() as temporary:
        folder = Path(temporary) / "records"
        report = import_feedback(
            format, files, folder, **settings, places=True, bad_rows=bad_rows, display=display
        )  # fmt: skip
        quarantine = Quarantine(bad_labels, settings["max_bad_share"], kept=20)
        brought = _bring(store, project, folder, tool=format, with_labels=with_labels, quarantine=quarantine)
    return report, brought


def _bring(store: str, project: str, folder: Path, *, tool: str, with_labels: bool, quarantine: Quarantine) -> Brought:
    """Ask a project's people about the answers of imported records, after what others said of them already.

    Nothing goes in where too many of them are bad, or none brings an item.

    Args:
        folder: of `import_feedback` with `places`.
        tool: the format; it is in the names of the annotators.
        quarantine: of records that give no item, or whose label is none of the project's.

    Raises:
        ConfigError: people write the project's items themselves.
        DataError: nothing in the folder fits the project's kind, or too many records are bad.
    """
    with open_store(store) as database:
        found = database.read(lambda connection: find_project(connection, project))
        if FORMS[found.config.kind].written:
            raise ConfigError(f"people write the items of a {found.config.kind} project themselves; name another")
        fields = _check(folder, found.config, quarantine, with_labels)
        done = publish_all(database, found, _items(folder, found.config.kind), now=time.time(), batch=BY_WHOM)
        labels = Imported(0, 0)
        if with_labels:
            labels = _labels(database, found, folder, tool, quarantine)
    file = str(quarantine.path) if quarantine.count else None
    return Brought(*done, *labels, quarantine.count, file, fields)


def _labels(database: Database, project: Project, folder: Path, tool: str, quarantine: Quarantine) -> Imported:
    given = labels_among(_rows(folder), project.config, refuse=lambda row, why: None)  # `_check` told
    refuse = partial(_set_aside, quarantine)
    return import_labels(database, project, given, tool=tool, refuse=refuse, now=time.time())


def _check(folder: Path, config: ProjectConfig, quarantine: Quarantine, with_labels: bool) -> dict[str, int]:
    """Go through all before anything is written; how many records have fields that labels have no place for."""
    fields: Counter[str] = Counter()
    labelled = KINDS[FORMS[config.kind].makes[0]] if with_labels else ()
    items = 0
    for row in _rows(folder):
        is_label = isinstance(row.record, labelled)  # these are looked at below, with what was said
        try:
            items += len(list(items_about(row.record, config.kind)))
            if not is_label:
                quarantine.good()
        except ValueError as error:
            if not is_label:
                _set_aside(quarantine, row, reason_of(error))
    if not items:
        raise DataError(f"none of the imported records has the answers that a {config.kind} project asks about")
    if with_labels:
        for given in labels_among(_rows(folder), config, partial(_set_aside, quarantine)):
            for row in given.rows:
                quarantine.good()
                fields.update(lost(row.record))
    quarantine.check()
    return dict(fields)


def _set_aside(quarantine: Quarantine, row: Row, why: str) -> None:
    path, _, line = row.where.rpartition(":")
    quarantine.set_aside(BadRow(path, int(line), why), row.record.model_dump_json())


def _rows(folder: Path) -> Iterator[Row]:
    return (Row(where, record) for where, record in imported_records(folder))


def _items(folder: Path, kind: str) -> Iterator[Item]:
    before: set[str] = set()  # of the last record: what several people said of one item stands together
    for row in _rows(folder):
        try:
            found = list(items_about(row.record, kind))
        except ValueError:
            continue  # `_check` told
        yield from (item for item in found if item.key not in before)
        before = {item.key for item in found}


def write_records_of(store: str, project: str, kind: str | None, folder: Path) -> Path:
    """A file of what counts of a project's labels: of one kind of record, the project's first if none is named.

    Raises:
        ConfigError: the project makes no such records.
        DataError: nobody has said anything yet.
    """
    with open_store(store) as database:
        found = database.read(lambda connection: find_project(connection, project))
        makes = FORMS[found.config.kind].makes
        kind = kind or makes[0]
        if kind not in makes:
            raise ConfigError(f"--kind {kind}: a {found.config.kind} project makes {' and '.join(makes)}")
        file = folder / f"{kind}.jsonl"

        def write(connection: object) -> int:
            count = 0
            with file.open("w", encoding="utf-8") as lines:
                for *_, its_kind, record in records(connection, found):  # type: ignore[arg-type]
                    if its_kind == kind:
                        lines.write(record.model_dump_json() + "\n")
                        count += 1
            return count

        if not database.read(write):
            raise DataError(f"project {project}: there are no {kind} yet")
    return file
