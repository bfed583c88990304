"""Perplexity and KL on tiny models."""

import math

import pytest
import torch
from torch.testing import assert_close

from loopwright.errors import DataError
from loopwright.evaluation import kl as kl_module
from loopwright.evaluation import perplexity as perplexity_module
from loopwright.evaluation.answering import LanguageModel, answer
from loopwright.evaluation.kl import response_kl
from loopwright.evaluation.perplexity import perplexity
from loopwright.generation.base import SamplingConfig
from loopwright.models.loading import without_dropout
from loopwright.models.tokens import forbidden_token_ids
from loopwright.schemas import Prompt
from tests.tiny import CHANGED_LOGITS, FAMILIES, tiny_model, tiny_tokenizer

PROMPTS = [Prompt.user(f"p{i}", text) for i, text in enumerate(("The pool", "When does the bar close?", "Hi"))]


def sampled(model, temperature=1.0):
    sampling = SamplingConfig(max_new_tokens=8, temperature=temperature)
    return answer(LanguageModel(model, tiny_tokenizer()), PROMPTS, sampling, [1, 2, 3]).rollouts


@pytest.mark.parametrize("family", FAMILIES)
def test_perplexity_of_a_uniform_model_is_its_vocabulary(family):
    model = tiny_model(family)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
        model.get_input_embeddings().weight.mul_(1.0)
    got = perplexity(model, tiny_tokenizer(), ["The pool closes at six.", "Hello"])
    assert got.perplexity == pytest.approx(260, rel=1e-5)
    assert got.tokens == 28 and got.bits_per_byte == pytest.approx(math.log2(260), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", *CHANGED_LOGITS])
def test_perplexity_is_that_of_the_models_own_loss(family):
    model, tokenizer = without_dropout(tiny_model(family)), tiny_tokenizer()
    text = "The pool closes at six."
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert perplexity(model, tokenizer, [text]).perplexity == pytest.approx(math.exp(loss), rel=1e-5)


def test_every_token_of_a_long_text_is_predicted_once():
    text = "The pool closes at six. " * 10  # 240 tokens: several windows of 64
    assert perplexity(tiny_model("llama"), tiny_tokenizer(), [text]).tokens == 240


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_perplexity_does_not_depend_on_the_company(monkeypatch, threads):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    monkeypatch.setattr(perplexity_module, "TOKENS_AT_ONCE", 1)  # a text is a batch
    texts = ["a", "The pool closes at six.", "bar " * 9]
    alone = [perplexity(without_dropout(model), tokenizer, [text]) for text in texts]
    total = sum(math.log(one.perplexity) * one.tokens for one in alone)
    together = perplexity(model, tokenizer, texts[::-1])
    assert math.log(together.perplexity) * together.tokens == pytest.approx(total, rel=1e-5)


def test_perplexity_needs_text():
    with pytest.raises(DataError, match="held-out text"):
        perplexity(tiny_model("llama"), tiny_tokenizer(), [""])


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_of_a_model_with_itself_is_zero(family):
    model = without_dropout(tiny_model(family))
    got = response_kl(model, model, tiny_tokenizer(), sampled(model), 1.0)
    assert_close(got.k1, torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)
    assert_close(got.exact, torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", ["llama", *CHANGED_LOGITS])
def test_kl_by_hand(family, temperature):
    policy, reference = (without_dropout(tiny_model(family, seed=seed)) for seed in (0, 1))
    rollouts = sampled(policy, temperature)
    got = response_kl(policy, reference, tiny_tokenizer(), rollouts, temperature)
    forbidden = forbidden_token_ids(tiny_tokenizer(), 260)
    for row in range(3):  # one row at a time, unpadded, from the models' own logits
        prompt, response = rollouts.prompt_tokens(row), rollouts.response_tokens(row)
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            logps = [
                (m(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature)
                .index_fill(-1, forbidden, -1e30)
                .log_softmax(-1)
                .double()
                for m in (policy, reference)
            ]
        tokens = torch.tensor(response)[:, None]
        assert_close(got.k1[row], (logps[0] - logps[1]).gather(1, tokens).sum(), rtol=1e-4, atol=1e-4)
        assert_close(got.exact[row], (logps[0].exp() * (logps[0] - logps[1])).sum(), rtol=1e-4, atol=1e-4)
        # the sampler's own log-probabilities are those of the policy
        own = rollouts.logprobs[row][rollouts.response_mask[row]].double()
        assert_close(own, logps[0].gather(1, tokens)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_kl_does_not_depend_on_the_batch(monkeypatch, threads):
    policy, reference = (without_dropout(tiny_model("qwen2", seed=seed)) for seed in (0, 1))
    rollouts = sampled(policy)
    together = response_kl(policy, reference, tiny_tokenizer(), rollouts, 1.0)
    monkeypatch.setattr(kl_module, "ROWS_AT_ONCE", 1)
    alone = response_kl(policy, reference, tiny_tokenizer(), rollouts, 1.0)
    assert_close(together.k1, alone.k1, rtol=1e-4, atol=1e-4)
    assert_close(together.exact, alone.exact, rtol=1e-4, atol=1e-4)
