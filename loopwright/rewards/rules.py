"""How several scores of a response become one number. docs/merging.md has the formulas and where they are from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """What rules may read. Of K rewards and B responses; scores are the higher, the better."""

    scores: Tensor  # [K, B]
    weights: Tensor  # [K]
    adversarial: Tensor  # [B] bool, the prompt is tagged as one that asks for something unsafe
    helpful: Tensor  # [B] scores of the reward with that role; without roles, of the first
    safe: Tensor  # [B] the same
    threshold: float
    multiplier: float  # lambda


class Shares(NamedTuple):
    """What each reward had of the number."""

    name: str  # of the figures, before the reward's name
    of: Callable[[Case], Tensor]  # -> [K, B], a row for each reward; where a rule has roles, in the order of ROLES


class Rule(NamedTuple):
    """A rule, and what goes with it."""

    merge: Callable[[Case], Tensor]  # -> [B]
    shares: Shares
    settings: tuple[str, ...] = ()  # of `MergeConfig`, that this rule reads
    weighs: bool = False  # reads the weights of the rewards
    has_roles: bool = False  # merges two rewards, of which one is `helpful` and one `safe`
    normalises: bool = True  # by default: scores of different scales are made comparable first
    takes_raw: bool = False  # must have logits: not normalised, and that of our own reward models undone
    whitens: bool = False  # an update learns from scores whitened over its batch
    sums_tokens: bool = False  # per-token scores can be merged, too


def weighted_sum(scores: Tensor, weights: Tensor) -> Tensor:
    """[B] sum_k w_k s_k of [K, B] scores."""
    return weighted(scores, weights).sum(0)


def weighted(scores: Tensor, weights: Tensor) -> Tensor:
    """[K, B] w_k s_k."""
    return weights[:, None] * scores


def worst(scores: Tensor) -> Tensor:
    """[B] min_k s_k of [K, B] scores."""
    return scores.min(0).values


def is_worst(scores: Tensor) -> Tensor:
    """[K, B] 1 for the reward whose score is the least, the first of equals, and 0 for the others."""
    return torch.nn.functional.one_hot(scores.min(0).indices, len(scores)).T


def product(scores: Tensor) -> Tensor:
    """[B] prod_k sigmoid(s_k) of [K, B] scores.

    A product of the scores themselves would make two bad ones good. The sigmoid turns each into the probability that
    the response is preferred to one of score 0 (Bradley and Terry 1952), and the product is that of being preferred in
    every respect, were they independent.
    """
    return torch.nn.functional.logsigmoid(scores).sum(0).exp()


def llama2(helpful: Tensor, safe: Tensor, adversarial: Tensor, threshold: float) -> Tensor:
    """[B] the safety score where the prompt is adversarial or sigmoid(safe) < threshold, else the helpfulness score.

    Touvron et al. 2023, sec. 3.3 (arXiv:2307.09288): R_c, as a logit. Their R_s is the sigmoid's output.

    Args:
        helpful, safe: [B] logits.
        adversarial: [B] bool.
    """
    return torch.where(safety_decides(safe, adversarial, threshold), safe, helpful)


def safety_decides(safe: Tensor, adversarial: Tensor, threshold: float) -> Tensor:
    """[B] bool: where R_c is the safety score."""
    return adversarial | (torch.sigmoid(safe) < threshold)


def constrained(reward: Tensor, cost: Tensor, multiplier: float) -> Tensor:
    """[B] (r - lambda c) / (1 + lambda), of [B] rewards and costs (Dai et al. 2023, arXiv:2310.12773)."""
    return (reward - multiplier * cost) / (1.0 + multiplier)


def constrained_parts(reward: Tensor, cost: Tensor, multiplier: float) -> Tensor:
    """[2, B] r / (1 + lambda) and -lambda c / (1 + lambda), whose sum that is."""
    return torch.stack((reward, -multiplier * cost)) / (1.0 + multiplier)


def ascend(multiplier: float, cost: float, limit: float, learning_rate: float) -> float:
    """The next multiplier: max(0, lambda + learning_rate (cost - limit)), projected dual ascent.

    Args:
        cost: mean over the responses of a batch, which stands for the expected cost.
        limit: what the expected cost may be.
    """
    return max(0.0, multiplier + learning_rate * (cost - limit))


ROLES = ("helpful", "safe")

RULES: dict[str, Rule] = {
    "weighted_sum": Rule(
        lambda case: weighted_sum(case.scores, case.weights),
        Shares("contribution", lambda case: weighted(case.scores, case.weights)),
        weighs=True,
        sums_tokens=True,
    ),
    "worst": Rule(lambda case: worst(case.scores), Shares("decided_by", lambda case: is_worst(case.scores))),
    "product": Rule(lambda case: product(case.scores), Shares("factor", lambda case: torch.sigmoid(case.scores))),
    "llama2": Rule(
        lambda case: llama2(case.helpful, case.safe, case.adversarial, case.threshold),
        Shares("decided_by", lambda case: _either(safety_decides(case.safe, case.adversarial, case.threshold))),
        settings=(*ROLES, "threshold", "safety_tag"),
        has_roles=True,
        normalises=False,
        takes_raw=True,
        whitens=True,
    ),
    "constraint": Rule(
        lambda case: constrained(case.helpful, -case.safe, case.multiplier),
        Shares("contribution", lambda case: constrained_parts(case.helpful, -case.safe, case.multiplier)),
        settings=(*ROLES, "limit", "multiplier", "multiplier_learning_rate"),
        has_roles=True,
        normalises=False,
    ),
}


def _either(second: Tensor) -> Tensor:
    """[2, B] of [B] bool: where it is not so, and where it is."""
    return torch.stack((~second, second))
