"""Token rows without padding work: several documents or examples in one row.

Those that share a row never see each other. Each starts again at position 0, and transformers (5 and
later) builds its attention mask from that, as long as it is given no mask of its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from loopwright.data.chat import Example
from loopwright.errors import DataError

IGNORED = -100  # the label of a token that is not learned


class PackedBatch(NamedTuple):
    """Rows for a causal LM. Pass `position_ids` and no attention mask."""

    input_ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64: the input where it is learned, -100 elsewhere (not shifted: models shift)
    position_ids: Tensor  # [B, T] int64: from 0 in each segment; what they are on padding, behind it, changes nothing
    segment_ids: Tensor  # [B, T] int64: from 1 in each row; 0 on padding


class PackedDocuments:
    """Raw documents in rows: several in one, blind to each other; a longer one in several.

    A document that is cut off from its beginning teaches a model to make up what it cannot see, so none is
    cut that fits a row.
    """

    def __init__(self, documents: Iterable[Sequence[int]], capacity: int, before: int, pad_id: int) -> None:
        """Documents end in EOS; `before` stands in front of one, so that its first token is predicted, too.

        Raises:
            DataError: there is not a single token.
        """
        pieces = (piece for document in documents for piece in _pieces([before, *document], capacity))
        self.examples = [Example(piece[:1], piece[1:]) for piece in pieces]
        if not self.examples:
            raise DataError("no tokens to train on: the data set is empty")
        self.tokens = sum(len(example.response_ids) for example in self.examples)  # that are learned
        self._bins = pack_lengths([1 + len(example.response_ids) for example in self.examples], capacity)
        self._pad_id = pad_id

    def __len__(self) -> int:
        """Rows."""
        return len(self._bins)

    def rows(self, numbers: Sequence[int]) -> PackedBatch:
        """The rows of these numbers, in this order."""
        return _rows(self.examples, [self._bins[number] for number in numbers], self._pad_id)

    def apart(self, numbers: Sequence[int], batches: int, most_tokens: int) -> list[PackedBatch]:
        """The documents of these rows, each in a row of its own; see `pad_by_length`."""
        documents = [self.examples[i] for number in numbers for i in self._bins[number]]
        return pad_by_length(documents, batches, most_tokens, self._pad_id)


def _pieces(tokens: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """At most `capacity` tokens each; the last of one is the first of the next, so each is predicted once."""
    for start in range(0, len(tokens) - 1, capacity - 1):
        yield list(tokens[start : start + capacity])


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
    return _rows(examples, pack_lengths([example.length for example in examples], capacity), pad_id)


def pad_examples(examples: Sequence[Example], pad_id: int) -> PackedBatch:
    """One example a row, in the order given: what packing must be equal to.

    Positions run on over the padding, so that the model needs no mask: nothing looks at what stands behind it.
    """
    batch = _rows(examples, [[i] for i in range(len(examples))], pad_id)
    return batch._replace(position_ids=torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids).contiguous())


def pad_by_length(examples: Sequence[Example], batches: int, most_tokens: int, pad_id: int) -> list[PackedBatch]:
    """One example a row, those of like length together, in so many batches of about as many tokens each.

    There are more where one would have more than `most_tokens`, padding included, and fewer of fewer examples.
    """
    groups: list[list[Example]] = []
    before, total, last = 0, sum(example.length for example in examples), -1
    for example in sorted(examples, key=attrgetter("length")):
        number = before * batches // total
        if number != last or (len(groups[-1]) + 1) * example.length > most_tokens:
            groups.append([])
        groups[-1].append(example)
        before, last = before + example.length, number
    return [pad_examples(group, pad_id) for group in groups]


def _rows(examples: Sequence[Example], bins: Sequence[Sequence[int]], pad_id: int) -> PackedBatch:
    width = max(sum(examples[i].length for i in row) for row in bins)
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
