"""Which row of a batch computes where, and when: what an engine decides and keeps account of. No tensors.

Live rows fill slots 0 to n - 1 of a cache of responses. All of them write their next token to the same column, the
cursor, so a row that joins late begins where the cursor stands. Prompts lie in places of their own: the rows of one
prompt share its place until the last of them, waiting ones included, has ended, so that each prompt is read once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

JOIN_SHARE = 0.25  # waiting rows join once they fill this share of the slots: reading a few costs as much as a step
# Places, times the prompts of as many rows as there are slots: some prompts are down to their last rows while others
# begin. With 3 no row waited for a place in simulated batches of 2 to 16 samples; with 2, steps were up to 14 % more.
MORE_PLACES = 3


class Joining(NamedTuple):
    """Rows that begin."""

    rows: range
    unread: dict[int, int]  # place -> a row whose prompt is to be read into it


class Move(NamedTuple):
    """A row changes its slot."""

    source: int
    target: int


def groups_of(prompts: Sequence[Sequence[int]], most: int) -> list[int]:
    """The group of each row, counted from 0: rows of one prompt, at most so many. Equal prompts must be neighbours."""
    groups, size = [0], 1
    for before, prompt in zip(prompts, prompts[1:], strict=False):
        same = size < most and list(before) == list(prompt)
        size = size + 1 if same else 1
        groups.append(groups[-1] + (not same))
    return groups


def places_for(groups: Sequence[int], capacity: int) -> int:
    """How many prompts have a place at a time beside so many slots: one a slot at most."""
    last = groups[capacity - 1 :] or groups[-1:]
    together = max(late - early + 1 for early, late in zip(groups, last, strict=False))
    return min(MORE_PLACES * together, capacity, groups[-1] + 1)


class Slots:
    """The live and the waiting rows of one batch.

    Attributes:
        rows: the row in each live slot.
        first: the column where the response of each live slot begins.
        ends: the step after which each live slot has all its tokens.
        places: where the prompt of each live slot lies.
        cursor: the column of the next token.
        step: how many tokens a row would have that has been here from the start.
    """

    def __init__(self, groups: Sequence[int], capacity: int, most_tokens: int) -> None:
        """`groups` as `groups_of` gives them; `most_tokens` is the limit of each response."""
        self.capacity = min(capacity, len(groups))
        self.most_tokens = most_tokens
        self.rows: list[int] = []
        self.first: list[int] = []
        self.ends: list[int] = []
        self.places: list[int] = []
        self.step = 0
        self.cursor = 0
        spare = most_tokens if len(groups) > capacity else 0  # columns between two shifts
        self.columns = most_tokens + spare
        self.most_places = places_for(groups, self.capacity)
        self._groups = groups
        self._left = Counter(groups)  # rows of each group that have not ended
        self._place_of: dict[int, int] = {}  # group -> place
        self._free = list(reversed(range(self.most_places)))
        self._next = 0  # row
        self._next_group = 0  # without a place as yet

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def waiting(self) -> int:
        """How many rows have not begun."""
        return len(self._groups) - self._next

    def joining(self) -> Joining:
        """The rows that begin now, in the slots behind those in use; none if it does not pay yet."""
        placeable = bisect_left(self._groups, self._next_group + len(self._free))
        rows = range(self._next, min(self._next + self.capacity - len(self.rows), placeable))
        if self.rows and len(rows) < min(self.waiting, max(1, JOIN_SHARE * self.capacity)):
            return Joining(range(0), {})
        unread = {}
        for row in rows:
            group = self._groups[row]
            if group == self._next_group:
                self._place_of[group] = place = self._free.pop()
                self._next_group, unread[place] = group + 1, row
            self.places.append(self._place_of[group])
        self._next = rows.stop
        self.rows += rows
        self.first += [self.cursor] * len(rows)
        self.ends += [self.step + self.most_tokens] * len(rows)
        return Joining(rows, unread)

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
        for row in (row for row, over in zip(self.rows, ended, strict=True) if over):
            group = self._groups[row]
            self._left[group] -= 1
            if not self._left[group]:
                self._free.append(self._place_of.pop(group))
        kept = len(ended) - sum(ended)
        holes = [slot for slot in range(kept) if ended[slot]]
        movers = [slot for slot in range(kept, len(ended)) if not ended[slot]]
        moves = [Move(source, target) for source, target in zip(movers, holes, strict=True)]
        for column in (self.rows, self.first, self.ends, self.places):
            for source, target in moves:
                column[target] = column[source]
            del column[kept:]
        return moves
