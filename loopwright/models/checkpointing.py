"""Gradient checkpointing of transformers models, by our own forward pass and by theirs."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from loopwright.errors import ModelError


def checkpoint_blocks(model: nn.Module, on: bool) -> None:
    """Whether a training model keeps only what goes into each block, and computes its inside again on the way back.

    Chen et al. 2016 (arXiv:1604.06174): less memory for one more forward pass.

    Args:
        model: a transformers model, or a module that holds one.

    Raises:
        ModelError: it holds none whose blocks can be computed again.
    """
    held = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
    if held is None or not held.supports_gradient_checkpointing:
        found = type(model if held is None else held).__name__
        raise ModelError(
            f"gradient_checkpointing would do nothing for {found}, whose blocks are not told apart; drop it"
        )
    if on:
        held.activation_checkpointing_enable({"use_reentrant": False})
        held.disable_input_require_grads()  # which only checkpoints that are re-entrant need
    else:
        held.activation_checkpointing_disable()
