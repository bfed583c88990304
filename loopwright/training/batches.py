"""Which rows a step trains on: a pure function of the step, so that a data position needs no saving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch

from loopwright.data.packing import PackedBatch, PackedDocuments
from loopwright.training.config import TrainConfig

Row = TypeVar("Row")

WINDOW = 50  # batches among which rows of like length are put together


class EpochOrder:
    """Every row once an epoch, in an order drawn anew from (seed, epoch).

    With lengths, rows of like length share a batch, so that little padding is computed; the batches
    themselves come in random order.
    """

    def __init__(self, rows: int, rows_per_step: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.seed = seed
        self.lengths = None if lengths is None else torch.tensor(lengths)
        self.steps_per_epoch = math.ceil(rows / rows_per_step)
        self._epoch = -1
        self._batches: list[list[int]] = []

    def rows_of(self, step: int) -> list[int]:
        """Row numbers of a step; the last of an epoch may have fewer."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[place]

    def _draw(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(self.rows, generator=generator)
        if self.lengths is not None:
            windows = order.split(WINDOW * self.rows_per_step)
            order = torch.cat([window[self.lengths[window].argsort(stable=True)] for window in windows])
        batches = [batch.tolist() for batch in order.split(self.rows_per_step)]
        if self.lengths is not None:
            places = torch.randperm(len(batches), generator=generator).tolist()
            batches = [batches[place] for place in places]
        return batches


def split_rows(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """Microbatches of at most `size` rows."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def batches_of_documents(
    documents: PackedDocuments, rows: Sequence[int], config: TrainConfig, *, packing: bool
) -> list[PackedBatch]:
    """What these rows hold, as microbatches: packed, or each document in a row of its own."""
    if packing:
        return [documents.rows(part) for part in split_rows(rows, config.batch_size_per_device)]
    return documents.apart(rows, config.accumulation, config.most_tokens)
