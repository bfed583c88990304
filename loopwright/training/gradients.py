"""The gradient of a step, from its microbatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from loopwright.models.forward import can_run_at_once
from loopwright.runtime.cores import shares, side_by_side

Micro = TypeVar("Micro")
Kept = TypeVar("Kept")

MOST_NUMBERS = 50_000_000  # in the models: beyond, one product keeps all cores busy, and a gradient a core costs memory


def may_run_at_once(*models: nn.Module) -> bool:
    """Whether microbatches of these models may be computed at the same time, and are small enough for it to pay."""
    numbers = sum(parameter.numel() for model in models for parameter in model.parameters())
    return can_run_at_once(*models) and numbers <= MOST_NUMBERS


def accumulate(
    parameters: Sequence[nn.Parameter],
    micros: Sequence[Micro],
    loss: Callable[[Micro], tuple[Tensor, Kept]],
    *,
    at_once: bool,
) -> list[Kept]:
    """Add the gradients of all microbatches to the parameters' `grad`.

    Args:
        parameters: all that the loss is to move.
        loss: of one microbatch: its share of the step's loss (a scalar with a graph), and what to keep of it.
        at_once: compute microbatches side by side on the CPU's cores (see `may_run_at_once`).

    Returns:
        What `loss` kept, in the order of the microbatches.
    """
    count = shares(len(micros)) if at_once else 1
    if count == 1:
        everything = []
        for micro in micros:
            share, kept = loss(micro)
            share.backward()
            everything.append(kept)
        return everything

    def some(first: int) -> tuple[list[Tensor | None], list[Kept]]:
        """The gradients of every `count`-th microbatch, in memory of their own, and what was kept."""
        sums: list[Tensor | None] = [None] * len(parameters)
        everything = []
        for micro in micros[first::count]:
            share, kept = loss(micro)
            found = torch.autograd.grad(share, parameters, allow_unused=True)
            sums = [_plus(*three) for three in zip(parameters, sums, found, strict=True)]
            everything.append(kept)
            del share, found  # a graph and a gradient less while the next ones are made
        return sums, everything

    parts = side_by_side(some, range(count))
    for sums, _ in parts:
        for parameter, part in zip(parameters, sums, strict=True):
            parameter.grad = _plus(parameter, parameter.grad, part)
    return [parts[i % count][1][i // count] for i in range(len(micros))]


def _plus(parameter: Tensor, total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """In place where there is a total; else a copy laid out as the parameter is: autograd's own may belong to two."""
    if part is None:
        return total
    return torch.empty_like(parameter).copy_(part) if total is None else total.add_(part)
