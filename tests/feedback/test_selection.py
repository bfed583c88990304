"""Draws whose probabilities are known."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.selection import Candidate, closeness, pool_mean, select, uncertainty

WORTH = [0.0, 1.0, 2.0, 5.0]
CANDIDATES = [Candidate(id, worth) for id, worth in enumerate(WORTH)]


def q(place, left, share):
    """The probability of a draw, written out."""
    worth = sum(WORTH[one] for one in left)
    return 1 / len(left) if not worth else share / len(left) + (1 - share) * WORTH[place] / worth


def draw(share, most=4, seed=0, candidates=CANDIDATES):
    return select(candidates, random_share=share, most=most, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_probability_noted_is_that_of_the_draw_among_those_left(share):
    for seed in range(20):
        left = set(range(4))
        for one in draw(share, seed=seed):
            assert one.drawn_from == len(left)
            assert one.selection_probability == pytest.approx(q(one.id, left, share), abs=1e-12)
            left.remove(one.id)


def test_draws_happen_as_often_as_their_probabilities_say():
    """Of 20 000 selections of two: the frequency of each pair against the product of its two probabilities."""
    rng, share, rounds = np.random.default_rng(0), 0.3, 20_000
    counts: dict = {}
    for _ in range(rounds):
        pair = tuple(one.id for one in select(CANDIDATES, random_share=share, most=2, rng=rng))
        counts[pair] = counts.get(pair, 0) + 1
    for first, second in permutations(range(4), 2):
        left = set(range(4))
        expected = q(first, left, share) * q(second, left - {first}, share)
        deviation = (expected * (1 - expected) / rounds) ** 0.5
        assert abs(counts.get((first, second), 0) / rounds - expected) < 5 * deviation


def test_a_random_share_of_one_is_uniform_whatever_the_worth():
    drawn = draw(1.0)
    assert [one.selection_probability for one in drawn] == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])
    assert {one.arm for one in drawn} == {"random"}
    other = [Candidate(one.id, 7.0) for one in CANDIDATES]
    assert [one.id for one in draw(1.0, candidates=other)] == [one.id for one in drawn]


@given(
    worth=st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    most=st.integers(1, 40),
)
def test_everything_is_drawn_at_most_once_with_a_probability(worth, share, seed, most):
    candidates = [Candidate(id, one) for id, one in enumerate(worth)]
    drawn = select(candidates, random_share=share, most=most, rng=np.random.default_rng(seed))
    assert len({one.id for one in drawn}) == len(drawn) == min(most, len(worth))
    assert all(0 < one.selection_probability <= 1 for one in drawn)
    worthless = {one.id for one in drawn if one.arm == "active" and not worth[one.id]}
    assert not worthless
    first = sum(q_of(worth, place, share) for place in range(len(worth)))
    assert first == pytest.approx(1.0)
    assert drawn[0].selection_probability == pytest.approx(q_of(worth, drawn[0].id, share))


def q_of(worth, place, share):
    total = sum(worth)
    return 1 / len(worth) if not total else share / len(worth) + (1 - share) * worth[place] / total


def test_arms_have_their_share():
    candidates = [Candidate(id, 1.0 + id % 3) for id in range(4_000)]
    arms = [one.arm for one in draw(0.25, most=2_000, candidates=candidates)]
    assert arms.count("random") == pytest.approx(500, abs=5 * (2_000 * 0.25 * 0.75) ** 0.5)


def test_without_worth_everything_is_random_and_nothing_gives_nothing():
    assert {one.arm for one in draw(0.0, candidates=[Candidate(1, 0.0), Candidate(2, 0.0)])} == {"random"}
    assert draw(0.5, candidates=[]) == []


@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_the_mean_over_the_pool_has_no_bias(share, most):
    """Exactly: every order of draws with its probability, and what the estimate is then."""
    values = [3.0, -1.0, 4.0, 10.0]
    expected = total = 0.0
    for order in permutations(range(4), most):
        left, chance, probability = set(range(4)), 1.0, []
        for place in order:
            probability.append(q(place, left, share))
            chance *= probability[-1]
            left.remove(place)
        estimate = pool_mean([values[place] for place in order], probability, range(4, 4 - most, -1))
        expected += chance * estimate
        total += chance
    assert total == pytest.approx(1.0)
    assert expected == pytest.approx(np.mean(values))


def test_the_mean_over_the_pool_is_the_plain_one_at_random():
    assert pool_mean([1.0, 2.0, 6.0], [1 / 9, 1 / 8, 1 / 7], [9, 8, 7]) == pytest.approx(3.0)


@pytest.mark.parametrize("left", [[9, 7], [8, 9], []])
def test_the_mean_over_the_pool_needs_draws_without_gaps(left):
    with pytest.raises(ValueError, match="without gaps"):
        pool_mean([1.0] * len(left), [0.1] * len(left), left)


@pytest.mark.parametrize("worth", [-1.0, float("nan"), float("inf")])
def test_worth_that_is_none_is_refused(worth):
    with pytest.raises(ValueError, match="worth"):
        draw(0.5, candidates=[Candidate(1, worth)])


def test_uncertainty_by_hand():
    assert uncertainty([3.0, 4.0]) == pytest.approx(5.0)
    assert uncertainty([3.0, 1.0, 4.0]) == pytest.approx(5.0)  # the two that differ most
    assert uncertainty([2.0]) == 2.0
    assert uncertainty([None, None]) == 0.0


def test_closeness_by_hand():
    assert closeness([1.0, 1.0]) == 1.0
    p = 1 / (1 + np.exp(-2.0))
    assert closeness([0.0, 2.0]) == pytest.approx(4 * p * (1 - p))
    assert closeness([2.0, 0.0]) == closeness([0.0, 2.0])
    assert closeness([0.0, 0.0, 1e9]) == pytest.approx(1 / 3)
    assert closeness([1.0]) == 0.0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"kind": "demonstration", "selection": "uncertainty"}, "no effect on a demonstration"),
        ({"kind": "rating", "selection": "closeness"}, "no effect on a rating"),
        ({"kind": "correction", "selection": "disagreement", "overlap": 2}, "no effect on a correction"),
        ({"kind": "comparison", "selection": "disagreement"}, "overlap"),
        ({"kind": "comparison", "random_share": 0.5}, "no effect"),
        ({"kind": "comparison", "selection": "uncertainty", "random_share": 0.0}, "greater than 0"),
        ({"kind": "comparison", "selection": "uncertainty", "random_share": 1.0}, "less than 1"),
    ],
)
def test_a_selection_without_effect_is_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        ProjectConfig(**settings)
