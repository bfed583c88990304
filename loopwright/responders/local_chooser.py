"""A judge in this process: probabilities of short replies, read from the next token instead of from what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import render_prompts
from loopwright.data.tokenizer import encode_text
from loopwright.generation.base import Engine, SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models import lm_head
from loopwright.models.batching import in_batches
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.models.padding import last_token_index, pad_rows, position_ids
from loopwright.models.tokens import context_length
from loopwright.objectives.logprobs import head_logits
from loopwright.responders.local import identity
from loopwright.schemas import Message, ReplySettings

Spelling = tuple[int, ...]  # token ids

SMALLEST = -1e4  # nats: what is left of a choice that is always the beginning of another


class _Asked(NamedTuple):
    """A row of a batch, and the conversation and beginning of a choice that it asks the next token of."""

    conversation: int
    beginning: Spelling
    row: list[int]


class LocalChooser:
    """A model and its tokenizer. See `Chooser`.

    A conversation becomes tokens as `render_prompts` does it: what is quoted in it is never a special token.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        policy: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`policy`: the id of the model's artifact, or a hash of its files. `say`: as of `make_engine`."""
        self.model, self.tokenizer, self.name, self.policy, self._say = model, tokenizer, name, policy, say

    @classmethod
    def open(
        cls, folder: Path, device: torch.device | str = "cpu", say: Callable[[str], None] | None = None
    ) -> LocalChooser:
        """The model of a Hugging Face folder.

        Raises:
            ModelError: the folder is no causal LM of transformers.
            ArtifactError: the folder is an artifact's and was changed after it was made.
        """
        return cls(load_causal_lm(folder, device), load_tokenizer(folder), *identity(folder), say)

    def choose(
        self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]
    ) -> list[Sequence[float] | None]:
        """See `Chooser.choose`: nats; None where a conversation does not fit the model's context.

        A choice counts with and without a space before it. One that begins another ("1", "10") has the probability of
        not going on as that one.
        """
        spelled = {spelling: place for place, choice in enumerate(choices) for spelling in self._spellings(choice)}
        beginnings = sorted({spelling[:end] for spelling in spelled for end in range(len(spelling))})
        wanted = sorted({token for spelling in spelled for token in spelling})
        rows = render_prompts(self.tokenizer, conversations)
        fits = [self._fits(row, max(map(len, beginnings))) for row in rows]
        asked = [_Asked(n, start, rows[n] + list(start)) for n, fit in enumerate(fits) if fit for start in beginnings]
        by_conversation: list[dict[Spelling, dict[int, float]]] = [{} for _ in rows]
        if asked:
            found = self._next_logprobs([one.row for one in asked], wanted).tolist()
            for one, logprobs in zip(asked, found, strict=True):
                by_conversation[one.conversation][one.beginning] = dict(zip(wanted, logprobs, strict=True))
        return [_of_choices(spelled, after, len(choices)) if after else None for after in by_conversation]

    def write(self, conversations: Sequence[Sequence[Message]], settings: Sequence[ReplySettings]) -> list[str]:
        """See `Chooser.write`; empty where a conversation and its reply do not fit the model's context."""
        rows = render_prompts(self.tokenizer, conversations)
        texts = [""] * len(rows)
        for way in sorted({(one.max_new_tokens, one.temperature) for one in settings}):
            alike = [i for i, one in enumerate(settings) if (one.max_new_tokens, one.temperature) == way]
            places = [i for i in alike if self._fits(rows[i], way[0])]
            if not places:
                continue
            sampling = SamplingConfig(max_new_tokens=way[0], temperature=way[1])
            seeds = [settings[i].seed or 0 for i in places]
            rollouts = self._engine.generate([rows[i] for i in places], sampling, seeds)
            for i, text in zip(places, decode_responses(self.tokenizer, rollouts), strict=True):
                texts[i] = text
        return texts

    @cached_property
    def _engine(self) -> Engine:
        return make_engine(self.model, self.tokenizer, self._say)

    def _spellings(self, choice: str) -> set[Spelling]:
        return {tuple(encode_text(self.tokenizer, text)) for text in (choice, f" {choice}")}

    def _fits(self, row: Sequence[int], more: int) -> bool:
        limit = context_length(self.model)
        return limit is None or len(row) + more <= limit

    def _next_logprobs(self, rows: Sequence[Sequence[int]], wanted: Sequence[int]) -> Tensor:
        """[N, W] float32 on the CPU: log-probabilities of the wanted tokens after each row."""
        pad_id = self.tokenizer.pad_token_id
        pad = int(self.tokenizer.eos_token_id if pad_id is None else pad_id)
        device = next(self.model.parameters()).device

        def outputs(batch: list[int]) -> Tensor:
            ids, mask = (part.to(device) for part in pad_rows([rows[i] for i in batch], pad))
            attention = mask.long()
            head = lm_head.read(
                self.model, input_ids=ids, attention_mask=attention, position_ids=position_ids(attention)
            )
            last = torch.nn.functional.one_hot(last_token_index(attention), mask.shape[1]).bool()
            head = head.at(last)
            logits = head_logits(head.hidden, head.weight, head.bias, 1.0, None)
            return logits.log_softmax(-1)[:, list(wanted)]

        return in_batches(self.model, [len(row) for row in rows], outputs)


def _of_choices(spelled: dict[Spelling, int], after: dict[Spelling, dict[int, float]], count: int) -> list[float]:
    """Log-probability of each choice, over its spellings.

    Args:
        spelled: spelling -> its choice.
        after: beginning of a spelling -> log-probabilities of the tokens that may follow it.
    """
    whole = {spelling: sum(after[spelling[:i]][token] for i, token in enumerate(spelling)) for spelling in spelled}
    masses: list[list[float]] = [[] for _ in range(count)]
    for spelling, place in spelled.items():
        longer = [other for other in spelled if _begins(spelling, other)]
        nearest = [other for other in longer if not any(_begins(between, other) for between in longer)]
        goes_on = sum(math.exp(whole[other] - whole[spelling]) for other in nearest)
        left = math.log1p(-goes_on) if goes_on < 1 else SMALLEST
        masses[place].append(whole[spelling] + left)
    return [_log_sum(own) for own in masses]


def _begins(spelling: Spelling, other: Spelling) -> bool:
    return len(spelling) < len(other) and other[: len(spelling)] == spelling


def _log_sum(logs: Sequence[float]) -> float:
    highest = max(logs)
    return highest + math.log(sum(math.exp(one - highest) for one in logs))
