"""The engine for a model: the fast one where it knows the model, transformers' forward pass for all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase

from loopwright.generation.base import Engine
from loopwright.generation.fast_engine import FastEngine, why_not
from loopwright.generation.transformers_engine import TransformersEngine


def make_engine(model: Any, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None] | None = None) -> Engine:
    """`say` hears of it where the fast engine cannot run the model."""
    reason = why_not(model)
    if reason is None:
        return FastEngine(model, tokenizer)
    if say is not None:
        say(f"sampling through transformers, which is slower: {reason}")
    return TransformersEngine(model, tokenizer)
