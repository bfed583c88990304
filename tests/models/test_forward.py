"""Which models may compute several forward passes at the same time."""

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from loopwright.models.forward import can_run_at_once
from loopwright.models.loading import without_dropout
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable
from tests.tiny import CHANGED_LOGITS, FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES + CHANGED_LOGITS)
def test_models_without_dropout_are_pure(family):
    assert can_run_at_once(without_dropout(tiny_model(family)))


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # probabilities in attributes of attention, and in layers
def test_dropout_draws_at_random(family):
    assert not can_run_at_once(tiny_model(family))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_adapters_are_pure_without_dropout(dropout):
    config = TrainableConfig(mode="lora", lora=LoRAConfig(dropout=dropout))
    assert can_run_at_once(make_trainable(without_dropout(tiny_model("qwen2")), config, seed=0)) == (dropout == 0)


@pytest.mark.parametrize(("kind", "pure"), [("linear", True), ("dynamic", False), ("longrope", False)])
def test_positions_that_follow_the_longest_row_leave_something_behind(kind, pure):
    rope = {"rope_type": kind, "rope_theta": 100.0, "factor": 2.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0], "original_max_position_embeddings": 8}
    config = tiny_model("llama").config
    config.rope_parameters, config.max_position_embeddings, config.attention_dropout = rope, 16, 0.0
    model = LlamaForCausalLM(config)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.zeros(1, 16, dtype=torch.int64))
    model(torch.zeros(1, 24, dtype=torch.int64))
    changed = any(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert changed != pure
    assert can_run_at_once(model) == pure


def test_a_router_that_is_jittered_draws_at_random():
    router = nn.Linear(2, 2)
    assert can_run_at_once(router)
    router.jitter_noise = 0.1
    assert not can_run_at_once(router)


def test_running_means_stay_behind():
    assert not can_run_at_once(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
