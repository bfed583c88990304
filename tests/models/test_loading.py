import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from loopwright.errors import ModelError
from loopwright.models.loading import (
    LlamaShape,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
    new_llama,
    quiet,
    save_model,
    without_dropout,
)
from loopwright.models.tokens import forbidden_token_ids
from tests.tiny import FAMILIES, saved, tiny_model, tiny_tokenizer

IDS = torch.tensor([[72, 101, 108, 108, 111]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_transformers_wrote_comes_back_the_same(family, tmp_path):
    model = tiny_model(family)
    folder = saved(model, tiny_tokenizer(), tmp_path / "theirs")
    ours = load_causal_lm(folder)
    assert_close(ours(IDS).logits, model(IDS).logits)
    save_model(ours, load_tokenizer(folder), tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert_close(theirs(IDS).logits, model(IDS).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").decode([72, 105]) == tiny_tokenizer().decode([72, 105])
    assert not list((tmp_path / "ours").glob("*.bin"))


def test_a_half_precision_folder_is_trained_in_float32(tmp_path):
    folder = saved(tiny_model("llama").bfloat16(), tiny_tokenizer(), tmp_path)
    assert {parameter.dtype for parameter in load_causal_lm(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_off_even_in_training_mode(family, tmp_path):
    model = load_causal_lm(saved(tiny_model(family), tiny_tokenizer(), tmp_path))
    expected = model(IDS).logits
    model.train()
    assert_close(model(IDS).logits, expected, rtol=0, atol=0)
    assert torch.equal(without_dropout(tiny_model(family)).train()(IDS).logits, expected)


@pytest.mark.parametrize("pad", [None, "<|end|>"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_without_a_pad_of_its_own_gets_one(family, pad, tmp_path):
    tokenizer = tiny_tokenizer(pad=False)
    tokenizer.pad_token = pad
    before = tiny_model(family, vocab_size=259)
    folder = saved(before, tokenizer, tmp_path)
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    assert tokenizer.pad_token == "<|pad|>" and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id == 259
    assert_close(model(IDS).logits[..., :259], before(IDS).logits)
    rows = model.get_output_embeddings().weight
    assert_close(rows[259], rows[:259].mean(0))
    again = load_causal_lm(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert 259 in forbidden_token_ids(tokenizer, 260).tolist()


def test_a_vocabulary_padded_beyond_the_tokenizer(tmp_path):
    folder = saved(tiny_model("llama", vocab_size=272), tiny_tokenizer(), tmp_path)
    assert load_causal_lm(folder).config.vocab_size == 272
    forbidden = forbidden_token_ids(load_tokenizer(folder), 272).tolist()
    assert set(range(260, 272)) < set(forbidden) and 256 not in forbidden


def test_without_eos(tmp_path):
    folder = saved(tiny_model("llama"), tiny_tokenizer(eos=False), tmp_path)
    with pytest.raises(ModelError, match="has no EOS token"):
        load_tokenizer(folder)


def test_pickled_weights_are_refused(tmp_path):
    folder = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\); save the model as safetensors"):
        load_causal_lm(folder)


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(ModelError, match="is not a folder"):
        load_causal_lm(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="has no config.json"):
        load_causal_lm(tmp_path)
    with pytest.raises(ModelError, match="has no config.json; give the folder that save_pretrained wrote"):
        load_tokenizer(tmp_path)
    folder = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="has no tokenizer that transformers can load"):
        load_tokenizer(folder)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_causal_lm(folder)


def test_a_classifier_of_many_labels_is_no_reward_model(tmp_path):
    from transformers import AutoModelForSequenceClassification

    config = tiny_model("llama").config
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has 3 labels"):
        load_reward_model(tmp_path)


def test_the_seed_alone_decides_a_new_llama():
    shape = LlamaShape(hidden_size=16, layers=2, heads=2, kv_heads=1, intermediate_size=24, rope_theta=500.0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = new_llama(shape, tiny_tokenizer(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = new_llama(shape, tiny_tokenizer(), seed=3), new_llama(shape, tiny_tokenizer(), seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert first.config.vocab_size == 260 and first.config.rope_parameters["rope_theta"] == 500.0
    assert first.get_input_embeddings().weight is first.get_output_embeddings().weight


def test_heads_that_do_not_divide():
    with pytest.raises(ValidationError, match="give heads of 15 dimensions"):
        LlamaShape(hidden_size=60, heads=4)
    with pytest.raises(ValidationError, match="not a multiple of kv_heads = 3"):
        LlamaShape(kv_heads=3)


def test_quiet_puts_everything_back():
    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    with quiet():
        assert not transformers_logging.is_progress_bar_enabled()
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
