import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.evaluation.elo import ANCHOR_RATING, POINTS_PER_NAT, PRIOR, bradley_terry, counts, elo, won


def test_what_is_won_by_hand():
    # prompt 0: a beats b and ties with c; prompt 1: c has no score
    got = won(np.array([[0.9, 0.1], [0.2, 0.5], [0.9, math.nan]]))
    assert got[0].tolist() == [[0, 1, 0.5], [0, 0, 0], [0.5, 1, 0]]
    assert got[1].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_two_versions_have_a_closed_form():
    """Odds of the wins, each side having half a win more; in points, 400 per factor of ten."""
    scores = {"a": [1.0] * 7 + [0.0] * 2 + [0.5], "b": [0.0] * 7 + [1.0] * 2 + [0.5]}
    got = elo(scores, anchor="b", seed=0)
    odds = (7.5 + PRIOR) / (2.5 + PRIOR)
    assert got["a"].mean == pytest.approx(ANCHOR_RATING + 400 * math.log10(odds))
    assert got["b"] == (ANCHOR_RATING, ANCHOR_RATING, ANCHOR_RATING)
    assert got["a"].low < got["a"].mean < got["a"].high


@pytest.mark.parametrize("seed", range(5))
def test_strengths_agree_with_a_logistic_regression(seed):
    """Bradley-Terry is a binomial GLM on the difference of two indicators, without a constant (Agresti 2002, 10.6)."""
    rng = np.random.default_rng(seed)
    versions = 5
    truth, played = rng.normal(size=versions), rng.integers(1, 60, size=(versions, versions))
    wins = np.zeros((versions, versions))
    design, outcome = [], []
    for i, j in itertools.combinations(range(versions), 2):
        wins[i, j] = rng.binomial(played[i, j], 1 / (1 + math.exp(truth[j] - truth[i])))
        wins[j, i] = played[i, j] - wins[i, j]
        design.append([float(k == i) - float(k == j) for k in range(1, versions)])
        outcome.append([wins[i, j] + PRIOR, wins[j, i] + PRIOR])
    fitted = sm.GLM(np.array(outcome), np.array(design), family=sm.families.Binomial()).fit(tol=1e-12).params
    got = bradley_terry(wins)
    assert got[1:] - got[0] == pytest.approx(fitted, abs=1e-6)


def test_many_tables_at_once_are_each_alone():
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 40, size=(6, 4, 4)).astype(float)
    together = bradley_terry(wins)
    for one, table in zip(together, wins, strict=True):
        assert one == pytest.approx(bradley_terry(table), abs=1e-9)
    assert together.mean(axis=-1) == pytest.approx(np.zeros(6), abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.permutations(["base", "sft", "v1", "v2"]))
def test_the_order_of_versions_and_prompts_does_not_matter(seed, order):
    rng = np.random.default_rng(seed)
    scores = {name: rng.integers(0, 5, size=30).astype(float).tolist() for name in ("base", "sft", "v1", "v2")}
    shuffle = rng.permutation(30)
    other = {name: [scores[name][i] for i in shuffle] for name in order}
    first, second = elo(scores, anchor="sft", seed=0), elo(other, anchor="sft", seed=0)
    for name in scores:
        assert first[name].mean == pytest.approx(second[name].mean, abs=1e-6)
    same_prompts = elo({name: scores[name] for name in order}, anchor="sft", seed=0)
    for name in scores:
        assert first[name] == pytest.approx(same_prompts[name], abs=1e-6)


def test_a_version_that_never_loses_is_not_infinitely_strong():
    got = elo({"a": [1.0] * 20, "b": [0.0] * 20, "c": [0.5] * 20}, anchor="b", seed=0)
    assert ANCHOR_RATING < got["c"].mean < got["a"].mean < ANCHOR_RATING + 400 * math.log10(41**2)


def test_equal_versions_have_one_rating():
    got = elo({name: [0.3, 0.7, None] for name in "abc"}, anchor="a", seed=0)
    assert [interval.mean for interval in got.values()] == pytest.approx([ANCHOR_RATING] * 3)


def test_the_interval_covers_the_truth():
    """Of 30 draws from a known model nearly all intervals of 95 % hold its rating."""
    held = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first = (rng.random(100) < 0.7).astype(float)
        got = elo({"a": first.tolist(), "b": (1 - first).tolist()}, anchor="b", seed=seed)["a"]
        held += got.low <= ANCHOR_RATING + POINTS_PER_NAT * math.log(0.7 / 0.3) <= got.high
    assert held >= 26


def test_every_resample_has_as_many_prompts():
    drawn = counts(7, seed=3, resamples=50)
    assert drawn.sum(axis=1).tolist() == [7.0] * 50 and drawn.mean() == 1.0


@pytest.mark.parametrize("scores", [{"a": [1.0]}, {"b": [1.0], "a": [1.0, 0.0]}])
def test_what_cannot_be_rated_is_an_error(scores):
    with pytest.raises(ValueError, match="elo"):
        elo(scores, anchor="b", seed=0)
