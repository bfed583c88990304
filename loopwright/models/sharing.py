"""Several models that hold the same frozen weights once."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loopwright.models.layers import unwrapped

_WRAPPED = (".base_layer", ".original_module")  # what peft puts between a layer's name and its weight


def copy_sharing_weights(model: Any) -> Any:
    """A copy of the modules around the very same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def keep_from_training(model: Any, trained: Any) -> None:
    """Give `model` frozen copies, as they are now, of those parameters it shares with `trained` that will train."""
    own: dict[int, nn.Parameter] = {}
    changing = {id(parameter) for parameter in trained.parameters() if parameter.requires_grad}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in changing:
                frozen = own.setdefault(id(parameter), nn.Parameter(parameter.detach().clone(), requires_grad=False))
                setattr(module, name, frozen)


def share_frozen(model: Any, owner: Any) -> str | None:
    """Let the body of `model` read `owner`'s frozen weights wherever its own of that name are equal, bit for bit.

    Returns:
        Why not all that is frozen on both sides is shared, in a few words; None where it is.
    """
    theirs = {_plain(name): p for name, p in unwrapped(owner).base_model.named_parameters() if not p.requires_grad}
    if not theirs:
        return "the policy trains every weight"
    candidates = equal = 0
    for path, module in unwrapped(model).base_model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            found = theirs.get(_plain(f"{path}.{name}"))
            if found is None or parameter.requires_grad:
                continue
            candidates += 1
            if _same(found, parameter):
                equal += 1
                setattr(module, name, found)
    if not candidates:
        return "none of its frozen weights has the name of a frozen one of the policy"
    if equal == candidates:
        return None
    return f"{candidates - equal} of {candidates} weights that could be shared differ from the policy's"


def resident_bytes(models: Iterable[nn.Module]) -> int:
    """Bytes of the weights of all models together, each storage counted once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in models for p in m.parameters()}
    return sum(storages.values())


def _plain(name: str) -> str:
    for part in _WRAPPED:
        name = name.replace(part, "")
    return name


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
