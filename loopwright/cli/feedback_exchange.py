"""Records into a store's project, to be judged there; and what was said there, as records."""

import time
from collections.abc import Iterator
from pathlib import Path

from loopwright.data.readers import read_records
from loopwright.errors import ConfigError, DataError
from loopwright.feedback.asking import items_to_judge
from loopwright.feedback.items import Item
from loopwright.feedback.kinds import FORMS
from loopwright.feedback.store.items import publish_all
from loopwright.feedback.store.labels import records
from loopwright.feedback.store.migrate import open_store
from loopwright.feedback.store.projects import find_project
from loopwright.schemas import KINDS, Demonstration, Judgement, Record

BY_WHOM = "import"  # the batch


def publish_records(store: str, project: str, folder: Path) -> dict[str, int]:
    """Ask a project's people about the answers of imported records. What others said of them stays out.

    Raises:
        DataError: nothing in the folder fits the project's kind.
    """
    with open_store(store) as database:
        found = database.read(lambda connection: find_project(connection, project))
        items = list(_items(folder, found.config.kind))
        if not items:
            raise DataError(
                f"none of the imported records has the answers that a {found.config.kind} project asks about"
            )
        done = publish_all(database, found, items, now=time.time(), batch=BY_WHOM)
    return done._asdict()


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


def _items(folder: Path, kind: str) -> Iterator[Item]:
    for name, record in KINDS.items():
        file = folder / f"{name}.jsonl"
        if file.is_file():
            for one in read_records(file, record).records:
                yield from _about(one, kind)


def _about(record: Record, kind: str) -> Iterator[Item]:
    tags = {"imported": str(getattr(record, "id", ""))}
    if FORMS[kind].written:
        raise ConfigError(f"people write the items of a {kind} project themselves; name another project")
    if kind == "demonstration":
        messages = getattr(record, "prompt", ()) or getattr(record, "messages", ())
        if messages:
            yield from items_to_judge(kind, messages, (), policy=None, tags=tags)
    elif isinstance(record, Judgement):
        yield from items_to_judge(kind, record.prompt, record.responses, policy=record.policy, tags=tags)
    elif isinstance(record, Demonstration):
        yield from items_to_judge(kind, record.prompt, (record.response,), policy=None, tags=tags)
