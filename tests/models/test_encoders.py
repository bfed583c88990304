"""Encoders as reward models: what they read is what transformers gives them."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from loopwright.data.chat import prompt_text
from loopwright.errors import ConfigError, DataError, ModelError
from loopwright.models.encoders import (
    Cut,
    encode_and_cut_pairs,
    encode_pairs,
    encoder_reward_model,
    encoder_scores,
    is_encoder_folder,
    last_linear,
    load_encoder_reward_model,
    load_encoder_tokenizer,
)
from loopwright.models.normalisation import fold_into_bias
from loopwright.models.padding import pad_rows
from loopwright.models.tokens import context_length
from loopwright.rewards import RewardModel, Sample
from loopwright.schemas import Message, Prompt
from loopwright.stages.base import check_max_length
from tests.tiny import CONTEXT, saved, saved_encoder, tiny_model, tiny_tokenizer

PAIRS = [("Is it open?", "Yes, until six."), (None, "Go away."), ("Hi", "[SEP] hi [CLS]"), ("A longer question", "no")]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request, tmp_path_factory):
    return saved_encoder(request.param, tmp_path_factory.mktemp(request.param))


def test_scores_are_those_of_transformers(folder):
    model, tokenizer = encoder_reward_model(folder, seed=3), load_encoder_tokenizer(folder)
    rows = encode_pairs(tokenizer, *map(list, zip(*PAIRS, strict=True)))
    with torch.no_grad():
        ours = encoder_scores(model, *pad_rows(rows, tokenizer.pad_token_id))
        for score, (prompt, response) in zip(ours[:, 0], PAIRS, strict=True):
            texts = [response] if prompt is None else [prompt, response]
            encoded = tokenizer(*texts, split_special_tokens=True, return_tensors="pt", return_token_type_ids=True)
            assert_close(score, model(**encoded).logits[0, 0], atol=1e-5, rtol=0)
    assert float(ours.std()) > 0


def test_text_that_spells_a_special_token_stays_text(folder):
    tokenizer = load_encoder_tokenizer(folder)
    (row,) = encode_pairs(tokenizer, ["Hi"], ["[SEP] hi </s>"])
    plain = len(encode_pairs(tokenizer, ["Hi"], ["ok"])[0])
    assert row.count(tokenizer.sep_token_id) == encode_pairs(tokenizer, ["Hi"], ["ok"])[0].count(tokenizer.sep_token_id)
    assert len(row) > plain


def test_what_is_too_long_is_cut_as_if_it_had_been_written_so(folder):
    tokenizer = load_encoder_tokenizer(folder)
    pairs = [("abcdef", "uvwxyz"), ("ab", "uvwxyz"), ("abcdef", "u"), (None, "uvwxyz"), ("a", "u")]
    special = tokenizer.num_special_tokens_to_add(pair=True)

    def cut(side, room):
        return encode_and_cut_pairs(tokenizer, *map(list, zip(*pairs, strict=True)), Cut(side, special + room))

    def plain(*texts):
        return [encode_pairs(tokenizer, [prompt], [response])[0] for prompt, response in texts]

    alone = special + 4 - tokenizer.num_special_tokens_to_add(pair=False)  # a lone text has more room
    short = (None, "uvwxyz"[:alone])
    assert cut("prompt", 4) == (plain(("", "uvwx"), ("", "uvwx"), ("def", "u"), short, ("a", "u")), 3 + (alone < 6))
    rows, cuts = cut("response", 4)  # where nothing would be left of a response, the row stays too long
    assert rows == plain(("abcdef", "uvwxyz"), ("ab", "uv"), ("abcdef", "u"), short, ("a", "u"))
    assert cuts == 1 + (alone < 6)
    assert cut("prompt", 8)[0][0] == plain(("ef", "uvwxyz"))[0]
    assert cut("response", 8)[0][0] == plain(("abcdef", "uv"))[0]
    assert cut("prompt", 12) == (plain(*pairs), 0)


def test_padding_on_the_right_changes_nothing(folder):
    model, tokenizer = encoder_reward_model(folder, seed=3), load_encoder_tokenizer(folder)
    ids, mask = pad_rows(encode_pairs(tokenizer, *map(list, zip(*PAIRS, strict=True))), tokenizer.pad_token_id)
    with torch.no_grad():
        lengths = mask.sum(1).tolist()
        alone = [encoder_scores(model, ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(lengths)]
        assert_close(encoder_scores(model, ids, mask), torch.cat(alone), atol=1e-5, rtol=0)


def test_the_seed_alone_draws_the_head(folder):
    one, same, other = (last_linear(encoder_reward_model(folder, seed)).weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_normalised_scores_are_saved_with_the_model(folder, tmp_path):
    model, tokenizer = encoder_reward_model(folder, seed=3), load_encoder_tokenizer(folder)
    ids, mask = pad_rows(encode_pairs(tokenizer, *map(list, zip(*PAIRS, strict=True))), tokenizer.pad_token_id)
    with torch.no_grad():
        before = encoder_scores(model, ids, mask)
        found = fold_into_bias(last_linear(model), before)
        after = encoder_scores(model, ids, mask)
    assert after.shape == (len(PAIRS), 1)
    assert_close(after, (before - before.mean()) / before.std(correction=0), atol=1e-5, rtol=1e-5)
    assert found.scale == pytest.approx(float(before.std(correction=0))) and found.correlation == 1.0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        assert_close(encoder_scores(load_encoder_reward_model(tmp_path), ids, mask), after, atol=1e-6, rtol=0)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.num_labels == 1
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id == tokenizer.pad_token_id


def test_several_heads_of_an_encoder_are_centred_each_and_scaled_together(folder, tmp_path):
    model, tokenizer = encoder_reward_model(folder, seed=3, heads=3), load_encoder_tokenizer(folder)
    ids, mask = pad_rows(encode_pairs(tokenizer, *map(list, zip(*PAIRS, strict=True))), tokenizer.pad_token_id)
    with torch.no_grad():
        before = encoder_scores(model, ids, mask)
        fold_into_bias(last_linear(model), before)
        after = encoder_scores(model, ids, mask)
    scale = before.mean(1).std(correction=0)
    assert_close(after, (before - before.mean(0)) / scale, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        assert_close(encoder_scores(load_encoder_reward_model(tmp_path), ids, mask), after, atol=1e-6, rtol=0)


def test_what_is_an_encoder(folder, tmp_path):
    assert is_encoder_folder(folder)
    assert not is_encoder_folder(saved(tiny_model("llama"), tiny_tokenizer(), tmp_path))
    with pytest.raises(ModelError, match="is not a folder"):
        is_encoder_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(("family", "room"), [("bert", CONTEXT), ("roberta", 400 - 261)])  # its padding has id 260
def test_the_context_is_what_padding_leaves_of_the_positions(family, room, tmp_path):
    folder = saved_encoder(family, tmp_path / family)
    model, tokenizer = encoder_reward_model(folder, seed=3), load_encoder_tokenizer(folder)
    assert context_length(model) == room
    check_max_length("reward", room, model)
    with pytest.raises(ConfigError, match=f"longer than the model's context of {room}"):
        check_max_length("reward", room + 1, model)
    reward = RewardModel(model, tokenizer)

    def long(extra):
        prompt = Prompt(id="p", messages=(Message(role="user", content="Hi"),))
        tokens = len(encode_pairs(tokenizer, [prompt_text(prompt.messages)], [""])[0])
        return Sample(prompt, "x" * (room - tokens + extra), [], [], True, None)

    assert reward.score([long(0)]).total.isfinite().all()
    with pytest.raises(DataError, match=f"a row of {room + 1} tokens exceeds the reward model's context of {room}"):
        reward.score([long(1)])


def test_a_vocabulary_as_large_as_the_context_takes_nothing_of_it():
    shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=7)
    for kind in (LlamaForCausalLM, LlamaForSequenceClassification):
        model = kind(LlamaConfig(vocab_size=32, max_position_embeddings=32, **shape))
        assert model.get_input_embeddings().padding_idx == 7 and context_length(model) == 32
