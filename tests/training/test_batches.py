from hypothesis import given
from hypothesis import strategies as st

from loopwright.training.batches import EpochOrder, split_rows


@given(rows=st.integers(1, 60), size=st.integers(1, 9), seed=st.integers(0, 2**62), by_length=st.booleans())
def test_every_row_once_an_epoch(rows, size, seed, by_length):
    order = EpochOrder(rows, size, seed, [(7 * i) % 11 for i in range(rows)] if by_length else None)
    for epoch in range(2):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        batches = [order.rows_of(step) for step in steps]
        assert sorted(row for batch in batches for row in batch) == list(range(rows))
        assert max(map(len, batches)) <= size


def test_a_step_is_the_same_whatever_came_before():
    first, second = EpochOrder(50, 4, seed=3), EpochOrder(50, 4, seed=3)
    expected = [first.rows_of(step) for step in range(40)]
    assert [second.rows_of(step) for step in reversed(range(40))] == expected[::-1]
    assert expected != [EpochOrder(50, 4, seed=4).rows_of(step) for step in range(40)]
    assert expected[:13] != expected[13:26]  # the second epoch has its own order


def test_rows_of_like_length_share_a_batch():
    lengths = [i % 10 for i in range(100)]
    order = EpochOrder(100, 10, 0, lengths)
    for step in range(10):
        assert len({lengths[row] for row in order.rows_of(step)}) == 1
    assert [lengths[order.rows_of(step)[0]] for step in range(10)] != list(range(10))


def test_split_by_hand():
    assert split_rows([5, 6, 7], 2) == [[5, 6], [7]]
