"""Means with intervals, of labels that hang together and of labels that were chosen with known probabilities."""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from loopwright.feedback.intervals import CONFIDENCE, effective_number_of_sums, wilson_interval
from loopwright.feedback.statistics.votes import Floats, codes

NO_LABELS = "there are no labels yet"
FEWEST_FOR_A_MEAN = 30  # independent labels from which on a mean of anything is taken for normal


class Estimate(NamedTuple):
    """A figure with the ends of its 95 % interval, or why there is none."""

    value: float | None
    low: float | None
    high: float | None
    undefined: str | None
    labels: int
    independent: float  # how many independent, equally weighted labels these are worth

    def as_dict(self) -> dict[str, Any]:
        return self._asdict()


class _Sums(NamedTuple):
    """Of each cluster."""

    outcomes: Floats  # times their weights
    weights: Floats
    sizes: Floats  # labels


def estimate_share(
    outcomes: ArrayLike, *, probabilities: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> Estimate:
    """The mean of outcomes between 0 and 1, such as right or wrong, or a win (ties half), with Wilson's interval.

    With `probabilities` p it is the mean that labels chosen evenly would have had, as far as each label had a chance:
    sum(y / p) / sum(1 / p) (Hajek's estimate), its variance linearised. Equal probabilities give the plain mean.

    Args:
        outcomes: [N] in [0, 1].
        probabilities: [N] in (0, 1], with which each label's item was chosen, whichever way it could have been; None:
            all alike.
        clusters: [N] what hangs together, such as the item or the prompt, as numbers or texts; None: nothing does.

    Raises:
        ValueError: an outcome or a probability is out of range, or lengths differ.
    """
    sums = _sums(outcomes, probabilities, clusters)
    if not len(sums.sizes):
        return Estimate(None, None, None, NO_LABELS, 0, 0.0)
    values = np.asarray(outcomes, dtype=float)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"outcomes of a share lie in [0, 1], found {values.min():g} to {values.max():g}")
    independent = effective_number_of_sums(*sums)
    share = min(1.0, max(0.0, math.fsum(sums.outcomes) / math.fsum(sums.weights)))  # rounding may pass the ends
    return Estimate(*wilson_interval(share, independent), None, len(values), independent)


def estimate_mean(
    outcomes: ArrayLike, *, probabilities: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> Estimate:
    """`estimate_share` for outcomes of any size, such as nats of information: an interval by the normal law.

    The law holds for many labels only: nothing is said of less than `FEWEST_FOR_A_MEAN` independent ones.
    """
    sums = _sums(outcomes, probabilities, clusters)
    labels = int(sums.sizes.sum())
    if not labels:
        return Estimate(None, None, None, NO_LABELS, 0, 0.0)
    weight = math.fsum(sums.weights)
    independent = weight**2 / math.fsum(sums.weights**2)  # Kish 1965, of clusters
    if independent < FEWEST_FOR_A_MEAN:
        reason = (
            f"not enough data yet: {independent:.0f} independent labels of the {FEWEST_FOR_A_MEAN} an interval needs"
        )
        return Estimate(None, None, None, reason, labels, independent)
    mean = math.fsum(sums.outcomes) / weight
    squares = math.fsum((sums.outcomes - mean * sums.weights) ** 2)
    deviation = math.sqrt(squares * len(sums.sizes) / (len(sums.sizes) - 1)) / weight
    spread = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2.0) * deviation
    return Estimate(mean, mean - spread, mean + spread, None, labels, independent)


def _sums(outcomes: ArrayLike, probabilities: ArrayLike | None, clusters: ArrayLike | None) -> _Sums:
    values = np.asarray(outcomes, dtype=float)
    chance = np.ones_like(values) if probabilities is None else np.asarray(probabilities, dtype=float)
    together = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if not values.shape == chance.shape == together.shape or values.ndim != 1:
        raise ValueError(
            f"an estimate needs one probability and one cluster for each of the outcomes, got shapes {values.shape}, "
            f"{chance.shape} and {together.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("an outcome is not a finite number; leave out what is missing")
    if not ((chance > 0) & (chance <= 1)).all():
        raise ValueError(
            "a selection probability is not in (0, 1]; what could not be chosen, or was chosen with unknown "
            "probability, cannot stand for others: leave it out"
        )
    weights = chance.min(initial=1.0) / chance
    _, place = codes(together)
    return _Sums(
        np.bincount(place, weights=weights * values).astype(float),
        np.bincount(place, weights=weights).astype(float),
        np.bincount(place).astype(float),
    )
