"""How strong each of several versions is, from judgements of pairs of them. Pure numpy: no model is reached from here.

Bradley and Terry (1952): version i beats j with probability 1 / (1 + exp(s_j - s_i)). Elo's scale (1978) is the same
model with s = rating * ln(10) / 400, so that 400 points are odds of ten to one.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from loopwright.feedback.intervals import CONFIDENCE, Interval

Array = NDArray[np.float64]

RESAMPLES = 2_000
ANCHOR_RATING = 1_000.0
POINTS_PER_NAT = 400.0 / math.log(10.0)
PRIOR = 0.5  # of a win on each side of every pair: who never lost is not infinitely strong
LARGEST_STEP = 2.0  # of Newton's method, in nats: from far away a whole one overshoots
STEPS = 200


def elo(
    scores: Mapping[str, Sequence[float | None]], *, anchor: str, seed: int, margin: float = 1e-9
) -> dict[str, Interval]:
    """The rating of each version, with a percentile bootstrap interval over prompts.

    Of each prompt every two versions are compared by their scores, a tie counting half to each. What is drawn again
    are prompts, with all their comparisons: those of one prompt hang together.

    Args:
        scores: version -> a score a prompt, the prompts the same and in one order; None where it does not apply.
        anchor: the version that is rated 1,000; the intervals are of the distance to it.
        margin: scores closer than this tie.

    Raises:
        ValueError: the anchor is not among the versions, or they were not asked equally many prompts.
    """
    if anchor not in scores:
        raise ValueError(f"elo: anchor {anchor} is not among the versions {', '.join(scores)}")
    if len({len(column) for column in scores.values()}) > 1:
        sizes = {name: len(column) for name, column in scores.items()}
        raise ValueError(f"elo needs one score a prompt of every version, got {sizes}")
    names = list(scores)
    table = np.array([[math.nan if x is None else x for x in column] for column in scores.values()], dtype=np.float64)
    points = won(table, margin)
    drawn = counts(points.shape[0], seed)
    wins = np.concatenate([points.sum(axis=0)[None], np.einsum("rp,pij->rij", drawn, points, optimize=True)])
    strengths = bradley_terry(wins)
    ratings = ANCHOR_RATING + POINTS_PER_NAT * (strengths - strengths[:, [names.index(anchor)]])
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(ratings[1:], [tail, 1.0 - tail], axis=0)
    return {name: Interval(*map(float, (ratings[0, i], low[i], high[i]))) for i, name in enumerate(names)}


def won(table: Array, margin: float = 1e-9) -> Array:
    """[P, V, V] what version i wins against j on a prompt: 1, 1/2 for a tie, 0; 0 to both where a score is missing.

    Args:
        table: [V, P] scores, nan where one does not apply.
    """
    ahead = table.T[:, :, None] - table.T[:, None, :]
    points = np.where(np.abs(ahead) <= margin, 0.5, (ahead > 0).astype(np.float64))
    points[np.isnan(ahead)] = 0.0
    places = np.arange(table.shape[0])
    points[:, places, places] = 0.0
    return points


def counts(prompts: int, seed: int, resamples: int = RESAMPLES) -> Array:
    """[R, P] how often each prompt is in each bootstrap sample of as many prompts."""
    if not prompts:
        raise ValueError("there are no prompts to draw from")
    return np.random.default_rng(seed).multinomial(prompts, [1 / prompts] * prompts, size=resamples).astype(np.float64)


def bradley_terry(wins: Array) -> Array:
    """[..., V] the strengths of greatest likelihood, in nats, with mean 0.

    Maximises the sum over pairs of w_ij log p_ij (Bradley and Terry 1952), w being the wins and `PRIOR` more on either
    side, by Newton's method: the likelihood is concave, and with the prior its maximum is finite and unique.

    Args:
        wins: [..., V, V] how often i won against j, a tie counting half to each; its diagonal is not read.
    """
    versions = wins.shape[-1]
    others = 1.0 - np.eye(versions)
    wins = (wins + PRIOR) * others
    both = wins + np.swapaxes(wins, -1, -2)
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(STEPS):
        chance = 1.0 / (1.0 + np.exp(strengths[..., None, :] - strengths[..., :, None]))
        gradient = (wins - both * chance).sum(axis=-1)
        spread = both * chance * (1.0 - chance)
        # Strengths count up to a shift: ones added to the Hessian fix their mean and change no step.
        hessian = np.ones_like(spread) - spread
        hessian[..., range(versions), range(versions)] += spread.sum(axis=-1)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        largest = np.abs(step).max(axis=-1, keepdims=True)
        strengths = strengths + step * np.minimum(1.0, LARGEST_STEP / np.maximum(largest, 1e-300))
        if largest.max() < 1e-9:
            break
    else:
        raise ArithmeticError(f"Bradley-Terry did not converge in {STEPS} steps of Newton's method")
    return strengths - strengths.mean(axis=-1, keepdims=True)
