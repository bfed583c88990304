"""What a forward pass does besides giving its result."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

CHANGING_POSITIONS = ("dynamic", "longrope")  # rotary positions whose frequencies follow the longest row seen


def can_run_at_once(*models: nn.Module) -> bool:
    """Whether several forward passes may run at the same time, in any order, and whether that can pay.

    They may where, in training mode too, they draw nothing at random and leave nothing behind in the model; it pays on
    a CPU, whose cores `side_by_side` shares out.
    """
    on_cpu = all(parameter.device.type == "cpu" for model in models for parameter in model.parameters())
    return on_cpu and not any(_is_impure(module) for model in models for module in model.modules())


def _is_impure(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return True
    if isinstance(module, _DropoutNd):
        return module.p > 0
    rope = getattr(module, "rope_type", None)  # text, or a mapping from types of layers
    changing = any(kind in CHANGING_POSITIONS for kind in (rope.values() if isinstance(rope, dict) else [rope]))
    return changing or any(_is_random(name, value) for name, value in vars(module).items())


def _is_random(name: str, value: object) -> bool:
    """A probability of dropout, or how far a router's inputs are jittered."""
    return any(word in name for word in ("drop", "jitter")) and isinstance(value, int | float) and value > 0
