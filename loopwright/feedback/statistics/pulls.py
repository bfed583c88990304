"""Pulls on pairwise choices that have nothing to do with worth, and whether there is data enough to see one."""

import math
from statistics import NormalDist
from typing import NamedTuple

from numpy.typing import ArrayLike

from loopwright.feedback.statistics.estimates import Estimate, estimate_share

SMALLEST_PULL = 0.55  # a share this far from one half is worth knowing of
SIGNIFICANCE, POWER = 0.05, 0.8


class Pull(NamedTuple):
    share: Estimate
    needed: int  # independent comparisons that show the smallest pull worth knowing of
    enough: bool  # there are as many

    @property
    def seen(self) -> bool:
        """One half lies outside the interval."""
        low, high = self.share.low, self.share.high
        return low is not None and high is not None and not low <= 0.5 <= high


def pull(chosen: ArrayLike, clusters: ArrayLike | None = None, *, smallest: float = SMALLEST_PULL) -> Pull:
    """How often one side of a pair was chosen: the first shown, or the longer answer; whether that is no coin's.

    For the place one half is the standard. For the length it is not: better answers may be longer for good reasons.

    Args:
        chosen: [N] of each decided comparison, whether that side was chosen; leave ties out.
        clusters: [N] what hangs together, such as the prompt; None: nothing does.
        smallest: the share that there should be data enough to see.
    """
    share = estimate_share(chosen, clusters=clusters)
    needed = comparisons_needed(smallest)
    return Pull(share, needed, share.independent >= needed)


def comparisons_needed(share: float, *, significance: float = SIGNIFICANCE, power: float = POWER) -> int:
    """How many comparisons show, with probability `power`, that a choice made with this probability is no coin's.

    The two-sided test of one proportion against 1/2 by the normal approximation (Fleiss, Levin and Paik 2003):
        n = ((z_(1 - significance/2) sqrt(1/4) + z_power sqrt(p (1 - p))) / (p - 1/2))^2
    """
    if not 0.0 < share < 1.0 or share == 0.5:
        raise ValueError(f"a share of {share} cannot be told from one half; it must lie in (0, 1) and not be 0.5")
    normal = NormalDist()
    z = normal.inv_cdf(1 - significance / 2) * 0.5 + normal.inv_cdf(power) * math.sqrt(share * (1 - share))
    return math.ceil((z / (share - 0.5)) ** 2)
