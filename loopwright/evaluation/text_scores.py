"""A reward model as a function from texts to scores, on rows as it was trained to read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import prompt_text, render_prompts
from loopwright.data.tokenizer import bos_prefix, encode_texts
from loopwright.evaluation.judged_pairs import Messages
from loopwright.evaluation.sensitivity import Score
from loopwright.models.encoders import cut_of, encode_and_cut_pairs, is_encoder
from loopwright.models.layers import unwrapped
from loopwright.rewards.reward_model import score_rows


def text_scores(model: Any, tokenizer: PreTrainedTokenizerBase, *, append_eos: bool, max_length: int) -> Score:
    """The `score` of an assessment.

    Changed and worthless answers can be longer than any that was judged: a row is cut to `max_length` tokens, of which
    EOS stays the last.

    Args:
        model: a sequence classifier with one label.
        append_eos: whether it was trained on responses that end.
        max_length: tokens of prompt and response; at most the model's context.
    """
    end = [tokenizer.eos_token_id] if append_eos else []
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def score(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
        if is_encoder(unwrapped(model).config):
            texts = [prompt_text(prompt) if prompt else None for prompt in prompts]
            encoded, _ = encode_and_cut_pairs(tokenizer, texts, responses, cut_of(model))
            rows = [row[: max_length - 1] + row[-1:] for row in encoded]
            return [float(value) for value in score_rows(model, rows, pad_id)]
        distinct = list(dict.fromkeys(prompt for prompt in prompts if prompt))
        rendered = dict(zip(distinct, render_prompts(tokenizer, distinct) if distinct else [], strict=True))
        alone = bos_prefix(tokenizer)  # before a text without a prompt
        rows = [
            (rendered.get(prompt, alone) + ids)[: max_length - len(end)] + end
            for prompt, ids in zip(prompts, encode_texts(tokenizer, responses), strict=True)
        ]
        rows = [row or [tokenizer.eos_token_id] for row in rows]  # an empty text, where nothing stands around it
        return [float(value) for value in score_rows(model, rows, pad_id)]

    return score
