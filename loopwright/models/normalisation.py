"""Scores of mean 0 and standard deviation 1, folded into the saved weights.

Ziegler et al. 2019 and Stiennon et al. 2020 normalise a reward model on samples of the reference policy.
They keep a gain and a bias beside the model; a transformers sequence classifier has no place for a bias,
so here both go into weights it has, and any program that loads the folder gets the normalised score.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loopwright.errors import CheckError
from loopwright.models.heads import head_of
from loopwright.models.layers import final_norm

RIDGE = 1e-4  # of the mean variance of a feature: keeps the least-varying direction well defined
SAME = 1e-6  # scores whose spread is below this share of their scale are all the same


class Normalisation(NamedTuple):
    """What was folded in."""

    mean: float  # of the scores on the reference samples before
    std: float
    scale: float  # what the head was divided by
    correlation: float  # between the scores before and after; 1 where the fold is exact


def fold_normalisation(model: PreTrainedModel, features: Tensor) -> Normalisation:
    """Change the model's weights so that its scores on the reference samples have mean 0 and std 1.

    Of several heads each gets mean 0, since preferences leave the mean of each free, and all are divided by the
    deviation of their mean, which is the score: how far they differ keeps its meaning.

    Args:
        model: a sequence classifier whose heads have no bias.
        features: [N, d] what its head reads on N reference samples (`last_token_features`).

    A final LayerNorm has a bias b, and moving it along the head w shifts every score alike: with
    b - m w / |w|^2 the score falls by exactly m (several heads: b - W^+ m). A final RMSNorm (Llama, Qwen2)
    has none. Then the direction u whose product with the features is closest to a constant takes its
    place: the one that minimises the variance of u.h while mean(u.h) = 1, u = S^-1 mu / (mu' S^-1 mu) with mean mu and
    covariance S of the features. The head becomes (w - m u) / s: its mean is exactly 0, s makes its
    deviation exactly 1, and the correlation tells how far the order of the scores was kept.

    Raises:
        CheckError: the model gives every reference sample the same score.
    """
    head, norm = head_of(model), final_norm(model)
    features, weight = features.double().cpu(), head.weight.detach().double().cpu()  # [N, d], [H, d]
    by_head = features @ weight.T
    means, scores = by_head.mean(0), by_head.mean(1)
    mean, std = float(scores.mean()), float(scores.std(correction=0))
    check_scores_differ(scores)
    bias = getattr(norm, "bias", None)
    if isinstance(bias, nn.Parameter):
        new_weight, scale, correlation = weight / std, std, 1.0
        with torch.no_grad():
            bias.sub_((torch.linalg.pinv(weight) @ means).to(bias))
    else:
        shifted = weight - means[:, None] * _most_constant_direction(features)
        after = (features @ shifted.T).mean(1)
        correlation = float(torch.corrcoef(torch.stack((scores, after)))[0, 1])
        scale = float(after.std(correction=0))
        new_weight = shifted / scale
    with torch.no_grad():
        head.weight.copy_(new_weight.to(head.weight))
    return Normalisation(mean, std, scale, correlation)


def fold_into_bias(head: nn.Linear, scores: Tensor) -> Normalisation:
    """The same for a head that has a bias, such as an encoder's: exact, whatever text comes.

    Args:
        head: the layer whose outputs are what the heads say.
        scores: [N, H] of the reference samples.

    Raises:
        CheckError: all scores are the same.
    """
    means, total = scores.double().mean(0), scores.double().mean(1)
    check_scores_differ(total)
    mean, std = float(total.mean()), float(total.std(correction=0))
    with torch.no_grad():
        head.bias.sub_(means.to(head.bias)).div_(std)
        head.weight.div_(std)
    return Normalisation(mean, std, std, 1.0)


def check_scores_differ(scores: Tensor) -> None:
    """Raise CheckError when [N] scores are all the same, or not finite; the scale of the scores does not matter."""
    scores = scores.double()
    if not torch.isfinite(scores).all():
        raise CheckError("the reward model gives scores that are not finite; train it with a lower learning rate")
    if len(scores) < 2 or float(scores.std(correction=0)) <= SAME * float(scores.abs().max()):
        raise CheckError(
            f"the reward model gives the same score to all {len(scores)} reference samples; "
            "give it more comparisons, or train it with a different learning rate"
        )


def _most_constant_direction(features: Tensor) -> Tensor:
    """[d] double: u with mean(u.h) = 1 and the least variance of u.h over the rows h of [N, d]."""
    mu = features.mean(dim=0)
    covariance = torch.cov(features.T, correction=0)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(mu), dtype=features.dtype)
    solved = torch.linalg.solve(covariance + ridge, mu)
    return solved / mu.dot(solved)
