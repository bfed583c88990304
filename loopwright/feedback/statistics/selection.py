"""Does choosing what to ask pay: what labels on actively chosen items bring beside those on random ones."""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from loopwright.feedback.statistics.estimates import NO_LABELS, Estimate, estimate_mean, estimate_share

SMALLEST_LIFT = 0.05
Verdict = Literal["pays", "costs", "makes no difference worth knowing of", "not enough data yet"]


class Lift(NamedTuple):
    """What active selection brings a label more than random selection does, or why that is not known."""

    value: float | None
    low: float | None
    high: float | None
    undefined: str | None
    verdict: Verdict
    labels_needed: int | None  # of both arms, in the shares they have now; None where that cannot be said
    active: Estimate
    random: Estimate


def active_lift(
    outcomes: ArrayLike,
    active: ArrayLike,
    *,
    kind: Literal["share", "mean"] = "share",
    smallest: float = SMALLEST_LIFT,
    clusters: ArrayLike | None = None,
) -> Lift:
    """The mean outcome of the active arm less that of the random arm, with an interval.

    The interval joins those of the two means (Newcombe 1998, method 10): with means a and b, and intervals [a1, a2] and
    [b1, b2], from a - b - sqrt((a - a1)^2 + (b2 - b)^2) to a - b + sqrt((a2 - a)^2 + (b - b1)^2).
    It pays or costs where the interval says so; else there must be labels enough for an interval no wider than
    `smallest` to each side before nothing is said to be there.

    Args:
        outcomes: [N] what each label brought, more being better: 1 where the reward model was wrong, or nats gained.
        active: [N] whether its item was chosen actively; the others at random.
        kind: "share" for outcomes in [0, 1], "mean" for any.
        smallest: the lift worth knowing of, in the unit of the outcomes.
        clusters: [N] what hangs together, such as the item; None: nothing does.
    """
    if not smallest > 0:
        raise ValueError(f"the smallest lift worth knowing of must be positive, got {smallest}")
    estimate = estimate_share if kind == "share" else estimate_mean
    values, chosen = np.asarray(outcomes, dtype=float), np.asarray(active, dtype=bool)
    if values.shape != chosen.shape:
        raise ValueError(f"each of the outcomes needs its arm, got shapes {values.shape} and {chosen.shape}")
    together = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    arms = [estimate(values[arm], clusters=together[arm]) for arm in (chosen, ~chosen)]
    for name, arm in zip(("active", "random"), arms, strict=True):
        if arm.undefined:
            reason = f"of the {name} arm: {arm.undefined}"
            return Lift(None, None, None, reason, "not enough data yet", None, *arms)
    lift, low, high = difference(*arms)
    half = max(lift - low, high - lift)
    verdict: Verdict = "not enough data yet"
    if low > 0 or high < 0:
        verdict = "pays" if low > 0 else "costs"
    elif half <= smallest:
        verdict = "makes no difference worth knowing of"
    return Lift(lift, low, high, None, verdict, math.ceil(len(values) * (half / smallest) ** 2), *arms)


def difference(one: Estimate, other: Estimate) -> tuple[float, float, float]:
    """The first less the second with its interval, from theirs."""
    a, a1, a2 = one.value, one.low, one.high
    b, b1, b2 = other.value, other.low, other.high
    if a is None or a1 is None or a2 is None or b is None or b1 is None or b2 is None:
        raise ValueError(f"no difference of what is undefined: {one.undefined or other.undefined or NO_LABELS}")
    return a - b, a - b - math.hypot(a - a1, b2 - b), a - b + math.hypot(a2 - a, b - b1)
