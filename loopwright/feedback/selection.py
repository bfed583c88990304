"""What to ask next: how much an answer may teach, and drawing by it with probabilities that are known.

A share of the draws is always at random. The probability of each draw is kept with the item, so that what is asked
because it is hard does not make everything look hard (`pool_mean`).
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Arm = Literal["random", "active"]


class Candidate(NamedTuple):
    """An item that could be asked next."""

    id: int
    worth: float  # what its answer may teach, >= 0, in any unit; 0: it is drawn at random only


class Draw(NamedTuple):
    """An item that is to be asked."""

    id: int
    arm: Arm
    selection_probability: float  # that this one was drawn, of those that were left
    drawn_from: int  # how many were left


def select(candidates: Sequence[Candidate], *, random_share: float, most: int, rng: np.random.Generator) -> list[Draw]:
    """Draw items without replacement, the next to ask first.

    Each draw is at random with probability `random_share`, and otherwise in proportion to worth: of the items R that
    are left, i is drawn with probability

        q(i) = share / |R| + (1 - share) * worth_i / sum of the worth in R.

    An exponential clock of rate worth_i for each item gives the second kind: in the order in which they ring, each is
    drawn in proportion to worth from those left (Efraimidis and Spirakis 2006). Where nothing of worth is left, draws
    are at random.
    """
    if not 0.0 <= random_share <= 1.0:
        raise ValueError(f"random_share is a share, not {random_share}")
    worth = np.array([one.worth for one in candidates], dtype=float)
    if not (np.isfinite(worth).all() and (worth >= 0).all()):
        raise ValueError("the worth of a candidate must be finite and not negative")
    total, draws = len(candidates), min(most, len(candidates))
    with np.errstate(divide="ignore", over="ignore"):
        rings = rng.exponential(size=total) / worth
    orders = {"random": iter(rng.permutation(total).tolist()), "active": iter(np.argsort(rings).tolist())}
    at_random = rng.random(draws) < random_share
    worthy, taken, arms = int((worth > 0).sum()), dict[int, None](), list[Arm]()
    for number in range(draws):
        arm: Arm = "random" if at_random[number] or not worthy else "active"
        place = next(place for place in orders[arm] if place not in taken)
        taken[place] = None
        arms.append(arm)
        worthy -= int(worth[place] > 0)
    order = np.fromiter(taken, dtype=int, count=draws)
    left = total - np.arange(draws)
    others = np.delete(worth, order).sum()
    worth_left = others + np.cumsum(worth[order][::-1])[::-1]  # summed from the end: small sums stay exact
    share = np.where(worth_left > 0, random_share, 1.0)
    active = np.divide(worth[order], worth_left, out=np.zeros(draws), where=worth_left > 0)
    probability = share / left + (1 - share) * active
    return [
        Draw(candidates[place].id, arm, min(q, 1.0), among)
        for place, arm, q, among in zip(order.tolist(), arms, probability.tolist(), left.tolist(), strict=True)
    ]


def pool_mean(values: ArrayLike, probability: ArrayLike, drawn_from: ArrayLike) -> float:
    """The mean over all candidates of one selection, from the values of its first draws, whatever these were for.

    Farquhar, Gal and Rainforth 2021 (arXiv:2101.11665), R_LURE: the mean over the M draws of v_m * value_m, where with
    N candidates, q_m the probability of draw m, and N - m + 1 left at it,

        v_m = 1 + (N - M) / (N - m) * (1 / ((N - m + 1) q_m) - 1).

    It has no bias where each candidate can be drawn at each draw; at random (q_m = 1 / (N - m + 1)) it is the mean.

    Args:
        values: [M] in the order of the draws, none left out.
        probability: [M] `selection_probability` of each.
        drawn_from: [M] of each: N, N - 1, …
    """
    value, q, left = (np.asarray(column, dtype=float) for column in (values, probability, drawn_from))
    if not len(value) or (np.diff(left) != -1).any():
        raise ValueError("values must be those of the first draws of one selection, in their order and without gaps")
    unseen = left[0] - len(value)
    weight = 1.0 + unseen / np.maximum(left - 1, 1) * (1 / (left * q) - 1)
    return float(np.mean(weight * value))


def uncertainty(deviations: Sequence[float | None]) -> float:
    """How much the reward models of an ensemble differ on an item, from their standard deviation on each response.

    Of a single response, that; of several, the greatest of a difference of two, taken to be independent.
    """
    greatest = sorted((one or 0.0 for one in deviations), reverse=True)[:2]
    return math.hypot(*greatest)


def closeness(means: Sequence[float]) -> float:
    """How undecided the reward model is, from 0 to 1: 4 p (1 - p), averaged over the pairs of responses.

    p = sigmoid(difference of the means) is the probability that one is preferred (Bradley and Terry 1952), and
    p (1 - p) the variance of the vote.
    """
    pairs = [math.cosh(min(abs(a - b) / 2, 300.0)) ** -2 for a, b in combinations(means, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0
