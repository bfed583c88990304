import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.evaluation.best_of import (
    best_of_distribution,
    best_of_frontier,
    best_of_kl_with_top,
    exact_best_of_kl,
)
from loopwright.evaluation.cheap import best_of_kl


def test_by_hand():
    # Of 3 samples, best of 2: pairs (1, 2), (1, 4), (2, 4) have maxima 2, 4, 4.
    found = best_of_frontier([[1.0, 4.0, 2.0]], counts=[1, 2, 3])
    assert [point.value for point in found] == pytest.approx([7 / 3, 10 / 3, 4.0])
    # log n - (n - 1) / n
    assert [point.kl for point in found] == pytest.approx([0.0, math.log(2) - 1 / 2, math.log(3) - 2 / 3])


def test_what_is_reported_may_be_another_value_than_what_picks():
    # The score picks the second, then the third, then the first sample; gold dislikes what the score likes.
    found = best_of_frontier([[1.0, 4.0, 2.0]], [[0.9, 0.1, 0.5]], counts=[1, 2, 3])
    assert [point.value for point in found] == pytest.approx([0.5, (0.5 + 0.1 + 0.1) / 3, 0.1])


def test_it_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=(3, 7)), rng.normal(size=(3, 7))
    for n in (1, 2, 3, 5, 7):
        every = [
            values[prompt][max(subset, key=lambda i: scores[prompt][i])]
            for prompt in range(3)
            for subset in combinations(range(7), n)
        ]
        assert best_of_frontier(scores, values, [n])[0].value == pytest.approx(np.mean(every))


def test_equal_scores_are_drawn_fairly_whatever_their_order():
    scores, values = [[1.0, 1.0, 0.0]], [[0.0, 1.0, 7.0]]
    found = best_of_frontier(scores, values, [2, 3])
    assert [point.value for point in found] == pytest.approx([0.5, 0.5])
    swapped = best_of_frontier(scores, [[1.0, 0.0, 7.0]], [2, 3])
    assert swapped == found


def test_powers_of_two_up_to_the_samples_by_default():
    assert [point.n for point in best_of_frontier(np.arange(6.0)[None])] == [1, 2, 4]
    assert [point.n for point in best_of_frontier(np.arange(64.0)[None])] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    "scores, values, counts",
    [
        ([1.0, 2.0], None, [1]),
        ([[1.0, 2.0]], [[1.0]], [1]),
        ([[1.0, 2.0]], None, [3]),
        ([[1.0]], None, [0]),
        ([[]], None, [1]),
    ],
)
def test_what_cannot_be_estimated_is_refused(scores, values, counts):
    with pytest.raises(ValueError, match="best"):
        best_of_frontier(scores, values, counts)


# ---- exactly


def test_the_best_of_two_by_hand():
    # Lowest first: 0.5, 0.3, 0.2; F^2 is 0.25, 0.64, 1.
    found = best_of_distribution([0.3, 0.5, 0.2], [1.0, 0.0, 2.0], 2)
    assert found == pytest.approx([0.64 - 0.25, 0.25, 1 - 0.64])
    kl = 0.39 * math.log(0.39 / 0.3) + 0.25 * math.log(0.25 / 0.5) + 0.36 * math.log(0.36 / 0.2)
    assert exact_best_of_kl([0.3, 0.5, 0.2], [1.0, 0.0, 2.0], 2) == pytest.approx(kl)


def brute_force(policy, scores, n):
    """Every way to draw n responses, the best of them picked, equal ones by a fair draw."""
    found = np.zeros(len(policy))
    for drawn in product(range(len(policy)), repeat=n):
        best = [i for i in drawn if scores[i] == max(scores[j] for j in drawn)]
        for i in best:
            found[i] += math.prod(policy[j] for j in drawn) / len(best)
    return found


@given(seed=st.integers(0, 2**31), n=st.integers(1, 4), size=st.integers(1, 5), ties=st.booleans())
def test_it_is_what_listing_every_draw_gives(seed, n, size, ties):
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(size))
    scores = rng.integers(0, 3, size) if ties else rng.normal(size=size)
    found = best_of_distribution(policy, scores, n)
    assert found == pytest.approx(brute_force(policy, scores, n))
    assert -1e-12 < exact_best_of_kl(policy, scores, n) <= best_of_kl(n) + 1e-12


def test_of_one_it_is_the_policy_and_of_many_the_best_response_alone():
    policy, scores = [0.1, 0.6, 0.3], [3.0, 1.0, 2.0]
    assert best_of_distribution(policy, scores, 1) == pytest.approx(policy)
    assert exact_best_of_kl(policy, scores, 1) == pytest.approx(0.0)
    assert best_of_distribution(policy, scores, 1000) == pytest.approx([1.0, 0.0, 0.0])
    assert exact_best_of_kl(policy, scores, 1000) == pytest.approx(math.log(10))  # and no more, whatever n


def test_the_usual_formula_holds_where_no_response_is_likely():
    count = 100_000
    exact = exact_best_of_kl(np.full(count, 1 / count), np.arange(count), 16)
    assert exact == pytest.approx(best_of_kl(16), rel=1e-3)
    assert exact_best_of_kl([0.5, 0.5], [0.0, 1.0], 16) == pytest.approx(math.log(2), rel=1e-3)  # and far off here


@pytest.mark.parametrize("n", [1, 2, 16])
@pytest.mark.parametrize("top", [0.001, 0.1, 0.5])
def test_the_estimate_knows_how_likely_the_best_response_is(n, top):
    count = 50_000
    policy = np.append(np.full(count, (1 - top) / count), top)
    assert best_of_kl_with_top(n, top) == pytest.approx(exact_best_of_kl(policy, np.arange(count + 1), n), abs=2e-3)
    assert best_of_kl_with_top(n, 0.0) == pytest.approx(best_of_kl(n))
    assert best_of_kl_with_top(n, 1.0) == 0.0


def test_the_estimate_from_samples_has_no_bias():
    """Best of 3 from 6 samples, over many draws, is what the exact distribution says."""
    rng = np.random.default_rng(0)
    policy, scores = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 5.0])
    drawn = scores[rng.choice(3, size=(40_000, 6), p=policy)]
    (found,) = best_of_frontier(drawn, counts=[3])
    assert found.value == pytest.approx(best_of_distribution(policy, scores, 3) @ scores, abs=0.02)


@pytest.mark.parametrize(
    "policy, scores, n", [([0.5, 0.6], [0, 1], 2), ([1.0], [0, 1], 2), ([1.0], [0], 0), ([1.5, -0.5], [0, 1], 2)]
)
def test_what_is_no_distribution_is_refused(policy, scores, n):
    with pytest.raises(ValueError, match="best_of_distribution needs"):
        best_of_distribution(policy, scores, n)
