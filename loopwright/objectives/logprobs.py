"""Log-probabilities and entropies of tokens from hidden states and the LM head, a few rows at a time.

A [rows, vocabulary] block lives only as long as it takes to reduce it, so there is no [B, T, V] tensor. Where the loss
of each token is known, `summed_losses` takes its gradient from the same block; `token_logprobs` makes the block again
in the backward pass, which costs one more matrix product.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from loopwright.kernels.functions import softmax_slopes_, softmax_sums
from loopwright.kernels.linear import linear, matmul

# What a forbidden logit becomes. Finite, so that p * log p is 0 there and not NaN; exp() of it is exactly 0.
FORBIDDEN_LOGIT = -1e30

Losses = Callable[[Tensor, Tensor, slice], Tensor]  # (log-probabilities [n], entropies [n], which of the N) -> [n]


class TokenLogprobs(NamedTuple):
    logprobs: Tensor  # [N] log-probability of the target, nats
    entropy: Tensor  # [N] entropy of the whole distribution, nats


class SummedLosses(NamedTuple):
    total: Tensor  # scalar: the sum of the losses of all tokens; its gradient is ready
    logprobs: Tensor  # [N] log-probability of the target, nats; no gradient
    entropy: Tensor  # [N] entropy of the whole distribution, nats; no gradient


def token_logprobs(
    hidden: Tensor,
    weight: Tensor | None,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    forbidden: Tensor | None = None,
) -> TokenLogprobs:
    """Log-probabilities of the targets, and entropies, of softmax((hidden weight^T + bias) / temperature).

    Differentiable (once) in hidden, weight and bias, through both results. With z the logits, p = softmax(z):
        d log p_a / dz_j = [j = a] - p_j        dH / dz_j = -p_j (log p_j + H)

    Args:
        hidden: [N, D] states that predict the targets, one row a token; any leading padding is the caller's to drop.
        weight: [V, D] LM head; None: `hidden` are the logits, [N, V].
        targets: [N] int64.
        bias: [V] of the LM head, if it has one.
        temperature: the one the tokens were sampled at (Ziegler et al. 2019, arXiv:1909.08593, sample and score alike).
        forbidden: [F] int64 ids the sampler never draws (padding, special tokens): their probability is exactly 0.
            A target among them gets about -1e30, that is log 0.

    Raises:
        ValueError: shapes do not fit, or temperature is not above 0.
    """
    check_head(hidden, weight, temperature, targets)
    return TokenLogprobs(*_TokenLogprobs.apply(hidden, weight, bias, targets, temperature, forbidden))


def summed_losses(
    hidden: Tensor,
    weight: Tensor | None,
    targets: Tensor,
    losses: Losses,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    forbidden: Tensor | None = None,
) -> SummedLosses:
    """The sum of losses that are functions of each token's log-probability and entropy.

    The gradient of a sum is known up to one factor, so each block of logits is made once, in the forward pass.
    Differentiable (once) in hidden, weight and bias. Arguments and errors are those of `token_logprobs`.

    Args:
        losses: differentiable; called a few tokens at a time.
    """
    check_head(hidden, weight, temperature, targets)
    return SummedLosses(*_SummedLosses.apply(hidden, weight, bias, targets, temperature, forbidden, losses))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        forbidden: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        normaliser = hidden.new_empty(len(hidden), dtype=at_least_float32(hidden))
        logprobs, entropy = torch.empty_like(normaliser), torch.empty_like(normaliser)
        for rows in head_chunks(hidden, weight):
            logits = head_logits(hidden[rows], weight, bias, temperature, forbidden)
            normaliser[rows], entropy[rows] = softmax_sums(logits)
            logprobs[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - normaliser[rows]
        ctx.save_for_backward(hidden, weight, bias, targets, forbidden, normaliser, entropy)
        ctx.temperature = temperature
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logprobs_grad: Tensor, entropy_grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, forbidden, normaliser, entropy = ctx.saved_tensors
        grads = HeadGrads(hidden, weight, bias, ctx.needs_input_grad[:3])
        for rows in head_chunks(hidden, weight):
            logits = head_logits(hidden[rows], weight, bias, ctx.temperature, forbidden)
            slopes = softmax_slopes_(
                logits,
                normaliser[rows],
                entropy[rows],
                targets[rows],
                logprobs_grad[rows],
                entropy_grad[rows],
                1 / ctx.temperature,
            )
            grads.add(rows, slopes)
        return grads.hidden, grads.weight, grads.bias, None, None, None


class _SummedLosses(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 -- tensors that autograd is to see, each by itself
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        forbidden: Tensor | None,
        losses: Losses,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needed = ctx.needs_input_grad[:3]
        grads = HeadGrads(hidden, weight, bias, needed)
        logprobs = hidden.new_empty(len(hidden), dtype=at_least_float32(hidden))
        entropy, total = torch.empty_like(logprobs), logprobs.new_zeros(())
        for rows in head_chunks(hidden, weight):
            logits = head_logits(hidden[rows], weight, bias, temperature, forbidden)
            sums = softmax_sums(logits)
            logprobs[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - sums[0]
            entropy[rows] = sums[1]
            with torch.enable_grad():
                read = logprobs[rows].detach().requires_grad_(), entropy[rows].detach().requires_grad_()
                loss = losses(*read, rows).sum()
            total += loss.detach()
            if any(needed):
                of_logprobs, of_entropy = torch.autograd.grad(loss, read, allow_unused=True, materialize_grads=True)
                slopes = softmax_slopes_(logits, *sums, targets[rows], of_logprobs, of_entropy, 1 / temperature)
                grads.add(rows, slopes)
        ctx.save_for_backward(grads.hidden, grads.weight, grads.bias)
        ctx.mark_non_differentiable(logprobs, entropy)
        return total, logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total_grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        if total_grad != 1.0:
            grads = tuple(None if grad is None else grad * total_grad for grad in grads)
        return *grads, None, None, None, None


class HeadGrads:
    """Collects the gradients of hidden states, LM head and bias from the gradients of blocks of logits."""

    def __init__(self, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, needed: tuple[bool, ...]) -> None:
        self._inputs = (hidden, weight)
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        empty = torch.zeros_like if len(hidden) == 0 else torch.empty_like  # the first rows fill it
        self.weight = empty(weight) if weight is not None and needed[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and needed[2] else None

    def add(self, rows: slice, logits_grad: Tensor) -> None:
        """Take [rows, V], the gradient of the logits before division by the temperature; blocks come in order."""
        hidden, weight = self._inputs
        logits_grad = logits_grad.to(hidden.dtype)
        if self.hidden is not None:
            if weight is None:
                self.hidden[rows] = logits_grad
            else:
                self.hidden[rows] = matmul(logits_grad, weight)
        if self.weight is not None:
            self.weight.addmm_(logits_grad.T, hidden[rows], beta=0 if rows.start == 0 else 1)
        if self.bias is not None:
            self.bias += logits_grad.sum(0)


def head_logits(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, temperature: float, forbidden: Tensor | None
) -> Tensor:
    """[rows, V] logits in memory of their own, float32 or better, at the temperature.

    Forbidden ids are at `FORBIDDEN_LOGIT`. Without a weight `hidden` are the logits.
    """
    dtype = at_least_float32(hidden)
    logits = hidden.to(dtype, copy=True) if weight is None else linear(hidden, weight, bias).to(dtype)
    if temperature != 1.0:
        logits = logits.div_(temperature)
    if forbidden is not None and len(forbidden):
        logits = logits.index_fill_(-1, forbidden, FORBIDDEN_LOGIT)
    return logits


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """The type to sum probabilities in."""
    return torch.promote_types(tensor.dtype, torch.float32)


def row_chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    """Slices over `rows` of about a million logits each: they stay in cache, and are worth a call."""
    size = min(max(2**20 // vocabulary, 256), 4096)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def head_chunks(hidden: Tensor, weight: Tensor | None) -> Iterator[slice]:
    """`row_chunks` of the logits of [N, D] states under an LM head, or of [N, V] logits."""
    return row_chunks(len(hidden), vocabulary_size(hidden, weight))


def vocabulary_size(hidden: Tensor, weight: Tensor | None) -> int:
    """V of an LM head, or of logits."""
    return hidden.shape[-1] if weight is None else len(weight)


def check_head(hidden: Tensor, weight: Tensor | None, temperature: float, targets: Tensor | None = None) -> None:
    """Raise ValueError when an LM head cannot read these states, targets do not fit, or temperature is not above 0."""
    if hidden.ndim != 2 or (weight is not None and (weight.ndim != 2 or hidden.shape[1] != weight.shape[1])):
        shape = None if weight is None else tuple(weight.shape)
        raise ValueError(f"need hidden [N, D] and weight [V, D] of one D, got {tuple(hidden.shape)} and {shape}")
    if targets is not None and targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets must be [N] = [{hidden.shape[0]}], got {tuple(targets.shape)}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be above 0, got {temperature}; greedy sampling has no log-probabilities")
