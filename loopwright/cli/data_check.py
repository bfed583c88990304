"""What a data file holds, and every line that would be set aside."""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from loopwright.data.readers import BadRow, Quarantine, read_records, read_texts
from loopwright.errors import ConfigError, DataError
from loopwright.schemas import KINDS

# A row is a comparison; marked passages come several at once.
NAMES = {kind if kind == "spans" else kind.removesuffix("s"): record for kind, record in KINDS.items()}


class Checked(NamedTuple):
    path: str
    kind: str
    good: int
    bad: list[BadRow]


def check_file(path: Path, kind: str | None = None) -> Checked:
    """Read every row as its stage would.

    Args:
        kind: a name in NAMES or "text"; None finds it out from the keys of the first row.

    Raises:
        DataError: the file is missing, empty, damaged or of an unknown format.
        ConfigError: there is no such kind.
    """
    if kind is not None and kind not in (*NAMES, "text"):
        raise ConfigError(f"--kind {kind}: unknown; choose from {', '.join(NAMES)}, text")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    kind = kind or _guess(path)
    if kind == "text":
        return _check_texts(path)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "bad.jsonl"
        try:
            good = len(read_records(path, NAMES[kind], max_bad_share=1.0, quarantine_file=listed).records)
        except DataError:
            if not listed.exists():  # not for its rows: the file itself cannot be read
                raise
            good = 0
        rows = [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []
    return Checked(str(path), kind, good, [BadRow(row["path"], row["line"], row["reason"]) for row in rows])


def _check_texts(path: Path) -> Checked:
    quarantine = Quarantine(max_bad_share=1.0, kept=None)  # every bad line is listed
    good = 0
    try:
        for _ in read_texts([path], quarantine=quarantine):
            good += 1
    except DataError:
        if not quarantine.bad:
            raise
    return Checked(str(path), "text", good, quarantine.bad)


def _guess(path: Path) -> str:
    """The kind whose fields cover most of the first rows' keys; rows with a text field, and other formats, are text.

    Raises:
        DataError: the rows lack more of what any kind needs than they have.
    """
    if path.is_dir() or not path.name.removesuffix(".gz").endswith(".jsonl"):
        return "text"
    if not path.stat().st_size:
        raise DataError(f"{path}: is empty; it needs at least one row")
    keys: set[str] = set()
    for row in _first_rows(path):
        keys |= row.keys()
    if "text" in keys:
        return "text"

    def likeness(kind: str) -> tuple[int, int]:
        fields = NAMES[kind].model_fields
        required = {name for name, field in fields.items() if field.is_required()}
        return len(required & keys) - len(required - keys), len(fields.keys() & keys)

    kind = max(NAMES, key=likeness)
    if keys and likeness(kind)[0] < 0:
        raise DataError(
            f"{path}: rows of {', '.join(sorted(keys))} are of no kind that is known here; read them with loopwright "
            "feedback import, which knows what other tools write, or name the kind with --kind"
        )
    return kind


def _first_rows(path: Path, count: int = 20) -> list[dict[str, Any]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    rows = []
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            for _, line in zip(range(count), file, strict=False):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    rows.append(row)
    except (OSError, EOFError):
        return rows  # a damaged file is for the reader to name
    return rows
