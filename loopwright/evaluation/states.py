"""The hidden states of a causal LM and the head that reads them, for figures that need every token's distribution."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from loopwright.models.padding import position_ids
from loopwright.objectives.kl import Head


def head_at(model: Any, input_ids: Tensor, attention_mask: Tensor, places: Tensor) -> Head:
    """The states that predict the tokens at `places`, with the model's LM head.

    Args:
        model: a transformers causal LM whose logits are its head applied to its last hidden states.
        input_ids, attention_mask: [B, T] int64 and bool, padded on either side.
        places: [B, T] bool, true on the N tokens to predict; never true in the first column.
    """
    mask = attention_mask.long()
    states = model.base_model(
        input_ids=input_ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
    ).last_hidden_state
    lm_head = model.get_output_embeddings()
    return Head(states[:, :-1][places[:, 1:]], lm_head.weight, getattr(lm_head, "bias", None))


def by_length(lengths: Sequence[int], rows_at_once: int) -> list[list[int]]:
    """Row indices in batches of like length, longest first, so that little padding is computed."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + rows_at_once] for start in range(0, len(order), rows_at_once)]
