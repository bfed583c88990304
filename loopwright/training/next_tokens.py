"""How well a language model predicts the next token of packed rows: the loss of all training on text."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopwright.data.packing import IGNORED, PackedBatch
from loopwright.kernels.functions import Rows, in_c
from loopwright.models import lm_head
from loopwright.models.decoder import Decoder, Tokens
from loopwright.models.layers import unwrapped
from loopwright.objectives.kl import Head
from loopwright.objectives.language_modelling import summed_cross_entropy
from loopwright.objectives.logprobs import head_chunks, head_logits


class NextTokens(NamedTuple):
    """How well a model predicts the learned tokens of a batch; sums, nats."""

    total: Tensor  # scalar: sum of -log p, with a gradient
    tokens: int
    right: int | None  # how often the likeliest token was the right one; None: not asked for


def predict(model: Any, batch: PackedBatch, *, count_right: bool = False) -> NextTokens:
    """Next-token cross-entropy of a causal LM on packed rows, the LM head run on learned places alone.

    Rows carry no attention mask: segments and padding are told apart by their positions.
    """
    learned = torch.nn.functional.pad(batch.labels[:, 1:] != IGNORED, (0, 1))
    targets = batch.labels[:, 1:][learned[:, :-1]]
    head = head_before(model, batch, learned)
    total = summed_cross_entropy(head.hidden, head.weight, targets, bias=head.bias)
    return NextTokens(total, len(targets), _right(head, targets) if count_right else None)


def head_before(model: Any, batch: PackedBatch, learned: Tensor) -> Head:
    """The states at the places that predict learned tokens, [B, T] bool, with the LM head."""
    decoder = Decoder.of(model)
    # Without the operations in C, documents of different lengths would be padded to the longest.
    packs = not isinstance(decoder, str) and in_c(decoder.embeddings.weight)
    if isinstance(decoder, str) or not packs or not lm_head.head_is_all(unwrapped(model)):
        return lm_head.read(model, input_ids=batch.input_ids, position_ids=batch.position_ids).at(learned)
    kept = batch.segment_ids > 0
    positions = batch.position_ids[kept]
    starts = torch.nn.functional.pad((positions == 0).nonzero().squeeze(1), (0, 1), value=len(positions))
    tokens = Tokens(batch.input_ids[kept], Rows.of(starts.diff()), positions)
    return lm_head.head_on(unwrapped(model), decoder.read(tokens, learned[kept]))


@torch.no_grad()
def _right(head: Head, targets: Tensor) -> int:
    """How often the likeliest token is the right one."""

    def likeliest(rows: slice) -> Tensor:
        return head_logits(head.hidden[rows], head.weight, head.bias, 1.0, None).argmax(-1)

    return sum(int((likeliest(rows) == targets[rows]).sum()) for rows in head_chunks(head.hidden, head.weight))
