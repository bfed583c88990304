"""Means, variances and whitening over the true places of a mask; what lies elsewhere never matters, NaN included."""

import torch
from torch import Tensor

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
