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


def best_of_distribution(probabilities: ArrayLike, scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """[R] probability that each of the R responses there are is the best of n, exactly.

    Beirami et al. 2024 (arXiv:2401.01879): pi_n(y) = F(y)^n - F-(y)^n, where F(y) is the probability of a response that
    scores at most as high as y, and F-(y) of one that scores lower. Responses of equal score share what is theirs as
    the policy divides it between them, because a fair draw among the best of n does.

    Args:
        probabilities: [R] of each response under the policy that is sampled from; they sum to 1.
        scores: [R] by which one is picked.

    Raises:
        ValueError: shapes that do not fit, no distribution, or n below 1.
    """
    policy, by = np.asarray(probabilities, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if policy.ndim != 1 or policy.shape != by.shape or n < 1:
        raise ValueError(f"best_of_distribution needs [R] probabilities and scores and n >= 1, got {by.shape}, n = {n}")
    if (policy < 0).any() or not math.isclose(policy.sum(), 1.0, abs_tol=1e-6):
        raise ValueError(f"best_of_distribution needs probabilities that sum to 1, got {policy.sum():g}")
    _, level = np.unique(by, return_inverse=True)
    mass = np.bincount(level, weights=policy)  # of each score, from the lowest
    up_to = mass.cumsum()
    share = np.divide(mass, up_to, out=np.zeros_like(mass), where=up_to > 0)
    with np.errstate(divide="ignore"):
        picked = up_to**n * -np.expm1(n * np.log1p(-np.minimum(share, 1.0)))  # F^n - F-^n without cancellation
    within = np.divide(policy, mass[level], out=np.zeros_like(policy), where=mass[level] > 0)
    found: NDArray[np.float64] = picked[level] * within
    return found


def exact_best_of_kl(probabilities: ArrayLike, scores: ArrayLike, n: int) -> float:
    """KL(best of n || policy) in nats, of a policy whose R responses are all listed; see `best_of_distribution`.

    At most `best_of_kl(n)`, and near it where no response is likely; where one is, it can be far below.
    """
    policy, best = np.asarray(probabilities, dtype=np.float64), best_of_distribution(probabilities, scores, n)
    seen = best > 0
    return float((best[seen] * np.log(best[seen] / policy[seen])).sum())


def best_of_kl_with_top(n: int, top: float) -> float:
    """KL(best of n || policy) in nats, where the best response has probability `top` and no other is likely.

    The estimate of Beirami et al. 2024 (arXiv:2401.01879) for one prompt, with e for `top`: it holds exactly where all
    but the best response have a continuous score, and is `best_of_kl(n)` at e = 0.
        (1-e)^n (log n + (n-1) log(1-e) - (n-1)/n) + (1 - (1-e)^n) log((1 - (1-e)^n) / e)
    """
    if not 0 <= top <= 1 or n < 1:
        raise ValueError(f"best_of_kl_with_top needs a probability and n >= 1, got {top:g} and n = {n}")
    if top == 1:
        return 0.0
    missed = (1 - top) ** n
    others = missed * (math.log(n) + (n - 1) * math.log1p(-top) - (n - 1) / n)
    return others + ((1 - missed) * math.log((1 - missed) / top) if top > 0 else 0.0)


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
