import pytest

from loopwright.schemas import Comparison, Correction, Span, SpanFeedback


def test_swapping_twice_changes_nothing_and_once_changes_every_index():
    given = Comparison(
        id="c",
        responses=("a", "b"),
        choice=1,
        strength="slightly",
        probability=0.25,
        safe=(True, False),
        criteria={"kind": 0, "true": None},
        strengths={"kind": "better"},
        order_shown=(1, 0),
        off_topic=(1,),
        policies=("x", "y"),
        created="2026-03-14T09:26:53+00:00",
    )
    swapped = given.swap()
    assert (swapped.responses, swapped.choice, swapped.criteria) == (("b", "a"), 0, {"kind": 1, "true": None})
    assert (swapped.order_shown, swapped.off_topic, swapped.policies) == ((0, 1), (0,), ("y", "x"))
    assert (swapped.probability, swapped.safe, swapped.strength) == (0.75, (False, True), "slightly")
    assert (swapped.strengths, swapped.created) == (given.strengths, given.created)
    assert swapped.swap() == given


@pytest.mark.parametrize("criteria", [{}, {"kind": None}])
def test_a_strength_by_a_criterion_is_of_a_choice_by_it(criteria):
    with pytest.raises(ValueError, match="strengths names kind, by which criteria calls neither answer better"):
        Comparison(id="c", responses=("a", "b"), choice=0, criteria=criteria, strengths={"kind": "better"})


def test_off_topic_names_responses():
    with pytest.raises(ValueError, match="off_topic names response 2, but there are 2, from 0"):
        Comparison(id="c", responses=("a", "b"), choice=0, off_topic=(2,))


def test_a_probability_contradicts_no_choice():
    assert Comparison(id="c", responses=("a", "b"), choice=None, probability=0.5).choice is None
    for choice, probability in ((0, 0.4), (1, 0.6), (None, 0.6), (0, 0.5)):
        with pytest.raises(ValueError, match="contradicts choice"):
            Comparison(id="c", responses=("a", "b"), choice=choice, probability=probability)


def test_a_correction_changes_one_of_the_responses():
    assert Correction(id="c", responses=("a", "b"), chosen=1, edited="a").edited == "a"
    with pytest.raises(ValueError, match="chosen names response 2, but there are 2"):
        Correction(id="c", responses=("a", "b"), chosen=2, edited="c")
    with pytest.raises(ValueError, match="nobody changed"):
        Correction(id="c", responses=("a", "b"), chosen=1, edited="b")


def test_spans_lie_in_the_response():
    assert SpanFeedback(id="s", responses=("abc",), spans=(Span(start=0, end=3, label="wrong"),)).spans[0].end == 3
    with pytest.raises(ValueError, match="ends after the response's 3 characters"):
        SpanFeedback(id="s", responses=("abc",), spans=(Span(start=1, end=4, label="wrong"),))
    with pytest.raises(ValueError, match="is empty"):
        Span(start=2, end=2, label="wrong")
