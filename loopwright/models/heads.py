"""Scalar heads on a language model's body: one score for a response, or one value for each of its tokens.

A body may carry several heads, H, which were trained on different labels: the score is their mean, and how far they
are apart says how sure it is.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer

from loopwright.errors import ModelError
from loopwright.models.encoders import encoder_scores, is_encoder
from loopwright.models.layers import unwrapped
from loopwright.models.loading import load_reward_model, quiet, save_model, without_dropout
from loopwright.models.padding import last_token_index, position_ids


class Branches(NamedTuple):
    """Rows of a prompt and several responses to it; each response sees the prompt and itself.

    So a prompt goes through the model once for all its responses (Wang and Hegde 2024, arXiv:2410.20305).
    """

    input_ids: Tensor  # [G, T] int64, padded on the right
    position_ids: Tensor  # [G, T] int64: every response goes on from the end of the prompt
    segments: Tensor  # [G, T] int64: 0 in the prompt, n in the nth response, -1 on padding
    rows: Tensor  # [N] int64: the row of each response
    ends: Tensor  # [N] int64: the place of its last token


def reward_model_from(lm: PreTrainedModel, seed: int, *, heads: int = 1) -> PreTrainedModel:
    """A copy of the LM's body under new scalar heads, drawn from N(0, 1 / (d + 1)), without bias.

    Stiennon et al. 2020 and Ouyang et al. 2022 start their reward models so. What comes back is the
    family's own sequence classifier with one label for each head.

    Raises:
        ModelError: transformers has no sequence classifier for the family, or its head is not one linear layer.
    """
    config = copy.deepcopy(lm.config)
    config.num_labels = config.reward_heads = heads
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


def last_token_features(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, d]: what the head reads, at the last real token of each row; padding may be on either side."""
    hidden = _hidden_states(model, input_ids, attention_mask)
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, last_token_index(attention_mask)]


def scores_at_last_token(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """[B] scores of prompt and response, read at the last real token; of several heads the mean.

    Args:
        model: a sequence classifier of as many labels as heads, or a peft model around one.
        input_ids, attention_mask: [B, T]; padding may be on either side.
    """
    return said_by_heads(model, last_token_features(model, input_ids, attention_mask)).mean(-1)


def scores_of_rows(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, H] what each head says of rows as the model reads them: a decoder continuations, an encoder pairs."""
    if is_encoder(unwrapped(model).config):
        return encoder_scores(model, input_ids, attention_mask)
    return said_by_heads(model, last_token_features(model, input_ids, attention_mask))


def scores_of_branches(model: Any, branches: Branches) -> Tensor:
    """[N, H] what each head says of prompt and response, as `scores_of_rows` does, where `can_branch`."""
    body, segments = unwrapped(model).base_model, branches.segments
    places = torch.arange(segments.shape[1], device=segments.device)
    asks, seen = segments[:, :, None], segments[:, None, :]
    visible = ((asks == seen) | ((seen == 0) & (asks > 0))) & (places[:, None] >= places)
    hidden = body(
        input_ids=branches.input_ids,
        attention_mask=torch.where(visible, 0.0, torch.finfo(body.dtype).min).to(body.dtype)[:, None],
        position_ids=branches.position_ids,
        use_cache=False,
    ).last_hidden_state
    return said_by_heads(model, hidden[branches.rows, branches.ends])


def can_branch(model: Any) -> bool:
    """Whether the model takes any mask: full attention in every layer, by code that adds it to the scores."""
    config = unwrapped(model).config
    if is_encoder(config):
        return False
    layers = DynamicCache(config=config).layers
    return (
        bool(layers)
        and all(type(layer) is DynamicLayer for layer in layers)
        and config._attn_implementation in {"sdpa", "eager"}
    )


class Critic(nn.Module):
    """A value for every token, from a model of the shape of a reward model."""

    def __init__(self, model: Any) -> None:
        """`model`: a one-label sequence classifier, or a peft model around one; it is used, not copied."""
        super().__init__()
        self.model = model

    @classmethod
    def from_reward_model(cls, model: PreTrainedModel) -> Critic:
        """Start from a copy of the reward model's body, and of the mean of its heads."""
        return cls(_with_one_head(copy.deepcopy(model)))

    @classmethod
    def from_policy(cls, policy: PreTrainedModel) -> Critic:
        """Start from a copy of the policy's body and a head at 0 (lm-human-preferences).

        No value is better than a made-up one.
        """
        body = reward_model_from(policy, seed=0)
        with torch.no_grad():
            head_of(body).weight.zero_()
        return cls(body)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Critic:
        """Read what `save` wrote."""
        return cls(load_reward_model(folder, device))

    def save(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """A Hugging Face folder of a sequence classifier with one label."""
        save_model(self.model, tokenizer, folder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] values; entry t is the value after reading token t. Padding holds no meaning."""
        return score_of(self.model, _hidden_states(self.model, input_ids, attention_mask))


def score_of(model: Any, hidden: Tensor) -> Tensor:
    """[...]: what one head says of [..., d] hidden states."""
    return said_by_heads(model, hidden).squeeze(-1)


def said_by_heads(model: Any, hidden: Tensor) -> Tensor:
    """[..., H] of [..., d] hidden states, in the heads' type: float32, also over a body in another."""
    head = head_of(model)
    return head(hidden.to(head.weight.dtype))


def _with_one_head(model: Any) -> Any:
    """The same scores from one head: linear ones have a mean of their own kind."""
    base, head = unwrapped(model), head_of(model)
    if len(head.weight) == 1:
        return model
    with torch.no_grad():
        head.weight = nn.Parameter(head.weight.mean(0, keepdim=True), requires_grad=head.weight.requires_grad)
    head.out_features = base.config.num_labels = base.config.reward_heads = base.num_labels = 1
    return model


def head_of(model: Any) -> nn.Linear:
    """The linear layer that gives the scores.

    Raises:
        ModelError: the model's head is not one linear layer called `score`.
    """
    base = unwrapped(model)
    head = getattr(base, "score", None)
    if head is None or not hasattr(head, "weight"):
        raise ModelError(f"{type(base).__name__} has no linear head named score, so it cannot be a reward model here")
    return head


def _hidden_states(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, d] after the final norm. Positions count real tokens, so left padding does not shift them."""
    body = unwrapped(model).base_model
    return body(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids(attention_mask),
        use_cache=False,
    ).last_hidden_state
