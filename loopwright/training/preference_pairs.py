"""Groups of judgements as batches of tensors, and the scores that a model gives their responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopwright.models.heads import Branches, can_branch, scores_of_branches, scores_of_rows
from loopwright.models.padding import pad_rows
from loopwright.training.judged_groups import Group, Listed, Pair

BRANCHES_TOLERANCE = 1e-3  # of the largest score
BRANCHES_ATTENTION = 2  # times that of rows of their own: beyond, long responses cost more than the prompt saves


class Rows(NamedTuple):
    """Prompt and response, one a row."""

    input_ids: Tensor  # [N, T] int64, padded on the right
    attention_mask: Tensor  # [N, T] bool


class Pairs(NamedTuple):
    """P pairs of a batch. A tie has its responses in the order stored."""

    chosen: Tensor  # [P] int64 responses
    rejected: Tensor  # [P] int64 responses
    probability: Tensor  # [P] that `chosen` is better; 1 but for soft labels
    tie: Tensor  # [P] bool
    margin: Tensor  # [P]
    weight: Tensor  # [P]
    annotator: Tensor  # [P] int64, -1: unknown
    position: Tensor  # [P] 1 where `chosen` was shown first, -1 where second, 0 where nobody knows
    length: Tensor  # [P] words of `chosen` minus words of `rejected`


class Labels(NamedTuple):
    """M labels of single responses of a batch."""

    place: Tensor  # [M] int64 responses
    target: Tensor  # [M]
    weight: Tensor  # [M]
    kind: Tensor  # [M] int64, a place in KINDS
    annotator: Tensor  # [M] int64, -1: unknown


KINDS = ("thumb", "safety", "rating")


class JudgedBatch(NamedTuple):
    """A microbatch."""

    inputs: Rows | Branches  # of N responses
    pairs: Pairs
    listings: list[Listed]  # places are responses of the batch
    labels: Labels
    unseen: bool = True  # by the model that is trained
    witnessed: bool = True  # and what it says of annotators counts
    drawn: Tensor | None = None  # [N, H] how often each head's bootstrap holds the prompt of a response; None: once

    def weight(self) -> float:
        """Of all that is said; safety labels stand beside it."""
        beside = self.labels.weight[self.labels.kind != KINDS.index("safety")]
        return float(self.pairs.weight.sum() + beside.sum()) + sum(listing.weight for listing in self.listings)


def collate(  # noqa: PLR0913 -- what is batched, and five things that are so of it
    groups: Sequence[Group],
    pad_id: int,
    device: torch.device,
    *,
    branches: bool = False,
    annotators: Mapping[str | None, int] | None = None,
    unseen: bool = True,
    witnessed: bool = True,
    drawn: Tensor | None = None,
) -> JudgedBatch:
    """Every response that something is said about, once, and what is said as numbers of responses.

    Args:
        groups: with their token rows.
        branches: a row is a prompt with all its responses, not with one of them.
        annotators: numbers of the annotators; None: nobody asks who judged.
        unseen: the model was not trained on these groups before.
        witnessed: no other training has seen them, either.
        drawn: [groups, H] how often each head's bootstrap holds each of them; None: once.
    """
    used = [own.used() for own in groups]
    inputs: Rows | Branches
    inputs = _branches(groups, used, pad_id) if branches else Rows(*pad_rows(rows_in_use(groups), pad_id))
    moved = type(inputs)(*(tensor.to(device) for tensor in inputs))
    numbers = _numbers(used)
    listings = [
        one._replace(places=tuple(number[place] for place in one.places))
        for own, number in zip(groups, numbers, strict=True)
        for one in own.listings
    ]
    pairs = pairs_of(groups, annotators or {}, device)
    if drawn is not None:
        drawn = drawn.repeat_interleave(torch.tensor([len(of_group) for of_group in used]), dim=0).to(device)
    labels = labels_of(groups, device, annotators or {})
    return JudgedBatch(moved, pairs, listings, labels, unseen, witnessed, drawn)


def bootstrap(groups: int, heads: int, seed: int) -> Tensor | None:
    """[groups, H] how often each head learns from each prompt: as many as there are, drawn with replacement.

    Efron 1979; for several heads on one body, Osband et al. 2016 (arXiv:1602.04621). One head learns from all: None.
    """
    if heads == 1:
        return None
    drawn = torch.randint(groups, (heads, groups), generator=torch.Generator().manual_seed(seed))
    return torch.stack([row.bincount(minlength=groups) for row in drawn], dim=1).float()


def rows_in_use(groups: Sequence[Group]) -> list[list[int]]:
    """The token rows of all responses that anything is said about, in the order in which batches number them."""
    return [own.rows[i] for own in groups for i in own.used()]


def pairs_of(
    groups: Sequence[Group], annotators: Mapping[str | None, int], device: torch.device | str = "cpu"
) -> Pairs:
    """All pairs of the groups, as numbers of `rows_in_use`."""
    numbers = _numbers([own.used() for own in groups])
    found = [
        _oriented(pair, own, number, annotators)
        for own, number in zip(groups, numbers, strict=True)
        for pair in own.pairs
    ]
    return Pairs(*_columns(found, PAIR_TYPES, device))


def labels_of(
    groups: Sequence[Group], device: torch.device | str = "cpu", annotators: Mapping[str | None, int] | None = None
) -> Labels:
    """All labels of the groups, as numbers of `rows_in_use`."""
    known = annotators or {}
    numbers = _numbers([own.used() for own in groups])
    found = [
        (number[one.place], one.target, one.weight, KINDS.index(one.kind), known.get(one.annotator, -1))
        for own, number in zip(groups, numbers, strict=True)
        for one in own.labels
    ]
    return Labels(*_columns(found, LABEL_TYPES, device))


def _numbers(used: Sequence[Sequence[int]]) -> list[dict[int, int]]:
    """For each group, the numbers that its responses have in a batch."""
    found, start = [], 0
    for of_group in used:
        found.append({i: start + n for n, i in enumerate(of_group)})
        start += len(of_group)
    return found


PAIR_TYPES = (
    torch.int64,
    torch.int64,
    torch.float32,
    torch.bool,
    *[torch.float32] * 2,
    torch.int64,
    *[torch.float32] * 2,
)
LABEL_TYPES = (torch.int64, torch.float32, torch.float32, torch.int64, torch.int64)


def _columns(
    rows: Sequence[tuple[float, ...]], types: Sequence[torch.dtype], device: torch.device | str
) -> list[Tensor]:
    """Rows of numbers as one tensor for each column."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in types)
    return [torch.tensor(column, dtype=dtype, device=device) for column, dtype in zip(columns, types, strict=True)]


def _oriented(
    pair: Pair, own: Group, number: Mapping[int, int], annotators: Mapping[str | None, int]
) -> tuple[float, ...]:
    """The fields of `Pairs`, the better response first."""
    flip = pair.choice == 1
    better, worse = (pair.second, pair.first) if flip else (pair.first, pair.second)
    probability = 1.0 if pair.probability is None else (1 - pair.probability if flip else pair.probability)
    position = 0.0 if pair.shown_first is None else (1.0 if (pair.shown_first == 1) == flip else -1.0)
    words = len(own.responses[better].split()) - len(own.responses[worse].split())
    who = annotators.get(pair.annotator, -1)
    tie = pair.choice is None and pair.probability is None
    return number[better], number[worse], probability, tie, pair.margin, pair.weight, who, position, words


def scores_of(model: Any, batch: JudgedBatch) -> Tensor:
    """[N, H] what each head says of the responses of a batch."""
    if isinstance(batch.inputs, Branches):
        return scores_of_branches(model, batch.inputs)
    return scores_of_rows(model, *batch.inputs)


@torch.no_grad()
def may_branch(model: Any, groups: Sequence[Group], pad_id: int, device: torch.device) -> bool:
    """Whether rows may hold a prompt with all its responses.

    There are prompts, attention over such rows costs about what it costs over rows of their own (it grows with the
    square of a row), and the model gives the same scores.
    """
    if not (can_branch(model) and all(own.messages for own in groups)):
        return False
    own = sum(len(row) ** 2 for own in groups for row in own.rows)
    if sum(own.tokens() ** 2 for own in groups) > BRANCHES_ATTENTION * own:
        return False
    apart, together = (scores_of(model, collate(groups[:4], pad_id, device, branches=b)) for b in (False, True))
    return float((together - apart).abs().max()) <= BRANCHES_TOLERANCE * float(apart.abs().max())


def _branches(groups: Sequence[Group], used: Sequence[Sequence[int]], pad_id: int) -> Branches:
    ids, positions, segments, rows, ends = [], [], [], [], []
    for row, (own, of_group) in enumerate(zip(groups, used, strict=True)):
        begin = len(own.prompt_ids)
        tokens, places, owners = list(own.prompt_ids), list(range(begin)), [0] * begin
        for number, i in enumerate(of_group, start=1):
            response = own.rows[i][begin:]
            tokens += response
            places += range(begin, begin + len(response))
            owners += [number] * len(response)
            rows.append(row)
            ends.append(len(tokens) - 1 if response else begin - 1)
        ids.append(tokens)
        positions.append(places)
        segments.append(owners)
    return Branches(
        pad_rows(ids, pad_id)[0],
        pad_rows(positions, 0)[0],
        pad_rows(segments, -1)[0],
        torch.tensor(rows),
        torch.tensor(ends),
    )
