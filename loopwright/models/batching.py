"""Many rows through one model: batches of like length, each on its share of the cores, results in the rows' order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from loopwright.models.forward import can_run_at_once
from loopwright.runtime.cores import shares, side_by_side

TOKENS_AT_ONCE = 16_384  # of the batches that are computed at once, padding included
FEWEST_ROWS, MOST_PADDING = 16, 0.2  # a batch of so many rows ends before padding takes a larger share of it


def in_batches(
    model: Any, lengths: Sequence[int], outputs: Callable[[list[int]], Tensor], *, one_by_one: bool = False
) -> Tensor:
    """[N, ...] float32 on the CPU: what the model gives each of N rows, in their order; no gradient is recorded.

    Args:
        lengths: tokens of each row; at least one row.
        outputs: the numbers of a batch's rows -> [B, ...], what the model gives them, in that order.
        one_by_one: each row is a batch of its own, for models whose result depends on padding.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    at_once = can_run_at_once(model)
    batches = list(_batches(order, lengths, TOKENS_AT_ONCE // (shares(len(lengths)) if at_once else 1)))
    if one_by_one:
        batches = [[row] for row in order]
    with torch.no_grad():
        joined = torch.cat(side_by_side(lambda batch: outputs(batch).float().cpu(), batches, at_once=at_once))
    result = torch.empty_like(joined)
    result[torch.tensor(order)] = joined
    return result


def _batches(order: Sequence[int], lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Row numbers, shortest first, in batches of like length and at most so many tokens, padding included."""
    batch: list[int] = []
    tokens = 0
    for i in order:
        padded = (len(batch) + 1) * lengths[i]
        loose = len(batch) >= FEWEST_ROWS and tokens + lengths[i] < (1 - MOST_PADDING) * padded
        if batch and (padded > most_tokens or loose):
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    yield batch
