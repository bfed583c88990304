"""Means with intervals, the lift of active selection, pulls: by hand, by reduction, by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.feedback.intervals import effective_number, effective_number_of_sums, wilson_interval
from loopwright.feedback.statistics.estimates import estimate_mean, estimate_share
from loopwright.feedback.statistics.pulls import comparisons_needed, pull
from loopwright.feedback.statistics.selection import active_lift, difference


def test_a_share_of_labels_that_stand_alone_has_wilsons_interval():
    found = estimate_share([1] * 30 + [0] * 10)
    assert (found.value, found.low, found.high) == pytest.approx(wilson_interval(0.75, 40))
    assert (found.labels, found.undefined) == (40, None)


def test_the_weighted_mean_by_hand():
    # weights 1/0.5 = 2 and 1/0.25 = 4: (2 * 1 + 4 * 0) / 6
    assert estimate_share([1, 0], probabilities=[0.5, 0.25]).value == pytest.approx(1 / 3)
    values, probabilities = [3.0, -6.0] * 20, [0.5, 0.25] * 20
    found = estimate_mean(values, probabilities=probabilities)
    assert found.value == pytest.approx((2 * 3 - 4 * 6) / 6)
    # linearised: 20 * ((2 * 6)^2 + (4 * 3)^2) / 120^2, times 40 / 39
    deviation = math.sqrt(20 * 288 / 120**2 * 40 / 39)
    assert found.high - found.value == pytest.approx(1.959964 * deviation, rel=1e-6)
    assert found.independent == pytest.approx(120**2 / (20 * (4 + 16)))


@given(seed=st.integers(0, 2**31), probability=st.floats(1e-9, 1))
def test_equal_probabilities_give_the_plain_mean_and_its_interval(seed, probability):
    rng = np.random.default_rng(seed)
    wins, clusters = rng.choice([0, 0.5, 1], 50), rng.integers(0, 40, 50)
    for estimate in (estimate_share, estimate_mean):
        plain = estimate(wins, clusters=clusters)
        weighted = estimate(wins, clusters=clusters, probabilities=[probability] * 50)
        assert plain.undefined == weighted.undefined
        if plain.undefined is None:
            assert weighted[:3] == pytest.approx(plain[:3])
            assert plain.value == pytest.approx(wins.mean())


@given(seed=st.integers(0, 2**31))
def test_order_and_names_of_clusters_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    wins, chance, clusters = rng.integers(0, 2, 60), rng.uniform(0.1, 1, 60), rng.integers(0, 20, 60)
    order = rng.permutation(60)
    found = estimate_share(wins, probabilities=chance, clusters=clusters)
    names = np.array([f"item {number}" for number in rng.permutation(20)])
    again = estimate_share(wins[order], probabilities=chance[order], clusters=names[clusters[order]])
    assert again[:3] == pytest.approx(found[:3])


def test_weights_undo_the_choice_of_items_and_the_interval_holds_the_truth():
    """Hard items are asked for four times as often, and lose more: the plain mean is far off, the weighted is not."""
    rng = np.random.default_rng(5)
    held = {estimate_share: 0, estimate_mean: 0}
    for _ in range(400):
        hard = rng.random(3000) < 0.5
        chance = np.where(hard, 0.4, 0.1)
        asked = rng.random(3000) < chance
        wins = (rng.random(3000) < np.where(hard, 0.3, 0.8)).astype(float)
        for estimate in held:
            found = estimate(wins[asked], probabilities=chance[asked])
            held[estimate] += found.low <= 0.55 <= found.high
    assert all(370 <= number <= 392 for number in held.values()), held
    assert not estimate_share(wins[asked]).high > 0.55


def test_labels_of_one_cluster_count_as_fewer():
    same = np.repeat([1, 0, 1, 0], 25)
    assert estimate_share(same).independent == pytest.approx(100)
    assert estimate_share(same, clusters=np.repeat([1, 2, 3, 4], 25)).independent < 5
    assert estimate_mean(same, clusters=np.repeat(np.arange(50), 2)).independent == 50


def test_sums_of_clusters_say_the_same_as_clusters():
    clusters = [[1.0, 0.5], [0.0], [1.0, 1.0, 0.0]]
    sizes = [len(one) for one in clusters]
    assert effective_number_of_sums([sum(one) for one in clusters], sizes, sizes) == effective_number(clusters)
    # all hit: four clusters, one of them with weights a tenth of the others': (3.1)^2 / 3.01
    assert effective_number_of_sums([2, 2, 2, 0.2], [2, 2, 2, 0.2], [2, 2, 2, 2]) == pytest.approx(9.61 / 3.01)


def test_what_cannot_be_estimated_says_why():
    assert "no labels" in estimate_share([]).undefined
    assert "no labels" in estimate_mean([]).undefined
    few = estimate_mean([1.0] * 29)
    assert few.value is None and "29 independent labels of the 30" in few.undefined
    uneven = estimate_mean(np.arange(60.0), probabilities=[1e-6] + [1.0] * 59)  # one label is worth all others
    assert uneven.value is None and "1 independent" in uneven.undefined
    for outcomes, problem in (([0.5, 1.5], r"\[0, 1\], found 0.5 to 1.5"), ([math.nan, 1], "finite")):
        with pytest.raises(ValueError, match=problem):
            estimate_share(outcomes)
    for probabilities in ([0.0, 1.0], [1.1, 1.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="selection probability"):
            estimate_share([1, 0], probabilities=probabilities)
    with pytest.raises(ValueError, match=r"\(2,\), \(1,\)"):
        estimate_share([1, 0], probabilities=[1.0])


@pytest.mark.parametrize(("share", "needed"), [(0.55, 783), (0.45, 783), (0.60, 194), (0.52, 4904)])
def test_how_many_comparisons_show_a_pull(share, needed):
    # for 0.55: (1.95996 * 0.5 + 0.84162 * sqrt(0.55 * 0.45))^2 / 0.05^2 = 782.5; for 0.52 it is 4903.2
    assert comparisons_needed(share) == needed


def test_that_many_comparisons_do_show_the_pull_four_times_in_five():
    rng = np.random.default_rng(1)
    count = comparisons_needed(0.6)
    seen = sum(pull(rng.random(count) < 0.6, smallest=0.6).seen for _ in range(1000))
    assert 760 <= seen <= 840
    none = sum(pull(rng.random(count) < 0.5, smallest=0.6).seen for _ in range(1000))
    assert 25 <= none <= 75


def test_comparisons_of_one_prompt_are_not_enough_data():
    chosen = np.arange(1000) % 5 < 3
    alone = pull(chosen)
    assert alone.enough and alone.seen and alone.share.value == pytest.approx(0.6)
    together = pull(np.sort(chosen), clusters=np.arange(1000) // 10)  # each prompt has one answer
    assert not together.enough and together.share.value == pytest.approx(0.6)
    assert not pull([]).enough and not pull([]).seen
    assert pull(~chosen).seen  # towards the other side


def test_lift_by_hand():
    # Newcombe 1998, table II (a): 56/70 against 48/80; method 10 gives 0.0524 to 0.3339
    outcomes = [1] * 56 + [0] * 14 + [1] * 48 + [0] * 32
    found = active_lift(outcomes, [True] * 70 + [False] * 80)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert found.verdict == "pays" and found.active.labels == 70
    swapped = active_lift(outcomes, [False] * 70 + [True] * 80)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-0.2, -0.3339, -0.0524), abs=5e-5)
    assert swapped.verdict == "costs"


def test_lift_says_when_there_is_too_little_data():
    outcomes, active = np.arange(200) % 2, np.arange(200) % 4 < 2
    little = active_lift(outcomes, active)
    assert little.value == 0.0 and little.verdict == "not enough data yet"
    # half the interval's width falls with the root of the labels: 0.136 to 0.05
    assert little.labels_needed == math.ceil(200 * (little.high / 0.05) ** 2) == 1480
    copies = math.ceil(little.labels_needed / 200)
    enough = active_lift(np.tile(outcomes, copies), np.tile(active, copies))
    assert enough.verdict == "makes no difference worth knowing of"
    assert active_lift(outcomes, active, smallest=0.5).verdict == enough.verdict
    # ten labels on each item, all alike, are worth one
    items = np.arange(200) // 10
    together = active_lift(items % 2, items < 10, clusters=items)
    assert together.active.labels == 100 and together.active.independent < 11 and together.random.independent < 11


def test_lift_of_a_missing_arm_and_of_unbounded_outcomes():
    alone = active_lift([1, 0, 1], [True, True, True])
    assert alone.value is None and alone.verdict == "not enough data yet"
    assert alone.undefined == "of the random arm: there are no labels yet"
    assert "29" in active_lift(np.ones(59), np.arange(59) < 30, kind="mean").undefined
    rng = np.random.default_rng(2)
    nats = np.concatenate([rng.normal(3.0, 1.0, 400), rng.normal(2.0, 1.0, 100)])
    found = active_lift(nats, np.arange(500) < 400, kind="mean")
    # Welch's: 1.96 sqrt(1 / 400 + 1 / 100) = 0.219
    assert found.verdict == "pays" and found.high - found.value == pytest.approx(0.219, rel=0.1)
    for wrong, problem in (({"smallest": 0.0}, "positive"), ({"active": [True]}, "its arm")):
        with pytest.raises(ValueError, match=problem):
            active_lift(**({"outcomes": [1, 0], "active": [True, False]} | wrong))
    with pytest.raises(ValueError, match="no labels"):
        difference(estimate_share([1]), estimate_share([]))
