"""Scalar heads on a language model's body: one score for a response, or one value for each of its tokens."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer

from loopwright.errors import ModelError
from loopwright.models.loading import load_reward_model, quiet, save_model, without_dropout
from loopwright.models.padding import last_token_index, position_ids


class Prefixes(NamedTuple):
    """Beginnings that rows share. Each goes through the model once, and gradients through all that follow it."""

    input_ids: Tensor  # [G, P] int64, padded on the left; every beginning has a token
    attention_mask: Tensor  # [G, P] bool
    owner: Tensor  # [B] int64: the beginning of each row


def reward_model_from(lm: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A copy of the LM's body under a new scalar head, drawn from N(0, 1 / (d + 1)), without bias.

    Stiennon et al. 2020 and Ouyang et al. 2022 start their reward models so. What comes back is the
    family's own sequence classifier with one label.

    Raises:
        ModelError: transformers has no sequence classifier for the family, or its head is not one linear layer.
    """
    config = copy.deepcopy(lm.config)
    config.num_labels = 1
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ModelError(
            f"transformers has no sequence classifier for {config.model_type} models; use another"
        ) from error
    model = model.float()
    model.base_model.load_state_dict(lm.base_model.state_dict())
    head = head_of(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = torch.randn(head.weight.shape, generator=generator)
        head.weight.copy_(drawn / (head.weight.shape[1] + 1) ** 0.5)
    return without_dropout(model).to(lm.device)  # type: ignore[arg-type]


def last_token_features(
    model: Any, input_ids: Tensor, attention_mask: Tensor, prefixes: Prefixes | None = None
) -> Tensor:
    """[B, d]: what the head reads, at the last real token of each row; padding may be on either side."""
    hidden = _hidden_states(model, input_ids, attention_mask, prefixes)
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, last_token_index(attention_mask)]


def scores_at_last_token(
    model: Any, input_ids: Tensor, attention_mask: Tensor, prefixes: Prefixes | None = None
) -> Tensor:
    """[B] scores of prompt and response, read at the last real token.

    Args:
        model: a one-label sequence classifier, or a peft model around one.
        input_ids, attention_mask: [B, T]; padding may be on either side, behind prefixes only on the right.
        prefixes: what the rows go on from, where `can_share_prefixes`.
    """
    return head_of(model)(last_token_features(model, input_ids, attention_mask, prefixes)).squeeze(-1)


def can_share_prefixes(model: Any) -> bool:
    """Whether rows may go on from a cache, and gradients through it: full attention in every layer."""
    base = _base(model)
    cached = "past_key_values" in inspect.signature(base.base_model.forward).parameters
    layers = DynamicCache(config=base.config).layers
    return cached and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


class Critic(nn.Module):
    """A value for every token, from a model of the shape of a reward model."""

    def __init__(self, model: Any) -> None:
        """`model`: a one-label sequence classifier, or a peft model around one; it is used, not copied."""
        super().__init__()
        self.model = model

    @classmethod
    def from_reward_model(cls, model: PreTrainedModel) -> Critic:
        """Start from a copy of the reward model's body and head."""
        return cls(copy.deepcopy(model))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Critic:
        """Read what `save` wrote."""
        return cls(load_reward_model(folder, device))

    def save(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """A Hugging Face folder of a sequence classifier with one label."""
        save_model(self.model, tokenizer, folder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] values; entry t is the value after reading token t. Padding holds no meaning."""
        hidden = _hidden_states(self.model, input_ids, attention_mask)
        return head_of(self.model)(hidden).squeeze(-1)


def head_of(model: Any) -> nn.Linear:
    """The linear layer that gives the score.

    Raises:
        ModelError: the model's head is not one linear layer called `score`.
    """
    base = _base(model)
    head = getattr(base, "score", None)
    if head is None or not hasattr(head, "weight"):
        raise ModelError(f"{type(base).__name__} has no linear head named score, so it cannot be a reward model here")
    return head


def _hidden_states(model: Any, input_ids: Tensor, attention_mask: Tensor, prefixes: Prefixes | None = None) -> Tensor:
    """[B, T, d] after the final norm. Positions count real tokens, so left padding does not shift them."""
    body = _base(model).base_model
    positions = position_ids(attention_mask)
    if prefixes is None:
        return body(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).last_hidden_state
    cache = DynamicCache(config=body.config)
    body(
        input_ids=prefixes.input_ids,
        attention_mask=prefixes.attention_mask,
        position_ids=position_ids(prefixes.attention_mask),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_select_indices(prefixes.owner)
    before = prefixes.attention_mask[prefixes.owner]
    return body(
        input_ids=input_ids,
        attention_mask=torch.cat((before, attention_mask), dim=1),
        position_ids=before.sum(dim=1, keepdim=True) + positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
