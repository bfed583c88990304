"""How long labels take, what they cost, and when there will be enough of them."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from loopwright.feedback.intervals import CONFIDENCE
from loopwright.feedback.statistics.estimates import NO_LABELS
from loopwright.feedback.statistics.votes import Codes, Floats, codes

IDLE_FACTOR = 10.0  # times an annotator's own median: nobody read for so long, the tab was left open
FEWEST_FOR_A_MEDIAN = 5  # labels from which on an annotator's own median is used; below, the team's is
DAY_SECONDS = 86_400.0
FEWEST_PERIODS = 7


class TimeOnTask(NamedTuple):
    """Seconds a label; the quartiles are of labels that were not left open. None where `undefined` says why."""

    median_seconds: float | None
    quartile_seconds: tuple[float, float] | None  # a quarter took less, a quarter more
    work_seconds: float  # of all labels together; an idle one counts as its annotator's median
    labels: int
    idle: int  # labels whose tab was left open
    undefined: str | None


class Cost(NamedTuple):
    """In the currency of the hourly rate."""

    per_label: float | None
    total: float
    undefined: str | None


class Forecast(NamedTuple):
    """Periods from now until enough labels are there, with the ends of a 95 % interval."""

    periods: float | None
    earliest: float | None
    latest: float | None  # None: at this pace they may never be there
    undefined: str | None


def time_on_task(seconds: ArrayLike, annotators: ArrayLike) -> TimeOnTask:
    """How long a label takes, whatever tabs were left open.

    A label that took more than `IDLE_FACTOR` times its annotator's own median is idle: it is counted, left out of the
    quartiles, and its work taken to be the median. Slow readers have high medians, so they are not idle.

    Args:
        seconds: [N] from showing an item to the label.
        annotators: [N] who, as numbers or texts.

    Raises:
        ValueError: a time is negative or not finite, or lengths differ.
    """
    times, names = np.asarray(seconds, dtype=float), np.asarray(annotators)
    if times.shape != names.shape or times.ndim != 1:
        raise ValueError(f"each time needs its annotator, got shapes {times.shape} and {names.shape}")
    if not len(times):
        return TimeOnTask(None, None, 0.0, 0, 0, NO_LABELS)
    if not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError("a time on task is negative or not finite; leave out what was not measured")
    _, annotator = codes(names)
    usual = _medians(times, annotator)[annotator]
    idle = times > IDLE_FACTOR * usual
    low, median, high = np.quantile(times[~idle], (0.25, 0.5, 0.75)).tolist()
    work = float(np.where(idle, usual, times).sum())
    return TimeOnTask(median, (low, high), work, len(times), int(idle.sum()), None)


def _medians(times: Floats, annotator: Codes) -> Floats:
    """[annotators] each one's own, or everyone's for those with few labels."""
    number = np.bincount(annotator)
    of_each = np.split(times[np.argsort(annotator, kind="stable")], np.cumsum(number)[:-1])
    own = np.array([np.median(one) for one in of_each])
    return np.where(number >= FEWEST_FOR_A_MEDIAN, own, np.median(times))


def cost(time: TimeOnTask, hourly_rate: float) -> Cost:
    """What the measured work costs; breaks and idle tabs are not in it."""
    if not (math.isfinite(hourly_rate) and hourly_rate >= 0):
        raise ValueError(f"an hourly rate is a number from 0 on, got {hourly_rate}")
    total = time.work_seconds / 3600 * hourly_rate
    return Cost(total / time.labels, total, None) if time.labels else Cost(None, total, NO_LABELS)


def labels_per_period(
    finished: ArrayLike, *, now: float, period_seconds: float = DAY_SECONDS, periods: int = 14
) -> Codes:
    """How many labels came in each of the last whole periods, the oldest first; none before the first label.

    Args:
        finished: [N] when each label came, in seconds since the epoch; those after `now` do not count.
        now: when the last period ends. Fourteen days hold each weekday twice.
    """
    times = np.asarray(finished, dtype=float)
    ages = (now - times[times <= now]) / period_seconds
    whole = min(periods, int(ages.max(initial=0.0)))
    return np.bincount(ages[ages < whole].astype(np.int64), minlength=whole)[::-1]


def forecast(counts: ArrayLike, remaining: int) -> Forecast:
    """When `remaining` more labels will be there, if people go on as in the last periods.

    With W counts of mean m and variance s^2 (at least m, that of arrivals at random), d periods bring d m with a
    variance of d s^2 for themselves and d^2 s^2 / W for not knowing m. The ends are where
    (d m - remaining)^2 = z^2 s^2 (d + d^2 / W), as Fieller's (1954) for a ratio.

    Args:
        counts: [W] labels in each of the last whole periods; see `labels_per_period`.
    """
    if remaining <= 0:
        return Forecast(0.0, 0.0, 0.0, None)
    count = np.asarray(counts, dtype=float)
    if len(count) < FEWEST_PERIODS:
        reason = f"not enough data yet: {len(count)} whole periods of the {FEWEST_PERIODS} a forecast needs"
        return Forecast(None, None, None, reason)
    mean = float(count.mean())
    if not mean:
        return Forecast(None, None, None, f"no label came in the last {len(count)} periods")
    spread = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2.0) ** 2 * max(float(count.var(ddof=1)), mean)
    # a d^2 - 2 b d + remaining^2 = 0
    a, b = mean**2 - spread / len(count), remaining * mean + spread / 2
    root = math.sqrt(b**2 - a * remaining**2)
    latest = (b + root) / a if a > 0 else None
    return Forecast(remaining / mean, remaining**2 / (b + root), latest, None)
