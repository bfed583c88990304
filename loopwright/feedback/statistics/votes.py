"""What people said of items, as parallel arrays: millions of votes are counted without a loop."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


class Cells(NamedTuple):
    """How many people gave a value to an item, wherever somebody did; in order of item, then value."""

    item: Codes
    value: Codes
    people: Codes


class Together(NamedTuple):
    """Some of the pairs of votes on one item, as rows; the annotator of `first` has the lower code."""

    first: Codes
    second: Codes


@dataclass(frozen=True, eq=False)
class Votes:
    """One vote a row, at most one of each annotator on each item; what is missing is not there.

    Rows are in order of item, then annotator.
    """

    item: Codes  # [N] indices into items
    annotator: Codes  # [N] indices into annotators
    value: Codes  # [N] indices into values
    items: Sequence[Any]
    annotators: Sequence[Any]
    values: Sequence[Any]  # all that was said, ascending
    contradicted: int  # times a person said different things of one item; these votes are left out

    @classmethod
    def of(cls, rows: Iterable[tuple[Hashable, Hashable, Any]]) -> Self:
        """Votes from (item, annotator, value): names are anything hashable, values all numbers or all texts.

        What a person said of an item twice counts once, and not at all where it differs.

        Raises:
            ValueError: a value is None or NaN, or values cannot be put in order.
        """
        item, annotator, value = [], [], []
        items: dict[Any, int] = {}
        annotators: dict[Any, int] = {}
        kinds: dict[Any, int] = {}
        for its_item, person, said in rows:
            item.append(items.setdefault(its_item, len(items)))
            annotator.append(annotators.setdefault(person, len(annotators)))
            value.append(kinds.setdefault(said, len(kinds)))
        values = _ascending(kinds)
        rank = {one: number for number, one in enumerate(values)}
        place = np.array([rank[one] for one in kinds], dtype=np.int64)
        columns = [np.array(column, dtype=np.int64) for column in (item, annotator, value)]
        return cls._settled(columns[0], columns[1], place[columns[2]], list(items), list(annotators), values)

    @classmethod
    def of_arrays(cls, item: ArrayLike, annotator: ArrayLike, value: ArrayLike) -> Self:
        """Votes from three arrays of one length, such as the columns of a query; see `of`.

        Raises:
            ValueError: the arrays differ in length, or a value is NaN.
        """
        columns = [np.asarray(column) for column in (item, annotator, value)]
        if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
            raise ValueError(
                "votes need three arrays of one length, got shapes "
                + ", ".join(str(column.shape) for column in columns)
            )
        (items, item_codes), (annotators, annotator_codes), (values, value_codes) = map(codes, columns)
        return cls._settled(
            item_codes, annotator_codes, value_codes, items.tolist(), annotators.tolist(), _ascending(values.tolist())
        )

    @classmethod
    def _settled(
        cls, item: Codes, annotator: Codes, value: Codes, items: Sequence[Any], annotators: Sequence[Any],
        values: Sequence[Any],
    ) -> Self:  # fmt: skip
        """Rows in order, and one vote a person and item. A row is one number, so that sorting is fast."""
        people, kinds = max(len(annotators), 1), max(len(values), 1)
        if len(items) * people * kinds > np.iinfo(np.int64).max:
            raise ValueError(
                f"{len(items)} items, {people} annotators and {kinds} values are more combinations than can be counted"
            )
        row, _ = counted((item * people + annotator) * kinds + value)
        who = row // kinds  # item and annotator
        again = who[1:] == who[:-1]
        differs = np.concatenate([[False], again]) | np.concatenate([again, [False]]) if len(who) else again
        contradicted = len(counted(who[differs])[0])
        row, who = row[~differs], who[~differs]
        item = who // people
        return cls(item, who - item * people, row - who * kinds, items, annotators, values, contradicted)

    def __len__(self) -> int:
        return len(self.item)

    @cached_property
    def votes_of_item(self) -> Codes:
        """[items] how many people judged each."""
        return np.bincount(self.item, minlength=len(self.items))

    @cached_property
    def cells(self) -> Cells:
        kinds = max(len(self.values), 1)
        cell, count = counted(self.item * kinds + self.value)
        item = cell // kinds
        return Cells(item, cell - item * kinds, count)

    def together(self) -> Iterator[Together]:
        """Every two votes on one item once, in batches of at most N: the neighbours, then the next but one, …"""
        for step in range(1, int(self.votes_of_item.max(initial=0))):
            first = np.flatnonzero(self.item[step:] == self.item[:-step])
            yield Together(first, first + step)

    def only(self, rows: NDArray[np.bool_]) -> Self:
        """The rows that are marked, with the same names and codes."""
        return replace(self, item=self.item[rows], annotator=self.annotator[rows], value=self.value[rows])


def counted(numbers: Codes) -> tuple[Codes, Codes]:
    """The distinct numbers in ascending order, and how often each occurs.

    np.unique does the same by hashing since NumPy 2.3: ten times slower on millions.
    """
    if _lie_close(numbers):
        times = np.bincount(numbers)
        distinct = np.flatnonzero(times)
        return distinct, times[distinct]
    numbers = np.sort(numbers)
    ends = np.flatnonzero(np.append(numbers[1:] != numbers[:-1], len(numbers) > 0))
    return numbers[ends], np.diff(ends, prepend=-1)


def codes(column: NDArray[Any]) -> tuple[NDArray[Any], Codes]:
    """The distinct names in a column in ascending order, and for each row the place of its name among them."""
    if _lie_close(column):
        used = np.zeros(int(column.max()) + 1, dtype=bool)
        used[column] = True
        return np.flatnonzero(used), (np.cumsum(used) - 1)[column]
    names, place = np.unique(column, return_inverse=True)
    return names, place.astype(np.int64)


def _lie_close(numbers: NDArray[Any]) -> bool:
    """Whether these are indices into an array hardly longer than theirs, as a database's ids are: no need to sort."""
    integers = numbers.dtype.kind in "iu" and len(numbers) > 0
    return bool(integers and numbers.min() >= 0 and numbers.max() < 4 * len(numbers))


def _ascending(values: Iterable[Any]) -> list[Any]:
    values = list(values)
    if unfit := [one for one in values if one is None or one != one]:
        raise ValueError(f"{unfit[0]} is no vote; leave out what is missing")
    try:
        return sorted(values)
    except TypeError as error:
        kinds = sorted({type(one).__name__ for one in values})
        raise ValueError(f"votes of several types ({', '.join(kinds)}) have no order; give numbers or texts") from error
