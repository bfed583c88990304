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

MOST_NUMBERS = 50_000_000  # trained: beyond, one product keeps all cores busy, and a gradient for each costs memory


def may_run_at_once(models: Sequence[nn.Module], parameters: Sequence[nn.Parameter]) -> bool:
    """Whether microbatches of these models, of which these parameters are trained, may be computed at the same time."""
    return can_run_at_once(*models) and sum(parameter.numel() for parameter in parameters) <= MOST_NUMBERS


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
            sums = [_plus(total, part) for total, part in zip(sums, found, strict=True)]
            everything.append(kept)
        return sums, everything

    parts = side_by_side(some, range(count))
    for sums, _ in parts:
        for parameter, part in zip(parameters, sums, strict=True):
            parameter.grad = _plus(parameter.grad, part)
    return [parts[i % count][1][i // count] for i in range(len(micros))]


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """In place where there is a total; else a copy, because autograd may give two parameters one tensor."""
    if part is None:
        return total
    return part.clone() if total is None else total.add_(part)
