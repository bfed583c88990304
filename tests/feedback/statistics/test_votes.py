"""The table of votes: what is kept, what is left out, and that both ways to build it agree."""

import math

import numpy as np
import pytest

from loopwright.feedback.statistics.votes import Votes, codes, counted
from tests.feedback.statistics.tables import random_table, votes_of


def rows_of(votes):
    return {
        (votes.items[i], votes.annotators[a]): votes.values[v]
        for i, a, v in zip(votes.item, votes.annotator, votes.value, strict=True)
    }


def test_a_table_comes_back_as_it_was_given():
    table = random_table(0)
    votes = votes_of(table)
    assert rows_of(votes) == table
    assert len(votes) == len(table) and votes.contradicted == 0
    assert sorted(zip(votes.item, votes.annotator, strict=True)) == list(zip(votes.item, votes.annotator, strict=True))


@pytest.mark.parametrize("scale", [1, 10**9])  # codes that lie close, and codes that do not
def test_arrays_and_rows_make_the_same_table(scale):
    table = {(scale * i, scale * int(p[1:])): v for (i, p), v in random_table(1).items()}
    columns = [*zip(*table, strict=True), list(table.values())]
    by_arrays = Votes.of_arrays(*columns)
    assert rows_of(by_arrays) == rows_of(votes_of(table)) == table
    assert by_arrays.items == sorted({item for item, _ in table})


def test_twice_the_same_counts_once_and_a_contradiction_not_at_all():
    votes = Votes.of(
        [("x", "ann", 1), ("x", "ann", 1), ("y", "ann", 1), ("y", "ann", 2), ("y", "ann", 1), ("y", "bob", 2)]
    )
    assert rows_of(votes) == {("x", "ann"): 1, ("y", "bob"): 2}
    assert votes.contradicted == 1
    assert votes.votes_of_item.tolist() == [1, 1]


def test_cells_count_votes_of_each_value():
    votes = Votes.of([("x", "ann", 5), ("x", "bob", 5), ("x", "cy", 2), ("y", "ann", 2)])
    cells = [(votes.items[i], votes.values[v], n) for i, v, n in zip(*votes.cells, strict=True)]
    assert cells == [("x", 2, 1), ("x", 5, 2), ("y", 2, 1)]


def test_every_two_votes_on_an_item_stand_together_once():
    votes = votes_of(random_table(2, people=6))
    found = [pair for batch in votes.together() for pair in zip(*batch, strict=True)]
    expected = {(i, j) for i in range(len(votes)) for j in range(i + 1, len(votes)) if votes.item[i] == votes.item[j]}
    assert len(found) == len(expected) and set(found) == expected
    assert all(votes.annotator[i] < votes.annotator[j] for i, j in found)


def test_nobody_voted():
    for votes in (Votes.of([]), Votes.of_arrays([], [], [])):
        assert len(votes) == 0 and not list(votes.together())
        assert votes.cells.people.tolist() == votes.votes_of_item.tolist() == []


def test_what_is_no_vote_is_refused():
    for missing in (None, math.nan):
        with pytest.raises(ValueError, match="leave out what is missing"):
            Votes.of([("x", "ann", 1), ("x", "bob", missing)])
    with pytest.raises(ValueError, match="leave out what is missing"):
        Votes.of_arrays([0, 0], [0, 1], [1.0, math.nan])
    with pytest.raises(ValueError, match=r"int, str.*no order"):
        Votes.of([("x", "ann", 1), ("x", "bob", "good")])
    with pytest.raises(ValueError, match=r"\(2,\), \(2,\), \(1,\)"):
        Votes.of_arrays([0, 0], [0, 1], [1])


def test_counting_and_codes_equal_numpys():
    rng = np.random.default_rng(3)
    for column in (rng.integers(0, 50, 200), rng.integers(-5, 5, 40), rng.integers(0, 10**12, 30)):
        names, place = codes(column)
        assert names.tolist() == sorted(set(column.tolist()))
        assert (names[place] == column).all()
        distinct, times = counted(column)
        expected = np.unique(column, return_counts=True)
        assert (distinct == expected[0]).all() and (times == expected[1]).all()
