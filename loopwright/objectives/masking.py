"""Means, variances and whitening over the true places of a mask; what lies elsewhere never matters, NaN included."""

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token_mean", "response_mean", "response_sum"]

EPSILON = 1e-8  # under the square root, as in OpenAI's lm-human-preferences (utils/core.py, `whiten`)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is true: two tensors of one shape in, a scalar out."""
    return values.masked_fill(~mask, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is true; 0 when it is true nowhere.

    Args:
        values: any shape.
        mask: bool, the same shape.
    """
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Biased variance (divided by the count, not by count - 1) where `mask` is true; 0 when it is true nowhere."""
    centred = (values - masked_mean(values, mask)).masked_fill(~mask, 0.0)
    return masked_mean(centred * centred, mask)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale to variance 1, and to mean 0 when `shift_mean`; zero outside the mask.

    (x - mean) * rsqrt(variance + 1e-8), with the biased variance, as in Ziegler et al. 2019 (arXiv:1909.08593;
    lm-human-preferences, utils/core.py). `shift_mean=False` adds the mean back: the form for rewards, whose sign means
    something.

    Args:
        values: any shape.
        mask: bool, the same shape.
    """
    values = values.masked_fill(~mask, 0.0)  # before anything else: junk there would reach the gradients
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_var(values, mask) + EPSILON)
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


def loss_divisors(mask: Tensor, aggregation: Aggregation, *, most_tokens: int) -> int | Tensor:
    """What to divide the loss of each token by, so that their sum over a minibatch of responses is its loss.

    token_mean: the mean over all tokens (PPO; Yu et al. 2025, arXiv:2503.14476): a long response counts for more.
    response_mean: the mean over a response's tokens, then over responses (Shao et al. 2024, eq. 3): each counts
        alike, so a token of a long one for less.
    response_sum: the sum over a response's tokens over `most_tokens`, a constant, then the mean over responses: the
        gradient of log pi(response) itself (Ahmadian et al. 2024; Dr. GRPO, Liu et al. 2025).

    The parts of a minibatch may be computed in any number of microbatches: the divisors are the minibatch's.

    Args:
        mask: [B, T] bool, true on response tokens, of the whole minibatch.
        most_tokens: that a response can have.

    Returns:
        One number for all tokens, or [B] for those of each response.
    """
    if aggregation == "token_mean":
        return int(mask.sum())
    if aggregation == "response_mean":
        return (mask.sum(1) * len(mask)).clamp(min=1)
    return torch.full((len(mask),), len(mask) * most_tokens, device=mask.device)


def scaled_sum(values: Tensor, coef: float, divisors: int | Tensor) -> Tensor:
    """coef * sum of [N] values, each over its divisor: one number, or [N]."""
    if isinstance(divisors, int):
        return coef / divisors * values.sum()
    return coef * (values / divisors).sum()
