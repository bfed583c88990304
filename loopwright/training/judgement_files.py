"""What people said, from the files that feedback, importing or people themselves have left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.data.readers import read_records
from loopwright.errors import ConfigError
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import KINDS, Judgement

RECORDS = {kind: KINDS[kind] for kind in ("comparisons", "rankings", "ratings", "thumbs", "corrections")}


def files_in(folder: Path, kinds: Sequence[str], setting: str) -> dict[str, Path]:
    """The file of each kind.

    Args:
        setting: that names the kinds, as in "reward.kinds".

    Raises:
        ConfigError: there is no file of a kind.
    """
    found = {kind: folder / f"{kind}.jsonl" for kind in (*RECORDS, "spans") if (folder / f"{kind}.jsonl").is_file()}
    if missing := [kind for kind in kinds if kind not in found]:
        there = ", ".join(found) or "nothing of the kind"
        raise ConfigError(f"{folder} has no {missing[0]}.jsonl, but {there}; name what to train on in {setting}")
    return {kind: found[kind] for kind in kinds}


def read_all(
    given: Mapping[str, Path | Iterable[Any]], runtime: Runtime, max_bad_share: float
) -> tuple[list[Judgement], int]:
    """The judgements of all kinds, and how many bad rows their files have; see `read_judgements`."""
    judgements: list[Judgement] = []
    bad = 0
    for kind, source in given.items():
        found, of_kind = read_judgements(source, RECORDS[kind], kind, runtime, max_bad_share)
        judgements += found
        bad += of_kind
    return judgements, bad


def read_judgements(
    given: Path | Iterable[Any], record: type[Any], name: str, runtime: Runtime, max_bad_share: float
) -> tuple[list[Any], int]:
    """Records in memory as they are, or those of a file and how many bad rows it has."""
    if not isinstance(given, Path):
        return list(given), 0
    if given.is_file() and not given.stat().st_size:  # annotators may all rank, or all compare
        return [], 0
    bad = runtime.output / f"bad_{name}.jsonl"
    loaded = read_records(given, record, max_bad_share=max_bad_share, quarantine_file=bad)
    return loaded.records, len(loaded.bad)
