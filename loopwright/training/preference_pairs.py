"""Comparisons and rankings as pairs of token rows, grouped so that each response is read once.

All pairs of one prompt stay together, in a batch and on one side of the held-out split: Ouyang et al. 2022
(arXiv:2203.02155, sec. 3.5) found that spreading them over batches overfits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import render_prompts
from loopwright.data.tokenizer import bos_prefix, encode_texts
from loopwright.models.heads import Branches, can_branch, scores_at_last_token, scores_of_branches
from loopwright.models.padding import pad_rows
from loopwright.objectives.preference import ranking_pairs
from loopwright.schemas import Comparison, Message, Ranking

BRANCHES_TOLERANCE = 1e-3  # of the largest score
BRANCHES_ATTENTION = 2  # times that of rows of their own: beyond, long responses cost more than the prompt saves


class Pair(NamedTuple):
    """Two responses of a group, in the order stored, and which is better."""

    first: int
    second: int
    choice: int  # 0: the first


@dataclass
class Group:
    """A prompt, its responses, and the pairs people judged. Without a prompt: texts that comparisons connect."""

    key: str
    messages: tuple[Message, ...]
    responses: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)  # response -> index
    rows: list[list[int]] = field(default_factory=list)  # token ids of prompt and response

    def index(self, response: str) -> int:
        """Where the response stands; added when it is new."""
        place = self.places.setdefault(response, len(self.responses))
        if place == len(self.responses):
            self.responses.append(response)
        return place

    def tokens(self) -> int:
        """Of the prompt and all responses, the prompt counted once."""
        return sum(map(len, self.rows)) - (len(self.rows) - 1) * len(self.prompt_ids)


class Rows(NamedTuple):
    """Prompt and response, one a row."""

    input_ids: Tensor  # [N, T] int64, padded on the right
    attention_mask: Tensor  # [N, T] bool


class PairBatch(NamedTuple):
    """A microbatch."""

    inputs: Rows | Branches  # of N responses
    chosen: Tensor  # [P] int64 responses
    rejected: Tensor  # [P] int64 responses


def group_by_prompt(judgements: Iterable[Comparison | Ranking]) -> tuple[list[Group], int]:
    """Groups in the order first seen, and the number of tied pairs left out.

    A ranking counts as all pairs it orders; rankings by a single criterion are left out.
    """
    judgements = [j for j in judgements if not (isinstance(j, Ranking) and j.criterion is not None)]
    connected = _connected([j.responses for j in judgements if not j.prompt])
    groups: dict[str, Group] = {}
    ties = 0
    for judgement in judgements:
        key = repr([(m.role, m.content) for m in judgement.prompt]) if judgement.prompt else ""
        key = key or connected[judgement.responses[0]]
        group = groups.setdefault(key, Group(key, judgement.prompt))
        places = [group.index(response) for response in judgement.responses]
        pairs, tied = _pairs_of(judgement)
        ties += tied
        group.pairs += [Pair(places[a], places[b], choice) for a, b, choice in pairs if places[a] != places[b]]
    return [group for group in groups.values() if group.pairs], ties


def tokenize_groups(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, *, append_eos: bool, max_length: int
) -> tuple[list[Group], int]:
    """The groups with their token rows, and the number of pairs left out because a row is longer than max_length."""
    end = [tokenizer.eos_token_id] if append_eos else []
    kept, skipped = [], 0
    prompts = iter(render_prompts(tokenizer, [group.messages for group in groups if group.messages]))
    responses = iter(encode_texts(tokenizer, [response for group in groups for response in group.responses]))
    for group in groups:
        group.prompt_ids = next(prompts) if group.messages else bos_prefix(tokenizer)
        group.rows = [group.prompt_ids + next(responses) + end for _ in group.responses]
        fits = [0 < len(row) <= max_length for row in group.rows]
        pairs = [pair for pair in group.pairs if fits[pair.first] and fits[pair.second]]
        skipped += len(group.pairs) - len(pairs)
        group.pairs = pairs
        if pairs:
            kept.append(group)
    return kept, skipped


def collate(groups: Sequence[Group], pad_id: int, device: torch.device, *, branches: bool = False) -> PairBatch:
    """Every response that a pair needs, once, and the pairs as numbers of responses.

    Args:
        groups: with their token rows.
        branches: a row is a prompt with all its responses, not with one of them.
    """
    used = [sorted({i for pair in group.pairs for i in (pair.first, pair.second)}) for group in groups]
    chosen, rejected, start = [], [], 0
    for group, of_group in zip(groups, used, strict=True):
        number = {i: start + n for n, i in enumerate(of_group)}
        start += len(of_group)
        for pair in group.pairs:
            better, worse = (pair.first, pair.second) if pair.choice == 0 else (pair.second, pair.first)
            chosen.append(number[better])
            rejected.append(number[worse])
    inputs: Rows | Branches
    if branches:
        inputs = _branches(groups, used, pad_id)
    else:
        rows = [group.rows[i] for group, of_group in zip(groups, used, strict=True) for i in of_group]
        inputs = Rows(*pad_rows(rows, pad_id))
    moved = type(inputs)(*(tensor.to(device) for tensor in inputs))
    return PairBatch(moved, torch.tensor(chosen, device=device), torch.tensor(rejected, device=device))


def scores_of(model: Any, batch: PairBatch) -> Tensor:
    """[N] scores of the responses of a batch."""
    if isinstance(batch.inputs, Branches):
        return scores_of_branches(model, batch.inputs)
    return scores_at_last_token(model, *batch.inputs)


@torch.no_grad()
def may_branch(model: Any, groups: Sequence[Group], pad_id: int, device: torch.device) -> bool:
    """Whether rows may hold a prompt with all its responses.

    There are prompts, attention over such rows costs about what it costs over rows of their own (it grows with the
    square of a row), and the model gives the same scores.
    """
    if not (can_branch(model) and all(group.messages for group in groups)):
        return False
    own = sum(len(row) ** 2 for group in groups for row in group.rows)
    if sum(group.tokens() ** 2 for group in groups) > BRANCHES_ATTENTION * own:
        return False
    apart, together = (scores_of(model, collate(groups[:4], pad_id, device, branches=b)) for b in (False, True))
    return float((together - apart).abs().max()) <= BRANCHES_TOLERANCE * float(apart.abs().max())


def _branches(groups: Sequence[Group], used: Sequence[Sequence[int]], pad_id: int) -> Branches:
    ids, positions, segments, rows, ends = [], [], [], [], []
    for row, (group, of_group) in enumerate(zip(groups, used, strict=True)):
        begin = len(group.prompt_ids)
        tokens, places, owners = list(group.prompt_ids), list(range(begin)), [0] * begin
        for number, i in enumerate(of_group, start=1):
            response = group.rows[i][begin:]
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


def _pairs_of(judgement: Comparison | Ranking) -> tuple[list[tuple[int, int, int]], int]:
    """(first, second, choice) in the order stored, and the number of ties."""
    if isinstance(judgement, Comparison):
        return ([], 1) if judgement.choice is None else ([(0, 1, judgement.choice)], 0)
    ordered = [(min(p), max(p), int(p[0] > p[1])) for p in ranking_pairs(judgement.ranks)]
    count = len(judgement.ranks)
    return ordered, count * (count - 1) // 2 - len(ordered)


def _connected(sets: Sequence[Sequence[str]]) -> Mapping[str, str]:
    """For each text, one name for all that comparisons connect: no text is ever on both sides of a split."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for texts in sets:
        for other in texts[1:]:
            a, b = root(texts[0]), root(other)
            parent[max(a, b)] = min(a, b)
    return {text: root(text) for text in list(parent)}
