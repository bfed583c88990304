"""Weights that compute in bfloat16, and the float32 numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loopwright.models.trainable import trainable_parameters

Precision = Literal["float32", "bfloat16"]
EXACT = ("score", "labels")  # parts of a model that keep float32


class Masters:
    """The float32 numbers that an optimizer moves, for weights that compute in another type.

    Micikevicius et al. 2018, sec. 3.1 (arXiv:1710.03740): an update far smaller than a weight would be lost in 8 bits.
    In float32 they are the weights themselves.
    """

    def __init__(self, model: Any, precision: Precision) -> None:
        """All of the model's weights become `precision`; frozen ones, shared or not, in place."""
        self._model = model
        self._weights = dict(trainable_parameters(model))
        self.named = self._weights
        self._hooks: list[RemovableHandle] = []
        if precision == "float32":
            return
        self.named = {name: nn.Parameter(weight.detach().float().clone()) for name, weight in self._weights.items()}
        in_precision(model, precision)
        for name, weight in self._weights.items():
            self._hooks.append(weight.register_post_accumulate_grad_hook(partial(_hand_on, self.named[name])))

    @property
    def weights(self) -> list[nn.Parameter]:
        """What the losses move: the model's trained parameters."""
        return list(self._weights.values())

    @torch.no_grad()
    def write(self) -> None:
        """Round the masters into the model, after an optimizer step."""
        if self.named is not self._weights:
            for name, weight in self._weights.items():
                weight.copy_(self.named[name])

    @torch.no_grad()
    def restore(self) -> None:
        """The model in float32, its trained weights exact and frozen ones as they computed; it may be trained again."""
        for hook in self._hooks:
            hook.remove()
        if self.named is not self._weights:
            for parameter in self._model.parameters():
                parameter.data = parameter.data.float()
            self.write()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {name: master.detach() for name, master in self.named.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, master in self.named.items():
            master.copy_(state[name])
        self.write()


def in_precision(model: nn.Module, precision: Precision) -> None:
    """Parameters in place, whoever shares them; not buffers: rotary frequencies stay exact.

    Nor a scalar head, nor what is learned of labels: eight bits would give values in steps wider than those they take.
    """
    for name, parameter in model.named_parameters():
        if not set(EXACT) & set(name.split(".")):
            parameter.data = parameter.data.to(getattr(torch, precision))


@contextmanager
def computing_in(model: nn.Module, precision: Precision) -> Iterator[None]:
    """The model reads in this precision, and is what it was afterwards."""
    exact = {name: parameter.data for name, parameter in model.named_parameters()}
    in_precision(model, precision)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = exact[name]


def _hand_on(master: nn.Parameter, weight: Tensor) -> None:
    """Add a microbatch's gradient to the master's, in float32."""
    assert weight.grad is not None
    grad, weight.grad = weight.grad.float(), None
    master.grad = grad if master.grad is None else master.grad.add_(grad)
