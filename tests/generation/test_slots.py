"""What the fast engine decides and keeps account of, without a tensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.generation.slots import Move, Slots


def test_rows_join_end_and_move_by_hand():
    slots = Slots([5, 4, 4, 2], capacity=3, most_tokens=10)
    assert slots.joining() == range(3) and slots.rows == [0, 1, 2] and slots.first == [0, 1, 1] and slots.cursor == 5
    assert slots.joining() == range(0)  # no slot is free
    slots.advance()
    assert slots.release([True, False, False]) == [Move(2, 0)]
    assert slots.rows == [2, 1] and slots.first == [1, 1] and slots.ends == [10, 10]
    assert slots.joining() == range(3, 4)
    assert slots.rows == [2, 1, 3] and slots.first == [1, 1, 4] and slots.ends == [10, 10, 11] and slots.waiting == 0


def test_a_shift_moves_what_is_read_to_the_first_column():
    slots = Slots([3, 3, 1], capacity=2, most_tokens=4)
    assert slots.columns == 3 + 4 + 4
    slots.joining()
    for _ in range(4):
        slots.advance()
    slots.release([True, False])
    slots.joining()
    for _ in range(4):
        slots.advance()
    slots.release([True, False])
    assert slots.full() and slots.rows == [2] and slots.first == [6]
    assert slots.shift() == 6
    assert slots.first == [0] and slots.cursor == 5 and not slots.full()


def test_prompts_must_come_longest_first():
    with pytest.raises(ValueError, match="longest first"):
        Slots([1, 2], capacity=2, most_tokens=1)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30),
    capacity=st.integers(1, 8),
    most=st.integers(1, 12),
    choices=st.randoms(use_true_random=False),
)
def test_every_row_gets_its_tokens_within_the_cache(lengths, capacity, most, choices):
    """A whole run with random ends: each row's columns are its own, in order, and none is lost."""
    lengths = sorted(lengths, reverse=True)
    slots = Slots(lengths, capacity, most)
    given_tokens = [0] * len(lengths)
    while True:
        while joining := slots.joining():
            assert all(slots.first[slots.rows.index(row)] >= 0 for row in joining)
            take(slots, len(slots) - len(joining), given_tokens, most, choices)
        if not len(slots):
            break
        if slots.full():
            slots.shift()
        assert len(slots) <= capacity and slots.cursor < slots.columns
        for slot, row in enumerate(slots.rows):
            assert slots.cursor - slots.first[slot] == lengths[row] + given_tokens[row] - 1
        slots.advance()
        take(slots, 0, given_tokens, most, choices)
    assert not slots.waiting and all(0 < count <= most for count in given_tokens)


def take(slots, start, given_tokens, most, choices):
    ended = [False] * start
    for row, end in list(zip(slots.rows, slots.ends, strict=True))[start:]:
        given_tokens[row] += 1
        assert (given_tokens[row] == most) == (slots.step + 1 == end)
        ended.append(slots.step + 1 == end or choices.random() < 0.2)
    before = list(slots.rows)
    moves = slots.release(ended)
    kept = [row for row, over in zip(before, ended, strict=True) if not over]
    assert sorted(slots.rows) == sorted(kept)
    assert all(before[move.source] == slots.rows[move.target] for move in moves)
