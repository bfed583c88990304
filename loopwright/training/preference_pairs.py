"""Comparisons and rankings as pairs of token rows, grouped so that each response is read once.

All pairs of one prompt stay together, in a batch and on one side of the held-out split: Ouyang et al. 2022
(arXiv:2203.02155, sec. 3.5) found that spreading them over batches overfits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import render_prompt
from loopwright.data.tokenizer import bos_prefix, encode_texts
from loopwright.models.heads import Prefixes
from loopwright.models.padding import pad_rows
from loopwright.objectives.preference import ranking_pairs
from loopwright.schemas import Comparison, Message, Ranking


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


class PairBatch(NamedTuple):
    """A microbatch."""

    prefixes: Prefixes | None  # prompts, where each is read once for all its responses
    input_ids: Tensor  # [N, T] int64, padded on the right: prompt and response, or what follows a prefix
    attention_mask: Tensor  # [N, T] bool
    chosen: Tensor  # [P] int64 rows
    rejected: Tensor  # [P] int64 rows


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
    for group in groups:
        prompt = render_prompt(tokenizer, group.messages) if group.messages else bos_prefix(tokenizer)
        group.prompt_ids = prompt
        group.rows = [prompt + ids + end for ids in encode_texts(tokenizer, group.responses)]
        fits = [0 < len(row) <= max_length for row in group.rows]
        pairs = [pair for pair in group.pairs if fits[pair.first] and fits[pair.second]]
        skipped += len(group.pairs) - len(pairs)
        group.pairs = pairs
        if pairs:
            kept.append(group)
    return kept, skipped


def collate(groups: Sequence[Group], pad_id: int, device: torch.device, *, share_prompts: bool = False) -> PairBatch:
    """Every response that a pair needs, once, and the pairs as row numbers.

    Args:
        groups: with their token rows.
        share_prompts: a prompt is a prefix of its responses, all but its last token: a response may be empty. Only
            where every group has a prompt of two tokens or more.
    """
    shared = share_prompts and all(len(group.prompt_ids) > 1 for group in groups)
    rows: list[list[int]] = []
    owner, chosen, rejected = [], [], []
    for number, group in enumerate(groups):
        used = sorted({i for pair in group.pairs for i in (pair.first, pair.second)})
        place = {i: len(rows) + n for n, i in enumerate(used)}
        start = len(group.prompt_ids) - 1 if shared else 0
        rows += [group.rows[i][start:] for i in used]
        owner += [number] * len(used)
        for pair in group.pairs:
            better, worse = (pair.first, pair.second) if pair.choice == 0 else (pair.second, pair.first)
            chosen.append(place[better])
            rejected.append(place[worse])

    prefixes = None
    if shared:
        ids, mask = pad_rows([group.prompt_ids[:-1] for group in groups], pad_id, left=True)
        prefixes = Prefixes(ids.to(device), mask.to(device), torch.tensor(owner, device=device))
    ids, mask = pad_rows(rows, pad_id)
    places = (torch.tensor(which, device=device) for which in (chosen, rejected))
    return PairBatch(prefixes, ids.to(device), mask.to(device), *places)


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
