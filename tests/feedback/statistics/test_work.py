"""Time, cost, forecast, and what to adjudicate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.feedback.statistics.adjudication import posterior_entropy, to_adjudicate, vote_entropy
from loopwright.feedback.statistics.reliability import dawid_skene
from loopwright.feedback.statistics.votes import Votes
from loopwright.feedback.statistics.work import DAY_SECONDS, cost, forecast, labels_per_period, time_on_task
from tests.feedback.statistics.tables import of_units


def test_an_open_tab_counts_as_the_median_of_who_left_it_open():
    seconds = [10, 20, 30, 40, 50, 100_000] + [200, 210, 220, 230, 240]
    found = time_on_task(seconds, ["quick"] * 6 + ["slow"] * 5)
    assert (found.labels, found.idle) == (11, 1)
    assert found.median_seconds == pytest.approx((50 + 200) / 2)
    assert found.quartile_seconds == pytest.approx((32.5, 217.5))  # of the ten that are left
    assert found.work_seconds == pytest.approx(150 + 35 + 1100)


def test_a_slow_reader_is_not_idle_but_one_with_few_labels_is_measured_by_the_team():
    team = [10.0] * 20
    slow = [300.0] * 5
    assert time_on_task(team + slow, ["a"] * 20 + ["b"] * 5).idle == 0
    assert time_on_task(team + slow[:4], ["a"] * 20 + ["b"] * 4).idle == 4


@given(seed=st.integers(0, 2**31))
def test_a_label_more_or_less_idle_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    seconds, who = rng.lognormal(3, 0.4, 40), rng.integers(0, 3, 40)
    order = rng.permutation(40)
    late, later = seconds.copy(), seconds.copy()
    late[0], later[0] = 1e5, 1e9
    assert time_on_task(late, who) == time_on_task(later, who)
    again = time_on_task(late[order], np.array(["x", "y", "z"])[who[order]])
    assert again.work_seconds == pytest.approx(time_on_task(late, who).work_seconds)


def test_cost_by_hand():
    time = time_on_task([36.0] * 10, [0] * 10)
    assert cost(time, 20.0) == (pytest.approx(0.2), pytest.approx(2.0), None)
    nothing = time_on_task([], [])
    assert "no labels" in nothing.undefined and nothing.median_seconds is None
    assert cost(nothing, 20.0).per_label is None
    for rate in (-1.0, math.nan):
        with pytest.raises(ValueError, match="hourly rate"):
            cost(time, rate)
    for wrong in ([-1.0, 2.0], [math.nan, 2.0]):
        with pytest.raises(ValueError, match="negative or not finite"):
            time_on_task(wrong, [0, 0])
    with pytest.raises(ValueError, match="its annotator"):
        time_on_task([1.0], [0, 0])


def test_labels_are_counted_in_whole_periods_that_end_now():
    now = 1e9
    ages_in_days = [0.1, 0.9, 1.5, 3.2, 3.9]  # the first is not four whole days old
    counts = labels_per_period([now - DAY_SECONDS * age for age in ages_in_days] + [now + 5], now=now)
    assert counts.tolist() == [0, 1, 2]
    every_minute = [now - 60 * age for age in range(600)]
    assert labels_per_period(every_minute, now=now, period_seconds=600, periods=3).tolist() == [10, 10, 10]
    assert len(labels_per_period([], now=now)) == 0


def test_forecast_by_hand():
    counts = [90, 110, 100, 80, 120, 100, 100]  # mean 100, variance 1000 / 6
    found = forecast(counts, 1000)
    assert found.periods == pytest.approx(10.0)
    for end in (found.earliest, found.latest):
        variance = 1000 / 6 * (end + end**2 / 7)
        assert (100 * end - 1000) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-6)
    assert found.earliest < 10 < found.latest


def test_the_forecast_holds_what_happens():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        days = rng.poisson(rng.gamma(4.0, 10.0, 200))  # uneven days
        found = forecast(days[:14], 1000)
        reached = int(np.searchsorted(np.cumsum(days[14:]), 1000)) + 1
        held += found.earliest <= reached <= found.latest + 1  # it is reached within a day
    assert 360 <= held <= 396


def test_a_forecast_that_cannot_be_made_says_why():
    assert forecast([5] * 3, 0) == (0.0, 0.0, 0.0, None)
    assert "3 whole periods of the 7" in forecast([5] * 3, 10).undefined
    assert "no label came" in forecast([0] * 7, 10).undefined
    may_never = forecast([0, 0, 0, 0, 0, 0, 7], 100)
    assert may_never.latest is None and 0 < may_never.earliest < may_never.periods == pytest.approx(100)
    even = forecast([100] * 14, 1400)  # as uneven as chance makes it at least
    assert even.earliest < 14 < even.latest


def test_entropy_by_hand():
    votes = of_units([(1, 1), (1, 2), (1, 1, 2), (1, 2, 3), (2,)])
    third = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    assert vote_entropy(votes) == pytest.approx([0, math.log(2), third, math.log(3), 0])
    assert posterior_entropy(np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx([0, math.log(2)])


def test_the_most_disputed_come_first_and_those_with_more_votes():
    votes = of_units([(1, 2), (1, 1, 2), (1, 2, 2, 1), (1, 1), (2, 1, 1), (2, 1, 3)])
    found = to_adjudicate(votes)
    assert [one.item for one in found] == [5, 2, 0, 1, 4]
    assert found[1].votes == {1: 2, 2: 2}
    assert found[1].entropy_nats == pytest.approx(math.log(2))
    assert to_adjudicate(votes, at_most=2) == found[:2]
    assert to_adjudicate(Votes.of([])) == []


def test_a_posterior_knows_whose_word_counts():
    sure = [(item, person, item % 2) for item in range(40) for person in ("ann", "bob")]
    guesses = [(item, "cy", (item // 2) % 2) for item in range(40)]
    votes = Votes.of([*sure, *guesses, ("one", "cy", 1), ("two", "ann", 1)])
    found = to_adjudicate(votes, dawid_skene(votes).posterior)
    assert found[0].item == "one" and found[0].votes == {1: 1}  # only the one who guesses has said anything
    assert found[0].entropy_nats > 0.5
    with pytest.raises(ValueError, match="of other votes"):
        to_adjudicate(votes, np.ones((3, 2)))
