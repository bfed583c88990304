"""A trained reward model: a sequence classifier with one label, on tokens as it was trained to read them.

A decoder reads the conversation to its last token; an encoder (BERT and its kin) reads prompt and response as a pair.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import prompt_text, render_prompt
from loopwright.data.tokenizer import encode_text
from loopwright.errors import DataError, ModelError
from loopwright.models.batching import in_batches
from loopwright.models.encoders import (
    cut_of,
    encode_and_cut_pairs,
    is_encoder,
    is_encoder_folder,
    load_encoder_reward_model,
    load_encoder_tokenizer,
)
from loopwright.models.heads import last_token_features, scores_of_rows
from loopwright.models.layers import unwrapped
from loopwright.models.loading import load_reward_model, load_tokenizer
from loopwright.models.padding import pad_rows
from loopwright.models.tokens import context_length, same_ids
from loopwright.rewards.base import Sample, Scores, check_scores


class _Fit(NamedTuple):
    """Which ids of a policy a reward model reads as they are."""

    prompt: bool
    response: bool


class RewardModel:
    """Scores a response by its last token, in batches of like length.

    Ids go in as they were sampled wherever they mean the same to model and policy. A response of another vocabulary
    is tokenized anew, and a prompt of another chat template rendered anew, as when the model was trained.
    """

    def __init__(
        self,
        model: Path | Any,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str = "reward_model",
        device: torch.device | str = "cpu",
    ) -> None:
        """`model`: a folder, or a model in memory, which needs its tokenizer.

        Raises:
            ModelError: the folder is no model of one label, or the model finds marked passages.
        """
        self.name = name
        if isinstance(model, Path):
            encoder = is_encoder_folder(model)
            self.model: Any = (load_encoder_reward_model if encoder else load_reward_model)(model, device)
            load = load_encoder_tokenizer if encoder else load_tokenizer
            self.tokenizer = load(model) if tokenizer is None else tokenizer
        else:
            if tokenizer is None:
                raise ValueError("a reward model in memory needs its tokenizer")
            self.model, self.tokenizer = model, tokenizer
        if getattr(self.model.config, "finds_spans", False):
            where = model if isinstance(model, Path) else name
            raise ModelError(
                f"{where} was trained on marked passages and says of each token whether it would be marked, not how "
                "good a response is; use kind: spans in ppo.rewards, or SpanReward"
            )
        # The reward stage says in the config whether it trained on responses that end; other trainers keep the EOS.
        self.end = [self.tokenizer.eos_token_id] if getattr(self.model.config, "append_eos", True) else []
        self.cut = 0  # samples so far of which an encoder read only a part
        self._last_fit: tuple[PreTrainedTokenizerBase, _Fit] | None = None

    def score(self, samples: Sequence[Sample]) -> Scores:
        """[B] scores of prompt and response; of a model of several heads their mean, with what each says.

        Raises:
            DataError: a sample is longer than the model's context, and the model was not trained on rows that are cut.
            CheckError: a score is not finite.
            ModelError: the model's chat template refuses a prompt.
        """
        if is_encoder(unwrapped(self.model).config):
            rows = self._text_pairs(samples)
        else:
            rows = [self.row(sample) for sample in samples]
        by_head = scores_by_head(self.model, rows, self.pad_id)
        total = check_scores(self.name, by_head.mean(1), samples)
        if by_head.shape[1] == 1:
            return Scores(total)
        return Scores(total, std=by_head.std(1, correction=0), heads=by_head.T)

    def row(self, sample: Sample) -> list[int]:
        """The ids that a decoder reads; where a response is tokenized anew, EOS ends it if it is finished."""
        fit = self._fit(sample.tokenizer)
        prompt = sample.prompt_ids if fit.prompt else render_prompt(self.tokenizer, sample.prompt.messages)
        if fit.response:
            return prompt + sample.response_ids
        return prompt + encode_text(self.tokenizer, sample.response) + (self.end if sample.finished else [])

    def reads(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether a policy's tokens go in as they are: a decoder of one vocabulary and one chat format with it."""
        return not is_encoder(unwrapped(self.model).config) and all(self._fit(tokenizer))

    @property
    def heads(self) -> int:
        """How many heads its body carries."""
        return int(unwrapped(self.model).config.num_labels)

    @property
    def pad_id(self) -> int:
        pad_id = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad_id is None else pad_id)

    def _text_pairs(self, samples: Sequence[Sample]) -> list[list[int]]:
        """What an encoder reads; the first row that is cut warns."""
        prompts = [prompt_text(sample.prompt.messages) for sample in samples]
        cut = cut_of(self.model)
        rows, cuts = encode_and_cut_pairs(self.tokenizer, prompts, [sample.response for sample in samples], cut)
        if cut is not None and cuts and not self.cut:
            warnings.warn(
                f"{self.name} reads at most {cut.tokens} tokens: {cuts} of {len(samples)} rows are cut, the {cut.side} "
                "first; it goes on cutting without saying so again (its attribute `cut` counts)",
                stacklevel=3,
            )
        self.cut += cuts
        return rows

    def _fit(self, theirs: PreTrainedTokenizerBase | None) -> _Fit:
        """Remembered for the last tokenizer: comparing two large vocabularies takes longer than a short score."""
        if theirs is None:
            return _Fit(prompt=False, response=False)
        if self._last_fit is None or self._last_fit[0] is not theirs:
            response = same_ids(theirs, self.tokenizer)
            formats = [(one.chat_template, one.bos_token_id) for one in (theirs, self.tokenizer)]
            self._last_fit = theirs, _Fit(response and formats[0] == formats[1], response)
        return self._last_fit[1]


def score_rows(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """[N] float32 scores of token rows, in their order, on the CPU."""
    return scores_by_head(model, rows, pad_id).mean(1)


def scores_by_head(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """[N, H] float32 what each head says of token rows, in their order, on the CPU."""
    return _in_batches(scores_of_rows, model, rows, pad_id)


def features_of_rows(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """[N, d] float32: what the head reads on each token row, in their order, on the CPU."""
    return _in_batches(last_token_features, model, rows, pad_id)


def _in_batches(
    forward: Callable[[Any, Tensor, Tensor], Tensor], model: Any, rows: Sequence[Sequence[int]], pad_id: int
) -> Tensor:
    limit = context_length(model)
    longest = max(len(row) for row in rows)
    if limit is not None and longest > limit:
        raise DataError(f"a row of {longest} tokens exceeds the reward model's context of {limit}; shorten it")
    device = next(model.parameters()).device

    def outputs(batch: list[int]) -> Tensor:
        ids, mask = pad_rows([rows[i] for i in batch], pad_id)
        return forward(model, ids.to(device), mask.to(device))

    return in_batches(model, [len(row) for row in rows], outputs)
