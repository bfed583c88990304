import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from loopwright.errors import ModelError
from loopwright.models.heads import reward_model_from, scores_at_last_token
from loopwright.models.loading import merged, save_model, without_dropout
from loopwright.models.trainable import (
    LoRAConfig,
    TrainableConfig,
    make_trainable,
    trainable_parameters,
)
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

IDS = torch.tensor([[72, 101, 108, 108, 111]])
MASK = torch.ones_like(IDS).bool()


def lora(**settings):
    return TrainableConfig(mode="lora", lora=LoRAConfig(**settings))


def nudge(model, seed=0):
    """A step of training: every trained weight moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_top_layers(family):
    model = make_trainable(tiny_model(family), TrainableConfig(mode="top_layers", layers=1), seed=0)
    names = {name for name, _ in trainable_parameters(model)}
    frozen = {name for name, _ in model.named_parameters()} - names
    assert any(".1." in name for name in names) and not any(".0." in name for name in names)
    assert any(".0." in name for name in frozen) and not any(".1." in name for name in frozen)
    assert ("transformer.ln_f.bias" if family == "gpt2" else "model.norm.weight") in names
    assert not any("embed" in name or "wte" in name for name in names)
    assert ("lm_head.weight" in names) == (family == "llama")  # the others tie it to the embeddings


def test_top_layers_of_a_reward_model_train_its_head():
    model = make_trainable(
        reward_model_from(tiny_model("qwen2"), 0), TrainableConfig(mode="top_layers", layers=1), seed=0
    )
    assert "score.weight" in dict(trainable_parameters(model))


def test_more_layers_than_there_are():
    with pytest.raises(ModelError, match="layers = 3, but LlamaForCausalLM has 2"):
        make_trainable(tiny_model("llama"), TrainableConfig(mode="top_layers", layers=3), seed=0)


def test_all():
    model = make_trainable(tiny_model("llama").requires_grad_(False), TrainableConfig(), seed=0)
    assert len(trainable_parameters(model)) == len(list(model.parameters()))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_start_as_nothing(family):
    plain = without_dropout(tiny_model(family))
    expected = plain(IDS).logits
    model = make_trainable(plain, lora(r=4, alpha=8), seed=0)
    assert torch.equal(model(IDS).logits, expected)
    assert all("lora_" in name for name, _ in trainable_parameters(model))
    nudge(model)
    assert not torch.allclose(model(IDS).logits, expected)


@pytest.mark.parametrize("settings", [{}, {"bias": "all"}, {"modules_to_save": ("lm_head",)}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_adapters_are_a_plain_folder(family, settings, tmp_path):
    model = make_trainable(without_dropout(tiny_model(family)), lora(**settings), seed=0)
    nudge(model)
    expected = model(IDS).logits
    save_model(model, tiny_tokenizer(), tmp_path)
    assert_close(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(IDS).logits, expected, atol=1e-3, rtol=1e-4)
    assert torch.equal(model(IDS).logits, expected)


@torch.no_grad()
def test_a_reward_models_head_is_trained_beside_its_adapters(tmp_path):
    reward_model = reward_model_from(tiny_model("llama"), seed=0)
    reward_model.config.pad_token_id = 257
    model = make_trainable(reward_model, lora(targets=("q_proj", "v_proj")), seed=0)
    names = [name for name, _ in trainable_parameters(model)]
    assert any("score.modules_to_save" in name for name in names) and sum("lora_" in name for name in names) == 8
    nudge(model)
    expected = scores_at_last_token(model, IDS, MASK)
    assert_close(scores_at_last_token(merged(model), IDS, MASK), expected, atol=1e-4, rtol=1e-4)
    save_model(model, tiny_tokenizer(), tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_close(theirs(IDS, attention_mask=MASK).logits[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_the_seed_alone_decides_the_adapters():
    def drawn(seed):
        return [p.clone() for _, p in trainable_parameters(make_trainable(tiny_model("llama"), lora(), seed=seed))]

    state = torch.get_rng_state()
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, drawn(2), strict=True))


def test_targets_that_name_nothing():
    with pytest.raises(ModelError, match=r"lora.targets = \['w_q'\] name no layer.*down_proj, gate_proj"):
        make_trainable(tiny_model("llama"), lora(targets=("w_q",)), seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 2}, "layers = 2 has no effect with mode = all"),
        ({"mode": "lora", "layers": 2}, "layers = 2 has no effect with mode = lora"),
        ({"mode": "top_layers", "layers": 1, "lora": {}}, "lora has no effect with mode = top_layers"),
        ({"mode": "top_layers"}, "mode = top_layers needs layers"),
        ({"mode": "some"}, "mode"),
        ({"mode": "lora", "lora": {"rank": 4}}, "rank"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainableConfig(**settings)
