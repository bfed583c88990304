"""What best-of-n reaches, for every n at once: the frontier that a policy trained by PPO is measured against.

Picking the best of n answers of the reference by the reward needs no training, and its distance from the reference is
known; so it tells what a nat of KL is worth without any optimiser (Stiennon et al. 2020, arXiv:2009.01325; Gao et al.
2022, arXiv:2210.10760). Pure numpy: no model is reached from here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class BestOf(NamedTuple):
    """A point of the frontier."""

    n: int
    kl: float  # nats per response, at most: see `best_of_kl`
    value: float  # expected value of the answer that is picked, mean over prompts


def best_of_frontier(
    picked_by: ArrayLike, values: ArrayLike | None = None, counts: Sequence[int] | None = None
) -> list[BestOf]:
    """Expected value of the answer that scores highest among n, from N samples a prompt, without bias.

    Args:
        picked_by: [P, N] score of each of N samples from the reference, by which one is picked.
        values: [P, N] what is reported of the sample picked (gold, another reward); None: the score itself.
        counts: the n to report, each at most N; None: 1, 2, 4, ... up to N.

    Raises:
        ValueError: shapes that do not fit, or an n that is not in 1 ... N.
    """
    scores = np.asarray(picked_by, dtype=np.float64)
    reported = scores if values is None else np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != reported.shape or 0 in scores.shape:
        raise ValueError(f"best_of_frontier needs [P, N] scores and values, got {scores.shape} and {reported.shape}")
    samples = scores.shape[1]
    counts = [2**k for k in range(samples.bit_length()) if 2**k <= samples] if counts is None else counts
    if bad := [n for n in counts if not 1 <= n <= samples]:
        raise ValueError(f"best of {bad[0]} cannot be estimated from {samples} samples a prompt")
    ranked = np.stack([_in_order(row, value) for row, value in zip(scores, reported, strict=True)])
    return [BestOf(n, best_of_kl(n), float((ranked @ _weights(n, samples)).mean())) for n in counts]


def best_of_kl(copies: int) -> float:
    """An upper bound on KL(best of n || one), in nats: log n - (n - 1) / n (Beirami et al. 2024, arXiv:2401.01879)."""
    return math.log(copies) - (copies - 1) / copies


def _in_order(scores: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] values from the lowest score to the highest; equal scores share their mean, as a fair draw would."""
    _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=values) / size
    return np.repeat(means, size)


def _weights(n: int, samples: int) -> NDArray[np.float64]:
    """[N] probability that the sample of rank i is the best of n drawn without replacement: C(i - 1, n - 1) / C(N, n).

    The mean over all subsets of n samples, so the estimate has no bias and uses every sample (as in Nakano et al. 2021,
    arXiv:2112.09332).
    """
    subsets = math.comb(samples, n)
    return np.array([math.comb(rank, n - 1) / subsets for rank in range(samples)])
