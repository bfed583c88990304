"""The interval of a share."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A figure, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def effective_number(clusters: Sequence[Sequence[float]]) -> float:
    """How many independent trials the hits (0, 1, or 1/2) of some clusters, such as prompts, are worth.

    Hits of one cluster hang together: their number over the design effect (Kish 1965), which is the variance of the
    share over clusters by that over as many independent trials. Where all hit, or none, it cannot be seen, and the
    clusters are counted.
    """
    sizes = [len(hits) for hits in clusters]
    return effective_number_of_sums([math.fsum(hits) for hits in clusters], sizes, sizes)


def effective_number_of_sums(hits: ArrayLike, weights: ArrayLike, sizes: ArrayLike) -> float:
    """`effective_number` from what is known of each cluster, where trials may differ in weight.

    Weights that differ cost as clusters do: the variance is that of the weighted share (linearised). Where all hit, or
    none, clusters are counted by Kish's (sum w)^2 / sum w^2, with w the mean weight in each.

    Args:
        hits: [clusters] the hits times their weights, summed.
        weights: [clusters] the weights, summed; a trial without a special weight has 1.
        sizes: [clusters] how many trials each has, at least one.
    """
    hits, weights, sizes = (np.asarray(column, dtype=float) for column in (hits, weights, sizes))
    count, weight = float(sizes.sum()), _total(weights)
    share = _total(hits) / weight
    alone = share * (1.0 - share)
    if len(sizes) == 1 or alone < 1e-12:
        mean_weight = weights / sizes
        return _total(mean_weight) ** 2 / _total(mean_weight**2)
    together = _total((hits - share * weights) ** 2) / weight**2
    design_effect = (together * len(sizes) / (len(sizes) - 1)) / (alone / (count - 1))
    return max(1.0, count / max(1.0, design_effect))


def wilson_interval(share: float, count: float, *, confidence: float = CONFIDENCE) -> Interval:
    """The score interval of a share of `count` independent trials (Wilson 1927).

    Unlike a bootstrap it keeps its width at 0 and at 1, where a small sample says least. Trials that are not
    independent count as fewer: `count` need not be whole.
    """
    if count < 1:
        raise ValueError(f"a share of {count} trials has no interval")
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1.0 - share) / count + z * z / (4 * count * count))
    scale = 1.0 + z * z / count
    return Interval(share, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def _total(values: NDArray[np.float64]) -> float:
    """Exactly rounded, so that the order of clusters does not matter; a list is read faster than an array."""
    return math.fsum(values.tolist())
