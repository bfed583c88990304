"""The clipped losses of proximal policy optimisation, per token.

Each function returns one loss per token and never averages: the token mean belongs to the minibatch, which may arrive
in several microbatches. Minimised: -L_clip + c_v * 1/2 (V - R)^2 - c_e * H.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    loss: Tensor  # per token, to be minimised: -L_clip
    ratio: Tensor  # per token, new over old probability; carries no gradient
    clipped: Tensor  # per token bool: the clipped branch was the worse one, so the token has no gradient


class ValueLoss(NamedTuple):
    loss: Tensor  # per token: 1/2 (V - R)^2, or its clipped form
    clipped: Tensor  # per token bool: the clipped branch was the worse one


def clipped_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_range: float) -> PolicyLoss:
    """-L_clip per token.

    Schulman et al. 2017, eq. 7 (arXiv:1707.06347), with rho = exp(logprobs - old_logprobs):
        loss = max(-A rho, -A clip(rho, 1 - eps, 1 + eps))

    Args:
        logprobs: any shape, of the sampled tokens under the policy being trained.
        old_logprobs: the same shape, as the sampler drew them.
        advantages: the same shape.
        clip_range: eps.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return PolicyLoss(torch.maximum(free, held), ratio.detach(), (held > free).detach())


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float | None) -> ValueLoss:
    """1/2 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2) per token.

    lm-human-preferences, train_policy.py, `loss` (the form of Ziegler et al. 2019). None: 1/2 (V - R)^2.

    Args:
        values: any shape, from the critic being trained.
        old_values: the same shape, from the critic at the rollout.
        returns: the same shape, advantages (before whitening) + old_values.
    """
    free = (values - returns).square()
    if clip_range is None:
        return ValueLoss(0.5 * free, torch.zeros_like(free, dtype=torch.bool))
    near = values.clamp(old_values - clip_range, old_values + clip_range)  # exactly `values` in between
    held = (near - returns).square()
    return ValueLoss(0.5 * torch.maximum(free, held), (held > free).detach())


def approximate_kl(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """1/2 (log new - log old)^2 per token: how far the update has moved (lm-human-preferences' `approxkl`)."""
    return 0.5 * (logprobs - old_logprobs).square()


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) of flat tensors: 1 is a perfect critic, 0 one no better than a constant; 0 if R is."""
    if len(returns) < 2:
        return returns.new_zeros(())
    variance = returns.var(unbiased=False)
    return torch.where(variance > 0, 1.0 - (returns - values).var(unbiased=False) / variance.clamp(min=1e-12), 0.0)
