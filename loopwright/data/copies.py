"""How much of a text stands word for word in another."""

from __future__ import annotations

from collections.abc import Iterable

from loopwright.data.near_duplicates import word_windows, words_of


class CopyIndex:
    """Every run of `words` words in some texts, by hash; a run is found again wherever it stands."""

    def __init__(self, texts: Iterable[str], words: int) -> None:
        self.words = words
        self._runs = {hash(run) for text in texts for run in word_windows(words_of(text), words)}

    def copied_share(self, texts: Iterable[str]) -> float | None:
        """The share of texts that contain such a run, of those long enough to; None when none is."""
        long_enough = copied = 0
        for text in texts:
            runs = list(word_windows(words_of(text), self.words))
            long_enough += bool(runs)
            copied += any(hash(run) in self._runs for run in runs)
        return copied / long_enough if long_enough else None
