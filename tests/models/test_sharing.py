import copy

import pytest
import torch

from loopwright.models.heads import reward_model_from
from loopwright.models.loading import without_dropout
from loopwright.models.sharing import copy_sharing_weights, keep_from_training, resident_bytes, share_frozen
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable, trainable_parameters
from tests.tiny import FAMILIES, tiny_model

IDS = torch.tensor([[3, 17, 250, 41, 9, 77]])
TOP = TrainableConfig(mode="top_layers", layers=1)


def lora(**settings):
    return TrainableConfig(mode="lora", lora=LoRAConfig(r=2, **settings))


def nudge(model):
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def split(family, config):
    """A model to train, the frozen one it starts from, and what that one says."""
    plain = without_dropout(tiny_model(family)).requires_grad_(False)
    expected = plain(IDS).logits
    frozen = copy_sharing_weights(plain)
    trained = make_trainable(plain, config, seed=0)
    keep_from_training(frozen, trained)
    return trained, frozen, expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "config",
    [TrainableConfig(), TOP, lora(), lora(bias="all"), lora(modules_to_save=("lm_head",))],
    ids=lambda config: f"{config.mode}-{config.lora}",
)
@torch.no_grad()
def test_what_is_trained_never_reaches_the_frozen_copy(family, config):
    trained, frozen, expected = split(family, config)
    nudge(trained)
    assert torch.equal(frozen(IDS).logits, expected) and not torch.equal(trained(IDS).logits, expected)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    learned = {id(parameter): parameter.numel() * 4 for _, parameter in trainable_parameters(trained)}
    assert resident_bytes([trained, frozen]) <= resident_bytes([trained]) + sum(learned.values())


def test_an_equal_model_reads_the_same_weights_afterwards():
    policy = make_trainable(tiny_model("llama"), lora(), seed=0)
    critic = reward_model_from(tiny_model("llama"), seed=0)
    critic = make_trainable(critic, lora(), seed=1)
    before, apart = critic(IDS).logits, resident_bytes([policy, critic])
    assert share_frozen(critic, policy) is None
    assert torch.equal(critic(IDS).logits, before)
    base = resident_bytes([tiny_model("llama")])
    assert apart > 1.7 * base and resident_bytes([policy, critic]) < 1.3 * base  # adapters are large on a tiny model
    nudge(critic)
    assert not any("lora" not in n and p.requires_grad for n, p in policy.named_parameters())


def test_only_equal_frozen_weights_are_shared():
    policy = make_trainable(tiny_model("llama"), TOP, seed=0)
    other = copy.deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-6
    assert share_frozen(other, policy) == "1 of 10 weights that could be shared differ from the policy's"
    shared = {id(parameter) for parameter in policy.parameters()}
    kept = [name for name, parameter in other.named_parameters() if id(parameter) not in shared]
    assert "model.layers.0.mlp.up_proj.weight" in kept
    assert all("layers.0" not in name for name in kept if "up_proj" not in name)


def test_it_says_why_nothing_is_shared():
    assert share_frozen(tiny_model("llama").requires_grad_(False), tiny_model("llama")) == (
        "the policy trains every weight"
    )
    frozen = tiny_model("llama").requires_grad_(False)
    assert "has the name of a frozen one" in share_frozen(tiny_model("gpt2").requires_grad_(False), frozen)
    other = tiny_model("llama").requires_grad_(False)
    for parameter in other.parameters():
        parameter.data = parameter.data + 1
    assert "differ from the policy's" in share_frozen(other, frozen)
