"""Matrix products of linear layers on a CPU, by the faster of the two libraries that torch brings.

MKL does float32 at half the speed of oneDNN on some processors, and better on others; both are as accurate. For a few
rows oneDNN is faster still when it has arranged the weights beforehand, which pays where they are read many times.
Which one is used decides the last bit of every number, so it is measured once and kept: see `choice.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in a matrix from which on oneDNN is worth its preparation, which it makes, and keeps, for each number of rows.
SMALLEST = 2**17


class Products(NamedTuple):
    """What multiplies."""

    learning: str = "mkl"  # mkl or onednn
    sampling: str = "mkl"  # mkl, or packed: oneDNN on weights that are arranged once a rollout

    def known(self) -> bool:
        """Whether these are names of ways to multiply."""
        return self.learning in {"mkl", "onednn"} and self.sampling in {"mkl", "packed"}


_products = Products()


def use(products: Products) -> None:
    """What multiplies from now on, in the whole process."""
    global _products  # noqa: PLW0603 -- one choice for the process: threads that share a step must agree
    _products = products


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, differentiable once. [..., D], [V, D], [V] -> [..., V]."""
    if not _by_onednn(x, weight):
        return torch.nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """[N, K] times [K, M], without gradient."""
    return onednn(x, y.T) if _by_onednn(x, y) else x @ y


class Matrix(NamedTuple):
    """The weights of linear layers that read the same input; for computing without gradients.

    In float32 on a CPU several layers are a copy as one, because a product of few rows takes its time to begin.
    Elsewhere they are the layers' own.
    """

    parts: tuple[tuple[Tensor, Tensor | None], ...]  # [V, D] and [V] or None
    packed: bool

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor | None]], rows: int) -> Self:
        """Of ([V, D], [V] or None) of each layer; packed for so many rows, where that pays."""
        parts = tuple((weight.detach(), None if bias is None else bias.detach()) for weight, bias in layers)
        if not _on_cpu(parts[0][0]):
            return cls(parts, packed=False)
        weights, biases = zip(*parts, strict=True)
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        packed = _products.sampling == "packed" and weight.numel() >= SMALLEST
        bias = None if biases[0] is None else torch.cat(biases)
        return cls(((pack(weight, rows) if packed else weight, bias),), packed)

    def __call__(self, x: Tensor) -> Tensor:
        """[n, D] -> [n, V], the outputs of one layer behind those of the other."""
        if self.packed:
            return onednn(x, *self.parts[0])
        found = [torch.nn.functional.linear(x, weight, bias) for weight, bias in self.parts]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        x_grad = onednn(grad, weight.T, None) if needed[0] else None
        # MKL: the sum over many rows is where it is the better one wherever it was measured.
        weight_grad = rows.T @ x.reshape(-1, x.shape[-1]) if needed[1] else None
        return x_grad, weight_grad, rows.sum(0) if needed[2] else None


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return _products.learning == "onednn" and weight.numel() >= SMALLEST and _on_cpu(x)


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype is torch.float32


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """oneDNN's x weight^T + bias; the weight may be packed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def pack(weight: Tensor, rows: int) -> Tensor:
    """A copy of [V, D] in the order that oneDNN reads fastest for so many rows of inputs."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
