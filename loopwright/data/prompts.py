"""The prompts that a stage asks about."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from loopwright.data.readers import read_records
from loopwright.errors import DataError
from loopwright.schemas import Prompt


def read_prompts(path: Path, tasks: Collection[str] = ()) -> list[Prompt]:
    """The prompts of a file; where tasks are named, those tagged with one of them.

    Raises:
        DataError: none is tagged so; and what `read_records` raises.
    """
    found = read_records(path, Prompt).records
    if not tasks:
        return found
    chosen = of_tasks(found, tasks)
    if not chosen:
        there = ", ".join(sorted({str(prompt.tags.get("task")) for prompt in found}))
        raise DataError(
            f"{path}: no prompt has a task among {', '.join(sorted(tasks))}; found {there}; name one of these in tasks"
        )
    return chosen


def of_tasks(prompts: Iterable[Prompt], tasks: Collection[str]) -> list[Prompt]:
    """Those tagged with one of the tasks; all where none is named."""
    return [prompt for prompt in prompts if not tasks or prompt.tags.get("task") in tasks]


def newest(paths: Sequence[Path], count: int) -> list[Prompt]:
    """The first `count` prompts of files that grow over time, the newest file first, each prompt once.

    Args:
        paths: oldest first; a file may be empty.
    """
    found: dict[str, Prompt] = {}
    for path in reversed(paths):
        if len(found) < count and path.stat().st_size:
            found |= {one.id: one for one in read_records(path, Prompt).records if one.id not in found}
    return list(found.values())[:count]
