"""How much of a text stands word for word in others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loopwright.data.near_duplicates import words_of


def contain_copies(texts: Sequence[str], sources: Iterable[str], words: int) -> list[bool | None]:
    """For each text, whether a run of so many words stands in one of the sources; None when it is too short to tell.

    Case and punctuation do not count. Only the runs of `texts` are kept in memory, however many sources there are.
    """
    runs = [set(_runs(text, words)) for text in texts]
    wanted = set().union(*runs)
    found = {run for source in sources for run in _runs(source, words) if run in wanted}
    return [bool(mine & found) if mine else None for mine in runs]


def share(flags: Iterable[bool | None]) -> float | None:
    """How many of those that could be told are true; None when none could."""
    told = [flag for flag in flags if flag is not None]
    return sum(told) / len(told) if told else None


def _runs(text: str, size: int) -> Iterator[str]:
    words = words_of(text)
    for start in range(len(words) - size + 1):
        yield " ".join(words[start : start + size])
