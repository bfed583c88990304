"""What the fast engine decides and keeps account of, without a tensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.generation.slots import Joining, Move, Slots, groups_of, places_for


def test_rows_join_end_and_move_by_hand():
    slots = Slots([0, 1, 2, 3], capacity=3, most_tokens=10)
    assert slots.joining() == Joining(range(3), {0: 0, 1: 1, 2: 2})
    assert slots.rows == slots.places == [0, 1, 2] and slots.first == [0, 0, 0]
    assert slots.joining().rows == range(0)  # no slot is free
    slots.advance()
    assert slots.release([True, False, False]) == [Move(2, 0)]
    assert slots.rows == slots.places == [2, 1] and slots.ends == [10, 10]
    assert slots.joining() == Joining(range(3, 4), {0: 3})
    assert slots.rows == [2, 1, 3] and slots.places == [2, 1, 0]
    assert slots.first == [0, 0, 1] and slots.ends == [10, 10, 11] and slots.waiting == 0


def test_rows_of_a_prompt_share_a_place_that_is_free_after_the_last_of_them():
    slots = Slots([0, 0, 0, 1], capacity=2, most_tokens=5)
    assert slots.most_places == 2
    assert slots.joining() == Joining(range(2), {0: 0}) and slots.places == [0, 0]
    slots.advance()
    slots.release([True, True])  # nobody is alive, but a row of this prompt still waits
    assert slots.joining() == Joining(range(2, 4), {1: 3}) and slots.places == [0, 1]


def test_a_freed_place_is_used_again():
    slots = Slots([0, 0, 1, 1, 2, 2, 3, 3], capacity=2, most_tokens=1)
    unread = []
    while (joining := slots.joining()).rows:
        unread.append(joining.unread)
        slots.release([True, True])
    assert unread == [{0: 0}, {0: 2}, {0: 4}, {0: 6}]


def test_rows_wait_where_every_place_is_taken():
    groups = groups_of([[i // 8] for i in range(160)], most=8)
    slots = Slots(groups, capacity=16, most_tokens=100)
    assert slots.most_places == 9  # three times those of 16 rows, which may lie across three prompts
    joined = len(slots.joining().rows)
    while joined < 72:  # all rows of each prompt but one end at once
        slots.release([row % 8 < 7 for row in slots.rows])
        joined += len(slots.joining().rows)
    slots.release([row % 8 < 7 for row in slots.rows])
    assert sorted(slots.rows) == [8 * i + 7 for i in range(9)]
    assert not slots.joining().rows and slots.waiting == 88
    slots.release([row == 7 for row in slots.rows])
    assert slots.joining().unread.keys() == {0} and len(slots.rows) == 16


def test_groups_are_rows_of_one_prompt():
    prompts = [[5, 6], [5, 6], [5, 6], [5], [7], [7]]
    assert groups_of(prompts, most=9) == [0, 0, 0, 1, 2, 2]
    assert groups_of(prompts, most=2) == [0, 0, 1, 2, 3, 3]
    assert groups_of([[1]], most=1) == [0]


def test_places_are_one_a_slot_at_most():
    assert places_for(list(range(64)), 16) == 16
    assert places_for([0] * 64, 16) == 1
    assert places_for([i // 8 for i in range(64)], 64) == 8
    assert places_for([i // 8 for i in range(640)], 64) == 27


def test_a_shift_moves_what_is_read_to_the_first_column():
    slots = Slots([0, 1, 2], capacity=2, most_tokens=4)
    assert slots.columns == 4 + 4
    slots.joining()
    for _ in range(4):
        slots.advance()
    slots.release([True, False])
    slots.joining()
    for _ in range(4):
        slots.advance()
    slots.release([True, False])
    assert slots.full() and slots.rows == [2] and slots.first == [4]
    assert slots.shift() == 4
    assert slots.first == [0] and slots.cursor == 4 and not slots.full()


@pytest.mark.parametrize("waiting", [1, 5])
def test_rows_join_once_a_quarter_of_the_slots_or_all_that_wait_do(waiting):
    slots = Slots(list(range(16 + waiting)), capacity=16, most_tokens=9)
    slots.joining()
    for free in range(1, 5):
        slots.release([True] + [False] * (len(slots) - 1))
        pays = free == min(waiting, 4)
        assert len(slots.joining().rows) == (free if pays else 0)
        if pays:
            break


@given(
    samples=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    most_samples=st.integers(1, 9),
    capacity=st.integers(1, 8),
    most=st.integers(1, 12),
    choices=st.randoms(use_true_random=False),
)
def test_every_row_gets_its_tokens_within_the_cache(samples, most_samples, capacity, most, choices):
    """A whole run with random ends: columns and places are its own, in order, and no row or prompt is lost."""
    groups = groups_of([[i] for i, count in enumerate(samples) for _ in range(count)], most_samples)
    slots = Slots(groups, capacity, most)
    given_tokens, inside, read = [0] * len(groups), {}, []
    while True:
        while (joining := slots.joining()).rows:
            before = slots.rows[: len(slots) - len(joining.rows)]
            for place, row in joining.unread.items():
                assert inside.get(place) not in {groups[other] for other in before}
                inside[place] = groups[row]
                read.append(groups[row])
            take(slots, len(slots) - len(joining.rows), given_tokens, most, choices)
        if not len(slots):
            break
        if slots.full():
            slots.shift()
        assert len(slots) <= capacity and slots.cursor < slots.columns and len(inside) <= slots.most_places
        for slot, row in enumerate(slots.rows):
            assert slots.cursor - slots.first[slot] == given_tokens[row] - 1
            assert inside[slots.places[slot]] == groups[row]
        slots.advance()
        take(slots, 0, given_tokens, most, choices)
    assert not slots.waiting and all(0 < count <= most for count in given_tokens)
    assert read == sorted(set(groups))  # each once


def take(slots, start, given_tokens, most, choices):
    ended = [False] * start
    for row, end in list(zip(slots.rows, slots.ends, strict=True))[start:]:
        given_tokens[row] += 1
        assert (given_tokens[row] == most) == (slots.step + 1 == end)
        ended.append(slots.step + 1 == end or choices.random() < 0.2)
    before = list(zip(slots.rows, slots.places, strict=True))
    moves = slots.release(ended)
    now = list(zip(slots.rows, slots.places, strict=True))
    assert sorted(now) == sorted(row for row, over in zip(before, ended, strict=True) if not over)
    assert all(before[move.source] == now[move.target] for move in moves)
