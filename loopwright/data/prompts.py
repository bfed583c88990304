"""The prompts that a stage asks about."""

from collections.abc import Collection
from pathlib import Path

from loopwright.data.readers import read_records
from loopwright.errors import DataError
from loopwright.schemas import Prompt


def read_prompts(path: Path, count: int, tasks: Collection[str] = ()) -> list[Prompt]:
    """The first `count` prompts of a file; where tasks are named, of those tagged with one of them.

    Raises:
        DataError: none is tagged so; and what `read_records` raises.
    """
    found = read_records(path, Prompt).records
    if tasks:
        tagged = {str(prompt.tags.get("task")) for prompt in found}
        found = [prompt for prompt in found if prompt.tags.get("task") in tasks]
        if not found:
            named, there = ", ".join(sorted(tasks)), ", ".join(sorted(tagged))
            raise DataError(f"{path}: no prompt has a task among {named}; found {there}; name one of these in tasks")
    return found[:count]
