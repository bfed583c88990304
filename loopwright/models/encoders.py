"""Encoders (BERT and its kin) as reward models: they read prompt and response as a pair, both ways at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from loopwright.errors import ModelError
from loopwright.models.layers import unwrapped
from loopwright.models.loading import (
    check_folder,
    check_one_label,
    load_weights,
    quiet,
    read_tokenizer,
    without_dropout,
)


class Cut(NamedTuple):
    """What goes of rows that are too long."""

    side: Literal["prompt", "response"]  # its beginning; its end
    tokens: int  # of a row, at most


def is_encoder(config: Any) -> bool:
    """Whether a model of this config reads both ways: its family was pre-trained on masked words."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def is_encoder_folder(folder: Path) -> bool:
    """The same of a Hugging Face folder.

    Raises:
        ModelError: the folder has no config that transformers can read.
    """
    check_folder(folder)
    try:
        with quiet():
            return is_encoder(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} has no config that transformers can read ({error})") from error


def load_encoder_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """An encoder's tokenizer: it separates and pads, and needs no EOS.

    Raises:
        ModelError: there is none, or it has no padding.
    """
    tokenizer = read_tokenizer(folder)
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no padding, which an encoder needs; set its pad_token")
    return tokenizer


def encoder_reward_model(
    folder: Path, seed: int, device: torch.device | str = "cpu", *, heads: int = 1
) -> PreTrainedModel:
    """The folder's encoder under new heads with one label each, drawn from the seed as the family draws them.

    Raises:
        ModelError: as for `load_causal_lm`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_weights(AutoModelForSequenceClassification, folder, num_labels=heads, ignore_mismatched_sizes=True)
    model.config.reward_heads = heads
    model.config.sep_token_id = load_encoder_tokenizer(folder).sep_token_id  # where the parts of a pair meet
    return without_dropout(model).to(device)  # type: ignore[arg-type]


def load_encoder_reward_model(folder: Path, device: torch.device | str = "cpu") -> PreTrainedModel:
    """An encoder with one label, as somebody trained it.

    Raises:
        ModelError: as for `load_causal_lm`, or it has more labels than one.
    """
    model = load_weights(AutoModelForSequenceClassification, folder)
    check_one_label(model, folder)
    model.config.sep_token_id = load_encoder_tokenizer(folder).sep_token_id
    return without_dropout(model).to(device)  # type: ignore[arg-type]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | None], responses: Sequence[str]
) -> list[list[int]]:
    """Token ids of prompt and response as a pair, or of the response alone where there is no prompt.

    Text that spells a special token stays text.
    """
    return encode_and_cut_pairs(tokenizer, prompts, responses, None)[0]


def encode_and_cut_pairs(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | None], responses: Sequence[str], cut: Cut | None
) -> tuple[list[list[int]], int]:
    """The same, with what is too long cut, and how many rows were.

    Of the prompt its beginning goes, which the response does not answer; when nothing of it is left, the end of the
    response. Of the response only its end goes: a prompt that leaves no room for any response makes a row that stays
    too long. A response without a prompt loses its end.

    Raises:
        ModelError: something is too long, and the tokenizer does not say which tokens are the prompt's.
    """
    rows: list[list[int]] = [[] for _ in responses]
    cuts = 0
    for paired in (False, True):
        places = [i for i, prompt in enumerate(prompts) if (prompt is not None) == paired]
        if not places:
            continue
        texts = [[prompts[i] for i in places]] if paired else []
        found = tokenizer(
            *texts,
            [responses[i] for i in places],
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        for number, (i, ids) in enumerate(zip(places, found["input_ids"], strict=True)):
            rows[i] = list(ids)
            if cut is not None and len(ids) > cut.tokens:
                rows[i] = _cut_row(rows[i], _owners(tokenizer, found, number), cut, paired=paired)
                cuts += len(rows[i]) < len(ids)
    return rows, cuts


def cut_of(model: Any) -> Cut | None:
    """How an encoder was trained to read long rows; None: they are too long for it."""
    cut = getattr(unwrapped(model).config, "cut_rows", None)
    return None if cut is None else Cut(**cut)


def _owners(tokenizer: PreTrainedTokenizerBase, found: Any, number: int) -> list[int | None]:
    """For each token of a row: 0 the first text's, 1 the second's, None nobody's."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not say which tokens of a long row are the prompt's, so it cannot be cut;"
            " leave out reward.cut"
        )
    owners: list[int | None] = found.sequence_ids(number)
    return owners


def _cut_row(row: list[int], owners: Sequence[int | None], cut: Cut, *, paired: bool) -> list[int]:
    of_prompt = [i for i, owner in enumerate(owners) if paired and owner == 0]
    of_response = [i for i, owner in enumerate(owners) if owner == int(paired)]
    excess = len(row) - cut.tokens
    if cut.side == "response" and excess >= len(of_response):
        return row
    first = of_prompt if cut.side == "prompt" else []
    gone = {*first[:excess], *of_response[len(of_response) - max(0, excess - len(first)) :]}
    return [token for i, token in enumerate(row) if i not in gone]


def encoder_scores(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, H] what each head says of rows of `encode_pairs`, padded on the right.

    Where the family tells the parts of a pair apart, the second begins after the first separator.
    """
    base = unwrapped(model)
    more = {}
    separator = getattr(base.config, "sep_token_id", None)
    if getattr(base.config, "type_vocab_size", 0) > 1 and separator is not None:
        ends = (input_ids == separator) & attention_mask
        more["token_type_ids"] = ((ends.cumsum(1) - ends.long()) > 0).long() * attention_mask
    logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask.long(), **more).logits
    return logits


def last_linear(model: Any) -> nn.Linear:
    """The layer of an encoder's head that gives the scores.

    Raises:
        ModelError: no linear layer of one output for each head stands above the body.
    """
    base = unwrapped(model)
    body = set(base.base_model.modules())
    labels = base.config.num_labels
    heads = [m for m in base.modules() if m not in body and isinstance(m, nn.Linear) and m.out_features == labels]
    if not heads or heads[-1].bias is None:
        raise ModelError(f"{type(base).__name__} has no linear head with a bias, so it cannot be a reward model here")
    return heads[-1]
