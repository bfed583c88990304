"""Which row of a batch computes where, and when: what an engine decides and keeps account of. No tensors.

Live rows fill slots 0 to n - 1 of a cache. All of them write their next token to the same column, the cursor, so a row
that joins late lies beside those that began before it: its prompt ends where the cursor stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

JOIN_SHARE = (
    0.25  # waiting prompts join once this share of the slots is free: reading a few alone costs as much as a step
)


class Move(NamedTuple):
    """A row changes its slot."""

    source: int
    target: int


class Slots:
    """The live and the waiting rows of one batch.

    Attributes:
        rows: the row in each live slot.
        first: the column where the prompt of each live slot begins.
        ends: the step after which each live slot has all its tokens.
        cursor: the column of the next token.
        step: how many tokens a row would have that has been here from the start.
    """

    def __init__(self, lengths: Sequence[int], capacity: int, most_tokens: int) -> None:
        """`lengths` are those of the prompts, the longest first; `most_tokens` is the limit of each response."""
        if list(lengths) != sorted(lengths, reverse=True):
            raise ValueError("prompts must come longest first, so that each fits before the cursor")
        self.capacity = min(capacity, len(lengths))
        self.most_tokens = most_tokens
        self.rows: list[int] = []
        self.first: list[int] = []
        self.ends: list[int] = []
        self.step = 0
        self.cursor = max(lengths)
        self._lengths = lengths
        self._next = 0
        spare = most_tokens if len(lengths) > capacity else 0  # columns between two shifts
        self.columns = max(lengths) + most_tokens + spare

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def waiting(self) -> int:
        """How many rows have not begun."""
        return len(self._lengths) - self._next

    def joining(self) -> range:
        """The rows that begin now, in the slots behind those in use; empty if it does not pay yet."""
        free = self.capacity - len(self.rows)
        if not self.waiting or (self.rows and free < max(1, JOIN_SHARE * self.capacity)):
            return range(0)
        begin = range(self._next, min(self._next + free, len(self._lengths)))
        self._next = begin.stop
        self.rows += begin
        self.first += [self.cursor - self._lengths[row] for row in begin]
        self.ends += [self.step + self.most_tokens] * len(begin)
        return begin

    def advance(self) -> None:
        """Every live row wrote a token to the cursor's column."""
        self.step += 1
        self.cursor += 1

    def full(self) -> bool:
        """Whether the cursor has left the cache; `shift` makes room."""
        return self.cursor == self.columns

    def shift(self) -> int:
        """How many columns at the left nobody reads any more; all columns move left by so many."""
        unused = min(self.first)
        self.first = [column - unused for column in self.first]
        self.cursor -= unused
        return unused

    def release(self, ended: Sequence[bool]) -> list[Move]:
        """Free the slots of these rows, one flag a live slot; the last rows move into the holes."""
        kept = len(ended) - sum(ended)
        holes = [slot for slot in range(kept) if ended[slot]]
        movers = [slot for slot in range(kept, len(ended)) if not ended[slot]]
        moves = [Move(source, target) for source, target in zip(movers, holes, strict=True)]
        for column in (self.rows, self.first, self.ends):
            for source, target in moves:
                column[target] = column[source]
            del column[kept:]
        return moves
