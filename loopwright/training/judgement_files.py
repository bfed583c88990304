"""What people said, from the files that feedback, importing or people themselves have left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loopwright.data.readers import read_records
from loopwright.errors import ConfigError
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import KINDS, Judgement, Message

Source = Path | Sequence[Path] | Sequence[Any]  # a file, those of several rounds, or records
RECORDS = {kind: KINDS[kind] for kind in ("comparisons", "rankings", "ratings", "thumbs", "corrections", "attacks")}
PAIRWISE = ("comparisons", "rankings")  # what stages learn pairs from, unless told otherwise
BY_PEOPLE = ("thumbs", "corrections", "attacks")  # no simulated annotator and no judge gives them


def files_in(
    folder: Path, kinds: Sequence[str], setting: str, holds: Callable[[str], bool], *, either: Sequence[str] = ()
) -> dict[str, Path]:
    """The file of each kind.

    Args:
        setting: that names the kinds, as in "reward.kinds".
        holds: whether the folder has a file of a name.
        either: where these are the kinds, those of them that have a file are enough.

    Raises:
        ConfigError: there is no file of a kind.
    """
    found = {kind: folder / f"{kind}.jsonl" for kind in (*RECORDS, "spans") if holds(f"{kind}.jsonl")}
    if tuple(kinds) == tuple(either) and found.keys() & set(kinds):
        kinds = [kind for kind in kinds if kind in found]
    if missing := [kind for kind in kinds if kind not in found]:
        if not found:
            raise ConfigError(f"{folder} has no {missing[0]}.jsonl, nor a file of other judgements; correct the path")
        there, asking = ", ".join(found), ""
        if people := [kind for kind in missing if kind in BY_PEOPLE]:
            asking = f", or ask people at an annotation server, who alone give {people[0]} (feedback.store)"
        raise ConfigError(
            f"{folder} has no {missing[0]}.jsonl, but {there}; name what to train on in {setting}{asking}"
        )
    return {kind: found[kind] for kind in kinds}


class Read(NamedTuple):
    judgements: list[Any]
    bad_rows: int
    places: list[int]  # for each judgement, which of its kind's files it is from


def read_all(given: Mapping[str, Source], runtime: Runtime, max_bad_share: float) -> Read:
    """The judgements of all kinds, and how many bad rows their files have; see `read_judgements`."""
    read = Read([], 0, [])
    for kind, source in given.items():
        for place, one in enumerate(_files(source)):
            name = f"{kind}_{place + 1}" if place else kind
            found, bad = read_judgements(one, KINDS[kind], name, runtime, max_bad_share)
            read = Read(read.judgements + found, read.bad_rows + bad, read.places + [place] * len(found))
    return read


def _files(given: Source) -> Sequence[Path | Sequence[Any]]:
    """The files, one by one, or what is in memory as if it were one."""
    if isinstance(given, Path):
        return [given]
    return given if given and isinstance(given[0], Path) else [given]


def ages_of(
    judgements: Sequence[Judgement], places: Sequence[int], ages: Sequence[int]
) -> Mapping[tuple[Message, ...], int]:
    """Of each prompt, how many rounds ago anything was last said of it.

    Args:
        places: for each judgement, which of its kind's files it is from.
        ages: of these files, in rounds.
    """
    found: dict[tuple[Message, ...], int] = {}
    for one, place in zip(judgements, places, strict=True):
        age = ages[place] if ages else 0
        found[one.prompt] = min(age, found.get(one.prompt, age))
    return found


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
