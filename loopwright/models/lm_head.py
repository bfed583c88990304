"""What a causal LM predicts the next token with: the one place that decides whether its LM head tells the whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from loopwright.models.layers import unwrapped
from loopwright.objectives.kl import Head

# Families that scale or cap the logits after the head have one of these in their config (Gemma2, Cohere, Granite,
# HyperCLOVA X, RecurrentGemma, xLSTM, Falcon-H1, and so on).
_AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "lm_head_multiplier",
    "output_multiplier",
)


def read(model: Any, **inputs: Any) -> Head:
    """One forward pass: `hidden` [B, T, D], which predicts at each place the token after it, and the head to read it.

    Where logits are more than one linear layer of the last hidden states (a family that changes them after the head,
    adapters on the head), `hidden` are the model's own logits [B, T, V], and there is no weight. That costs the memory
    which the head alone saves.

    Args:
        model: a transformers causal LM, or a peft model around one.
        inputs: of its forward pass; nothing is cached.
    """
    base = unwrapped(model)
    if not head_is_all(base):
        return Head(base(**inputs, use_cache=False).logits, None)
    return head_on(base, base.base_model(**inputs, use_cache=False).last_hidden_state)


def head_on(base: Any, hidden: Tensor) -> Head:
    """The LM head of a model where `head_is_all`, on hidden states of its body."""
    head = base.get_output_embeddings()
    return Head(hidden, head.weight, head.bias)


def head_is_all(base: Any) -> bool:
    """Whether the logits are one linear layer of the last hidden states, and nothing more."""
    config = base.config.get_text_config()
    head = base.get_output_embeddings()
    linear = getattr(head, "original_module", head)  # peft's modules_to_save stand before the layer they replace
    return type(linear) is nn.Linear and not any(getattr(config, name, None) for name in _AFTER_THE_HEAD)
