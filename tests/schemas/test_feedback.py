import pytest

from loopwright.schemas import Comparison


def test_swapping_twice_changes_nothing_and_once_changes_every_index():
    given = Comparison(
        id="c",
        responses=("a", "b"),
        choice=1,
        criteria={"kind": 0, "true": None},
        order_shown=(1, 0),
        off_topic=(1,),
        created="2026-03-14T09:26:53+00:00",
    )
    swapped = given.swap()
    assert (swapped.responses, swapped.choice, swapped.criteria) == (("b", "a"), 0, {"kind": 1, "true": None})
    assert (swapped.order_shown, swapped.off_topic) == ((0, 1), (0,))
    assert swapped.created == given.created
    assert swapped.swap() == given


def test_off_topic_names_responses():
    with pytest.raises(ValueError, match="off_topic names response 2, but there are 2, from 0"):
        Comparison(id="c", responses=("a", "b"), choice=0, off_topic=(2,))
