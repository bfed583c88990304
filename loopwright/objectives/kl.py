"""How far the policy is from the reference: estimators, the exact divergence, and the coefficient that pays for it.

Per-token values are in nats. What is reported and controlled is the sum over a response's tokens, averaged over
responses.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from loopwright.objectives.logprobs import (
    HeadGrads,
    at_least_float32,
    check_head,
    head_chunks,
    head_logits,
    vocabulary_size,
)

Estimator = Literal["k1", "k2", "k3"]

LARGEST_ERROR = 0.2  # relative to the target, that the adaptive controller reacts to


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """Estimates of KL(policy || reference) from tokens sampled by the policy.

    Schulman 2020 (joschu.net/blog/kl-approx.html). With r = log policy - log reference of the sampled token:
        k1 = r                  unbiased, may be negative
        k2 = r^2 / 2            biased, low variance; as a loss its gradient is the one of the true KL
        k3 = exp(-r) - 1 + r    unbiased, never negative

    Args:
        logprobs: any shape, log-probabilities under the policy.
        reference_logprobs: the same shape, under the reference.

    Raises:
        ValueError: the estimator is none of the three.
    """
    ratio = logprobs - reference_logprobs
    if estimator == "k1":
        return ratio
    if estimator == "k2":
        return 0.5 * ratio * ratio
    if estimator == "k3":
        return torch.expm1(-ratio) + ratio
    raise ValueError(f'estimator must be "k1", "k2" or "k3", got {estimator!r}')


class Head(NamedTuple):
    """Hidden states with the LM head that reads them, or logits."""

    hidden: Tensor  # [N, D], or [B, T, D] before places are picked; without a weight the logits: V in the place of D
    weight: Tensor | None  # [V, D]
    bias: Tensor | None = None  # [V]

    def at(self, places: Tensor) -> "Head":
        """The states, of [B, T, D], at the N true places of [B, T]."""
        return self._replace(hidden=self.hidden[places])

    @property
    def shape(self) -> tuple[int, int]:
        """N and V of the logits."""
        return len(self.hidden), vocabulary_size(self.hidden, self.weight)


def exact_kl(policy: Head, reference: Head, *, temperature: float = 1.0, forbidden: Tensor | None = None) -> Tensor:
    """KL(policy || reference) over the full vocabulary at each of N places: [N], nats, never negative.

    sum_j p_j (log p_j - log q_j), a few rows at a time. Differentiable (once) in the policy's tensors:
        d KL / dz_j = p_j (log p_j - log q_j - KL)

    Args:
        policy: the distribution p.
        reference: the distribution q over the same vocabulary; a constant, its D may differ.
        temperature: divides both logits.
        forbidden: [F] int64 ids that neither can emit.
    """
    check_head(policy.hidden, policy.weight, temperature)
    check_head(reference.hidden, reference.weight, temperature)
    if policy.shape != reference.shape:
        raise ValueError(
            f"exact_kl needs the same N and V on both sides, got policy {policy.shape} and reference {reference.shape}"
        )
    fixed = Head(*(None if part is None else part.detach() for part in reference))  # type: ignore[arg-type]
    return _ExactKL.apply(*policy, *fixed, temperature, forbidden)


class _ExactKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        policy, reference, (temperature, forbidden) = Head(*inputs[:3]), Head(*inputs[3:6]), inputs[6:]
        kl = policy.hidden.new_empty(len(policy.hidden), dtype=at_least_float32(policy.hidden))
        for rows in head_chunks(policy.hidden, policy.weight):
            log_p, log_q = (_log_softmax(head, rows, temperature, forbidden) for head in (policy, reference))
            kl[rows] = (log_p.exp() * (log_p - log_q)).sum(-1)
        ctx.save_for_backward(*policy, *reference, forbidden, kl)
        ctx.temperature = temperature
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, kl_grad: Tensor) -> tuple[Tensor | None, ...]:
        *heads, forbidden, kl = ctx.saved_tensors
        policy, reference = Head(*heads[:3]), Head(*heads[3:])
        grads = HeadGrads(*policy, ctx.needs_input_grad[:3])
        for rows in head_chunks(policy.hidden, policy.weight):
            log_p, log_q = (_log_softmax(head, rows, ctx.temperature, forbidden) for head in (policy, reference))
            slope = log_p.exp() * (log_p - log_q - kl[rows, None]) * kl_grad[rows, None]
            grads.add(rows, slope.div_(ctx.temperature))
        return grads.hidden, grads.weight, grads.bias, None, None, None, None, None


def _log_softmax(head: Head, rows: slice, temperature: float, forbidden: Tensor | None) -> Tensor:
    return head_logits(head.hidden[rows], head.weight, head.bias, temperature, forbidden).log_softmax(-1)


class FixedKLController:
    """A coefficient that stays."""

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient

    def update(self, kl_nats_per_response: float, episodes: int) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"coefficient": self.coefficient}

    def load(self, state: dict[str, float]) -> None:
        """Take back what `state` gave."""
        self.coefficient = float(state["coefficient"])


class AdaptiveKLController(FixedKLController):
    """A coefficient that seeks a KL of `target` nats per response.

    Ziegler et al. 2019, sec. 2.2 (arXiv:1909.08593), once per batch, after training on it:
        coefficient *= 1 + clip(KL / target - 1, -0.2, 0.2) * episodes / horizon

    At the most it changes by a factor e within 5 horizons of episodes. A run of 6,000 episodes with the paper's horizon
    of 10,000 can therefore not even grow it by 13 %: choose the horizon by the length of the run.
    """

    def __init__(self, coefficient: float, *, target: float, horizon: int) -> None:
        super().__init__(coefficient)
        self.target, self.horizon = target, horizon

    def update(self, kl_nats_per_response: float, episodes: int) -> None:
        """Move the coefficient after a batch of `episodes` responses with this mean KL."""
        error = min(max(kl_nats_per_response / self.target - 1.0, -LARGEST_ERROR), LARGEST_ERROR)
        self.coefficient *= 1.0 + error * episodes / self.horizon
