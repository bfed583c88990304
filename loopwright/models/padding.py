"""Padding: positions, last real tokens, and the check that padding never matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def position_ids(attention_mask: Tensor) -> Tensor:
    """[B, T] int64: the number of real tokens before each one; 0 on the padding at the left."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def last_token_index(attention_mask: Tensor) -> Tensor:
    """[B] int64: where the last real token of each row is, whichever side the padding is on."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.long() * columns).argmax(dim=-1)


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token rows as ([B, T] int64 ids, [B, T] bool mask), padded to the longest on one side."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.int64)
        mask[i, where] = True
    return ids, mask


def padding_gap(
    forward: Callable[[Tensor, Tensor], Tensor], input_ids: Tensor, attention_mask: Tensor, junk_id: int, extra: int = 3
) -> float:
    """The largest change of `forward(ids, mask)` on real tokens when `extra` masked columns are added on either side.

    Args:
        forward: gives [B, T] (a value for each token) or [B] (a score for each row).
        input_ids, attention_mask: [B, T] int64 and bool.
        junk_id: the token written under the added padding; any id must do.
    """
    plain = forward(input_ids, attention_mask)
    gap = 0.0
    for left in (True, False):
        before, after = (extra, 0) if left else (0, extra)
        ids = torch.nn.functional.pad(input_ids, (before, after), value=junk_id)
        mask = torch.nn.functional.pad(attention_mask, (before, after), value=False)
        padded = forward(ids, mask)
        if plain.dim() == 2:
            padded = padded[:, before : before + input_ids.shape[1]]
            difference = (padded - plain).masked_fill(~attention_mask.bool(), 0.0)
        else:
            difference = padded - plain
        gap = max(gap, float(difference.abs().max()))
    return gap
