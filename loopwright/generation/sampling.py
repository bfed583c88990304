"""Sampling one token a row from a distribution, with numbers that depend on the row alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loopwright.generation.base import SamplingConfig
from loopwright.kernels.functions import sample_from

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the step of splitmix64
MASK64 = 2**64 - 1


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """[B, steps] float32 in [0, 1): number t of row b is a hash of (seeds[b], t) and of nothing else.

    splitmix64 (Steele, Lea and Flood 2014) run from the hash of the seed: a counter-based generator, so
    a row draws the same numbers in any batch. 23 bits: the largest number times the total of a float32
    cumulative sum stays below that total.
    """
    start = _mix(np.array([seed & MASK64 for seed in seeds], dtype=np.uint64) ^ np.uint64(GOLDEN))
    counter = np.arange(1, steps + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    bits = _mix(start[:, None] + counter[None, :]) >> np.uint64(64 - 23)
    return torch.from_numpy(bits.astype(np.float32) * np.float32(2**-23))


def draw(logits: Tensor, uniform: Tensor, forbidden: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability, [n] each.

    Args:
        logits: [n, V].
        uniform: [n] in [0, 1).
        forbidden: [F] ids never drawn.
    """
    if sampling.temperature > 0 and sampling.top_k is None and sampling.top_p is None:
        found = sample_from(logits, uniform, forbidden, sampling.temperature)
        if found is not None:
            return found
    distribution = sampling_logprobs(logits, forbidden, sampling.temperature)
    tokens = sample_tokens(distribution, uniform, sampling)
    return tokens, distribution.gather(-1, tokens[:, None]).squeeze(1)


def sampling_logprobs(logits: Tensor, forbidden: Tensor, temperature: float) -> Tensor:
    """[B, V] float32 log-probabilities at the temperature, -inf on the forbidden ids.

    At temperature 0 (greedy) they are those of temperature 1. The learner computes the same.
    """
    scaled = logits.float()
    if temperature not in (0.0, 1.0):
        scaled = scaled / temperature
    return torch.log_softmax(scaled.index_fill(-1, forbidden, -torch.inf), dim=-1)


def sample_tokens(logprobs: Tensor, uniform: Tensor, sampling: SamplingConfig) -> Tensor:
    """[B] int64: one token a row by inversion of the cumulative distribution, or the most likely one when greedy.

    Args:
        logprobs: [B, V] as `sampling_logprobs` gives them.
        uniform: [B] in [0, 1).
    """
    if sampling.temperature == 0:
        return logprobs.argmax(dim=-1)
    probabilities = _truncated(logprobs.exp(), sampling)
    cumulative = probabilities.cumsum(dim=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    # right=True: the first token whose cumulative sum exceeds the threshold; it has probability > 0.
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)


def _truncated(probabilities: Tensor, sampling: SamplingConfig) -> Tensor:
    """The probabilities with everything outside the top k, and outside the nucleus p, set to 0."""
    if sampling.top_k is not None and sampling.top_k < probabilities.shape[-1]:
        smallest = probabilities.topk(sampling.top_k, dim=-1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < smallest, 0.0)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        outside = before >= sampling.top_p * ordered.sum(dim=-1, keepdim=True)
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0.0))
    return probabilities


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 on uint64, wrapping around."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
