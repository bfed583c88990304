"""What a causal LM predicts tokens with, for figures that need every token's distribution."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loopwright.models import lm_head
from loopwright.models.padding import position_ids
from loopwright.objectives.kl import Head


def head_at(model: Any, input_ids: Tensor, attention_mask: Tensor, places: Tensor) -> Head:
    """The states that predict the tokens at `places`, with the model's LM head; or its logits, see `lm_head.read`.

    Args:
        model: a transformers causal LM.
        input_ids, attention_mask: [B, T] int64 and bool, padded on either side.
        places: [B, T] bool, true on the N tokens to predict; never true in the first column.
    """
    mask = attention_mask.long()
    head = lm_head.read(model, input_ids=input_ids, attention_mask=mask, position_ids=position_ids(mask))
    return head.at(torch.nn.functional.pad(places[:, 1:], (0, 1)))


def by_length(lengths: Sequence[int], rows_at_once: int) -> list[list[int]]:
    """Row indices in batches of like length, longest first, so that little padding is computed."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + rows_at_once] for start in range(0, len(order), rows_at_once)]
