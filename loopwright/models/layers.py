"""Where the parts of a transformers model are, whatever its family calls them."""

from __future__ import annotations

from typing import Any

from torch import nn

from loopwright.errors import ModelError


def unwrapped(model: Any) -> Any:
    """The transformers model that a peft model wraps; adapters stay in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_layers(model: Any) -> nn.ModuleList:
    """The model's blocks, bottom to top.

    Raises:
        ModelError: the model keeps them in no list of its number of layers.
    """
    return _body_and_layers(model)[1]


def after_layers(model: Any) -> list[nn.Module]:
    """What the body applies after its last block: the final norm."""
    body, layers = _body_and_layers(model)
    children = list(body.children())
    return children[children.index(layers) + 1 :]


def final_norm(model: Any) -> nn.Module:
    """The norm whose output the head reads.

    Raises:
        ModelError: the model has none after its blocks.
    """
    norms = [module for module in after_layers(model) if any(True for _ in module.parameters(recurse=False))]
    if len(norms) != 1:
        raise ModelError(f"{type(model).__name__} has {len(norms)} norms after its layers; one is needed")
    return norms[0]


def _body_and_layers(model: Any) -> tuple[nn.Module, nn.ModuleList]:
    base = unwrapped(model)
    count = base.config.num_hidden_layers
    for body in base.base_model.modules():
        for child in body.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return body, child
    raise ModelError(f"{type(base).__name__} has no list of {count} layers, so its top layers cannot be told apart")
