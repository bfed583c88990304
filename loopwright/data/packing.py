"""Token rows without padding work: a stream of documents, or several examples in one row.

Examples that share a row never see each other. Each starts again at position 0, and transformers (5 and
later) builds its attention mask from that, as long as it is given no mask of its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loopwright.data.chat import Example
from loopwright.errors import DataError

IGNORED = -100  # the label of a token that is not learned


class PackedBatch(NamedTuple):
    """Rows for a causal LM. Pass `position_ids` and no attention mask."""

    input_ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64: the input where it is learned, -100 elsewhere (not shifted: models shift)
    position_ids: Tensor  # [B, T] int64: from 0 in each segment; 0 on padding, so that it sees only itself
    segment_ids: Tensor  # [B, T] int64: from 1 in each row; 0 on padding


class TokenStream:
    """Documents without end: each epoch all of them, in an order of its own, one after another.

    Blocks are cut from this stream, so that every token is predicted exactly once an epoch and none is
    padding. Any block can be made from its number alone: going on after a crash needs no state.
    """

    def __init__(self, documents: Iterable[Sequence[int]], seed: int) -> None:
        """Documents end in EOS. Raises DataError when there is not a single token."""
        pieces = [np.asarray(document, dtype=np.int32) for document in documents]
        self._starts = np.cumsum([0, *(len(piece) for piece in pieces)])
        self.tokens = int(self._starts[-1])  # in one epoch
        if not self.tokens:
            raise DataError("no tokens to train on: the data set is empty")
        self._flat = np.concatenate(pieces)
        self._seed = seed
        self._epoch: tuple[int, np.ndarray] | None = None

    def block(self, number: int, length: int) -> Tensor:
        """[length + 1] int64: what follows block number - 1, and one token more, for the last prediction."""
        first, parts = number * length, []
        missing = length + 1
        while missing:
            epoch, offset = divmod(first, self.tokens)
            parts.append(self._ordered(epoch)[offset : offset + missing])
            first, missing = first + len(parts[-1]), missing - len(parts[-1])
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    def _ordered(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._starts) - 1)
            pieces = [self._flat[self._starts[i] : self._starts[i + 1]] for i in order]
            self._epoch = (epoch, np.concatenate(pieces))
        return self._epoch[1]


def pack_lengths(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices grouped so that the lengths of a group sum to at most `capacity`; best-fit decreasing.

    Deterministic; needs at most 11/9 of the fewest groups possible, and one (Johnson 1973).
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free, -bin), ascending: among equals the oldest bin comes last
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[i] > capacity:
            raise ValueError(f"an example of {lengths[i]} tokens does not fit {capacity}")
        place = bisect_left(room, (lengths[i], -len(bins)))
        if place < len(room):
            free, minus_bin = room.pop(place)
        else:
            free, minus_bin = capacity, -len(bins)
            bins.append([])
        bins[-minus_bin].append(i)
        insort(room, (free - lengths[i], minus_bin))
    return bins


def pack_examples(examples: Sequence[Example], capacity: int, pad_id: int) -> PackedBatch:
    """Several examples a row, responses learned, rows cut to the fullest one."""
    lengths = [len(example.prompt_ids) + len(example.response_ids) for example in examples]
    return _rows(examples, pack_lengths(lengths, capacity), pad_id)


def pad_examples(examples: Sequence[Example], pad_id: int) -> PackedBatch:
    """One example a row, in the order given: what packing must be equal to."""
    return _rows(examples, [[i] for i in range(len(examples))], pad_id)


def _rows(examples: Sequence[Example], bins: Sequence[Sequence[int]], pad_id: int) -> PackedBatch:
    width = max(sum(len(examples[i].prompt_ids) + len(examples[i].response_ids) for i in row) for row in bins)
    input_ids = torch.full((len(bins), width), pad_id, dtype=torch.int64)
    labels = torch.full_like(input_ids, IGNORED)
    positions, segments = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    for b, row in enumerate(bins):
        start = 0
        for segment, i in enumerate(row, start=1):
            prompt, response = examples[i]
            end = start + len(prompt) + len(response)
            learned = start + max(len(prompt), 1)  # nothing before a segment may predict its first token
            input_ids[b, start:end] = torch.tensor([*prompt, *response])
            labels[b, learned:end] = input_ids[b, learned:end]
            positions[b, start:end] = torch.arange(end - start)
            segments[b, start:end] = segment
            start = end
    return PackedBatch(input_ids, labels, positions, segments)
