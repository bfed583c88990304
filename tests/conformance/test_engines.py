"""What every engine must do, on every family of models."""

import threading

import peft
import pytest
import torch
from torch.testing import assert_close

from loopwright.errors import DataError, ModelError
from loopwright.generation import fast_engine, transformers_engine
from loopwright.generation.base import SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.generation.fast_engine import FastEngine
from loopwright.generation.replay import step_by_step
from loopwright.generation.sampling import uniforms
from loopwright.generation.transformers_engine import TransformersEngine
from loopwright.models.decoder import Decoder
from loopwright.models.loading import without_dropout
from loopwright.models.padding import position_ids
from loopwright.models.tokens import forbidden_token_ids
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable
from tests.tiny import CONTEXT, KNOWN, STRETCHED, tiny_model, tiny_tokenizer

ENGINES = {
    "transformers": TransformersEngine,
    "fast": FastEngine,
    "fast_in_torch": FastEngine,
    "fast_packed": FastEngine,
    "fast_recorded": FastEngine,  # as on a GPU, but for the graph
}
PROMPTS = [[72, 101, 108], [70], [10, 20, 30, 40, 50, 60, 70, 80], [72, 101, 108, 108, 111]]


def prepare(name, request):
    """Switch to what the engine of this name computes with, for one test."""
    if fixture := {"fast_in_torch": "kernels_in_torch", "fast_packed": "products_packed"}.get(name):
        request.getfixturevalue(fixture)
    if name == "fast_recorded":
        request.getfixturevalue("kernels_in_torch")
        made = FastEngine.__init__

        def recording(self, *arguments, **settings):
            made(self, *arguments, **settings)
            self.recorder = lambda: step_by_step

        request.getfixturevalue("monkeypatch").setattr(FastEngine, "__init__", recording)


CASES = [(engine, family) for engine in ENGINES for family in KNOWN] + [("fast", family) for family in STRETCHED]


@pytest.fixture(params=CASES, ids="-".join)
def engine(request):
    name, family = request.param
    prepare(name, request)
    return ENGINES[name](tiny_model(family), tiny_tokenizer(), rows_at_once=4)


def learner_logprobs(model, tokenizer, rollouts, temperature=1.0):
    """[B, R] from one full forward over the left-padded sequences."""
    ids, mask = rollouts.sequences(), rollouts.attention_mask()
    logits = model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask)).logits / (temperature or 1.0)
    logits[..., forbidden_token_ids(tokenizer, logits.shape[-1])] = -torch.inf
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return logprobs[:, rollouts.prompt_ids.shape[1] - 1 :].masked_fill(~rollouts.response_mask, 0.0)


@torch.no_grad()
def assert_same_draws(engine, prompt, ours, theirs, *, seed):
    """Equal, or first different where the uniform number is within 1e-5 of the border between the two tokens."""
    if ours == theirs:
        return
    place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    logits = engine.model(torch.tensor([prompt + ours[:place]])).logits[0, -1]
    logits[forbidden_token_ids(engine.tokenizer, len(logits))] = -torch.inf
    border = logits.double().softmax(-1).cumsum(0)[min(ours[place], theirs[place])]
    assert abs(border - uniforms([seed], place + 1)[0, place]) < 1e-5, f"token {place}: {ours[place]}, {theirs[place]}"


def test_greedy_equals_hf_generate(engine):
    got = engine.generate(PROMPTS, SamplingConfig(max_new_tokens=12, temperature=0.0), seeds=range(4))
    suppressed = forbidden_token_ids(engine.tokenizer, engine.model.config.vocab_size).tolist()
    for row, prompt in enumerate(PROMPTS):
        expected = engine.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=suppressed,
            pad_token_id=engine.tokenizer.pad_token_id,
        )[0, len(prompt) :]
        assert got.response_tokens(row) == expected.tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@torch.no_grad()
def test_logprobs_equal_the_learners(engine, temperature):
    got = engine.generate(PROMPTS, SamplingConfig(max_new_tokens=20, temperature=temperature), seeds=[5, 6, 7, 8])
    expected = learner_logprobs(engine.model, engine.tokenizer, got, temperature)
    assert_close(got.logprobs, expected, atol=1e-4, rtol=0)


def test_a_row_never_depends_on_its_company(engine):
    sampling = SamplingConfig(max_new_tokens=16)
    seeds = [11, 22, 33, 44]
    together = engine.generate(PROMPTS, sampling, seeds)
    crowd = engine.generate(PROMPTS[::-1] + [[1, 2, 3]] * 9, sampling, seeds[::-1] + list(range(9)))
    for row, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
        alone = engine.generate([prompt], sampling, [seed])
        assert together.response_tokens(row) == alone.response_tokens(0) == crowd.response_tokens(3 - row)
        assert together.prompt_tokens(row) == prompt
        length = len(alone.response_tokens(0))
        assert_close(together.logprobs[row, :length], alone.logprobs[0], atol=1e-5, rtol=0)


def test_a_streamed_row_is_the_row_of_a_batch(engine):
    """Token by token, whoever goes on in between, and with the model's mode and gradients left alone."""
    make_eos_likely(engine.model, engine.tokenizer.eos_token_id)
    sampling, ends = SamplingConfig(max_new_tokens=16), set()
    for seed in range(8):
        prompt = PROMPTS[seed % 4]
        together = engine.generate([*PROMPTS, prompt], sampling, [1, 2, 3, 4, seed])
        streams = [engine.stream(prompt, sampling, seed) for _ in range(2)]
        got = [(one, other, torch.is_grad_enabled()) for one, other in zip(*streams, strict=True)]  # in turns
        assert_same_draws(engine, prompt, [one for one, _, _ in got], together.response_tokens(4), seed=seed)
        assert all(one == other and recording for one, other, recording in got)
        ends.add(got[-1][0] == engine.tokenizer.eos_token_id)
    assert ends == {True, False}
    with pytest.raises(DataError, match="prompt 0 has no tokens"):
        next(engine.stream([], sampling, 0))


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_batches_side_by_side_are_as_one_after_the_other(engine, monkeypatch, threads):
    sampling, seeds = SamplingConfig(max_new_tokens=16), list(range(12))
    expected = engine.generate(PROMPTS * 3, sampling, seeds)  # dropout, which is off now, keeps batches apart
    without_dropout(engine.model)
    monkeypatch.setattr(transformers_engine, "FEWEST_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(fast_engine, "FEWEST_OF_SMALL", 2)
    ran, both = set(), threading.Barrier(2, timeout=60)
    plain = torch.nn.functional.embedding

    def counted(*given, **named):
        if threading.get_ident() not in ran:
            ran.add(threading.get_ident())
            both.wait()  # or a thread that is quick computes what the other has not begun
        return plain(*given, **named)

    monkeypatch.setattr(torch.nn.functional, "embedding", counted)
    got = engine.generate(PROMPTS * 3, sampling, seeds)
    assert len(ran) == 2 and threading.get_ident() not in ran
    for row in range(12):
        assert got.response_tokens(row) == expected.response_tokens(row)
    assert_close(got.logprobs, expected.logprobs, atol=1e-5, rtol=0)


def test_a_prompt_of_several_rows_is_read_once(engine, monkeypatch):
    read = []
    plain = torch.nn.functional.embedding
    sampling, seeds = SamplingConfig(max_new_tokens=16), [1, 2, 3, 4]
    alone = [engine.generate([prompt], sampling, [seed]) for prompt, seed in zip(PROMPTS[:2] * 2, seeds, strict=True)]
    monkeypatch.setattr(
        torch.nn.functional, "embedding", lambda ids, *a, **k: (read.append(ids.numel()), plain(ids, *a, **k))[1]
    )
    together = engine.generate(PROMPTS[:2] * 2, sampling, seeds)
    assert read[0] <= 2 * 3  # two prompts of one and three tokens, with or without padding
    assert max(read[2:]) <= 4
    for row in range(4):
        assert together.response_tokens(row) == alone[row].response_tokens(0)
        assert together.prompt_tokens(row) == PROMPTS[row % 2]


def test_waiting_rows_join_and_end_as_if_alone(engine):
    """Forty rows of different lengths through four slots, most of which end early."""
    make_eos_likely(engine.model, engine.tokenizer.eos_token_id)
    prompts = [[(7 * i + j) % 256 for j in range(1 + i % 9)] for i in range(40)]
    sampling = SamplingConfig(max_new_tokens=24)
    together = engine.generate(prompts, sampling, range(40))
    assert 0 < together.finished.sum() < 40
    for row, prompt in enumerate(prompts):
        alone = engine.generate([prompt], sampling, [row])
        assert_same_draws(engine, prompt, together.response_tokens(row), alone.response_tokens(0), seed=row)
        assert together.prompt_tokens(row) == prompt
    with torch.no_grad():
        expected = learner_logprobs(engine.model, engine.tokenizer, together)
    assert_close(together.logprobs, expected, atol=1e-4, rtol=0)


def test_samples_of_a_prompt_are_as_if_alone(engine):
    """More of some prompts than of others, in four slots: late ones find their prompt read, and its place is reused."""
    make_eos_likely(engine.model, engine.tokenizer.eos_token_id)
    counts = [5, 1, 7, 2, 3, 6]
    prompts = [
        [(50 * i + j) % 256 for j in range(1 + 3 * i % 8)] for i, count in enumerate(counts) for _ in range(count)
    ]
    sampling, seeds = SamplingConfig(max_new_tokens=12), range(24)
    together = engine.generate(prompts, sampling, seeds)
    assert 0 < together.finished.sum() < 24
    for row in range(0, 24, 5):
        alone = engine.generate([prompts[row]], sampling, [row])
        assert_same_draws(engine, prompts[row], together.response_tokens(row), alone.response_tokens(0), seed=row)
    with torch.no_grad():
        expected = learner_logprobs(engine.model, engine.tokenizer, together)
    assert_close(together.logprobs, expected, atol=1e-4, rtol=0)


@pytest.fixture
def batches(monkeypatch):
    """Those that the fast engine makes, and in `read` how many tokens of prompts the model read in one pass."""
    made, read = [], []

    class Recorded(fast_engine._Batch):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    plain = Decoder.read
    monkeypatch.setattr(fast_engine, "_Batch", Recorded)
    monkeypatch.setattr(
        Decoder, "read", lambda self, tokens, *a, **k: (read.append(len(tokens.ids)), plain(self, tokens, *a, **k))[1]
    )
    return made, read


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "transformers"])
def test_samples_of_a_prompt_take_one_place(name, batches, request):
    prepare(name, request)
    engine, (made, read) = FastEngine(tiny_model("llama"), tiny_tokenizer()), batches
    engine.generate([[1] * 9, [2] * 9] * 8, SamplingConfig(max_new_tokens=3), range(16))
    engine.generate([[i] * 9 for i in range(16)], SamplingConfig(max_new_tokens=3), range(16))
    shared, distinct = ([sum(x.nbytes for x in part) for part in (b.cache[:2], b.cache[2:])] for b in made)
    token = 2 * 2 * 2 * 4 * 4  # layers, keys and values, heads, their size, float32
    assert shared == [2 * 9 * token, 16 * 3 * token] and distinct == [16 * 9 * token, 16 * 3 * token]
    assert read == [2 * 9, 16 * 9]


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "transformers"])
def test_a_prompt_is_read_once_however_late_its_samples_join(name, batches, request):
    prepare(name, request)
    engine, (made, read) = FastEngine(tiny_model("llama"), tiny_tokenizer(), rows_at_once=2), batches
    prompts = [[i + 1] * 5 for i in range(9) for _ in range(5)]
    engine.generate(prompts, SamplingConfig(max_new_tokens=6), range(45))
    assert sum(read) == 9 * 5 and made[0].cache.prompt_keys.shape[1] == 2  # places, of two slots, for nine prompts


def test_products_with_each_prompt_never_have_twice_the_queries(batches, kernels_in_torch):
    """One prompt of many samples among many of one: torch shares out the many on several places."""
    engine, (made, read) = FastEngine(tiny_model("llama"), tiny_tokenizer()), batches
    prompts = [[7] * 4] * 20 + [[i] * 4 for i in range(8, 28)]
    together = engine.generate(prompts, SamplingConfig(max_new_tokens=6), range(40))
    assert made[0].slots.most_places * made[0].most_samples < 2 * 40 and read == [21 * 4]  # and yet each is read once
    alone = engine.generate(prompts[:1], SamplingConfig(max_new_tokens=6), [3])
    assert together.response_tokens(3) == alone.response_tokens(0)


@pytest.mark.parametrize("samples", [1, 16])
def test_keys_and_values_stay_within_their_bytes(samples, batches, monkeypatch):
    """With shared prompts more rows fit."""
    engine, (made, _) = FastEngine(tiny_model("llama"), tiny_tokenizer()), batches
    token = 2 * 2 * 2 * 4 * 4
    monkeypatch.setattr(fast_engine, "CACHE_BYTES", 8 * (40 + 2 * 4) * token)
    engine.generate([[i // samples] * 40 for i in range(64)], SamplingConfig(max_new_tokens=4), range(64))
    assert made[0].cache.keys.shape[1] == {1: 8, 16: 28}[samples]
    assert sum(part.nbytes for part in made[0].cache) <= fast_engine.CACHE_BYTES


def test_weights_that_change_between_calls_are_read_anew(engine):
    sampling = SamplingConfig(max_new_tokens=8, temperature=0.0)
    before = engine.generate(PROMPTS, sampling, range(4))
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = engine.generate(PROMPTS, sampling, range(4))
    assert not torch.equal(before.response_ids, after.response_ids)
    with torch.no_grad():
        assert_close(after.logprobs, learner_logprobs(engine.model, engine.tokenizer, after, 0.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "whole"), [("llama", ()), ("llama", ("lm_head",)), ("gpt2", ()), ("gpt_neox", ())], ids=str
)
@pytest.mark.parametrize("name", ENGINES)
def test_adapters_are_part_of_the_model(name, family, whole, request):
    prepare(name, request)
    lora = LoRAConfig(r=2, bias="none", modules_to_save=whole)
    model = make_trainable(tiny_model(family), TrainableConfig(mode="lora", lora=lora), seed=0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name or "modules_to_save" in parameter_name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    engine = ENGINES[name](model, tiny_tokenizer())
    sampling = SamplingConfig(max_new_tokens=12)
    got = engine.generate(PROMPTS, sampling, range(4))
    with torch.no_grad():
        assert_close(got.logprobs, learner_logprobs(model, engine.tokenizer, got), atol=1e-4, rtol=0)
        with model.disable_adapter():
            base = engine.generate(PROMPTS, sampling, range(4))
            assert_close(base.logprobs, learner_logprobs(model, engine.tokenizer, base), atol=1e-4, rtol=0)
    assert not torch.equal(got.response_ids[:, :4], base.response_ids[:, :4])


@pytest.mark.parametrize("family", ["gemma2", "granite"])
def test_a_family_that_is_not_known_falls_back_and_says_so(family):
    said = []
    engine = make_engine(tiny_model(family), tiny_tokenizer(), said.append)
    assert isinstance(engine, TransformersEngine)
    assert len(said) == 1 and f"{family} models are not among llama" in said[0]
    assert isinstance(make_engine(tiny_model("llama"), tiny_tokenizer(), said.append), FastEngine) and len(said) == 1
    with pytest.raises(ModelError, match=f"{family} models are not among .*use TransformersEngine"):
        FastEngine(tiny_model(family), tiny_tokenizer())


def test_prompts_are_padded_left_and_responses_right(engine):
    got = engine.generate(PROMPTS, SamplingConfig(max_new_tokens=6), seeds=range(4))
    assert got.prompt_mask.tolist() == [[i >= 8 - len(prompt) for i in range(8)] for prompt in PROMPTS]
    lengths = got.response_mask.sum(1)
    assert torch.equal(got.response_mask, torch.arange(got.response_ids.shape[1]) < lengths[:, None])
    pad = engine.tokenizer.pad_token_id
    assert (got.response_ids[~got.response_mask] == pad).all() and (got.prompt_ids[~got.prompt_mask] == pad).all()
    assert (got.logprobs[~got.response_mask] == 0).all()


def test_a_response_ends_with_its_first_eos(engine):
    """Rows end at different steps, leave the batch, and the others go on undisturbed."""
    eos = engine.tokenizer.eos_token_id
    make_eos_likely(engine.model, eos)
    prompts = [[i % 256] for i in range(64)]
    got = engine.generate(prompts, SamplingConfig(max_new_tokens=24), seeds=range(64))
    assert 0 < got.finished.sum() < 64
    for row in range(64):
        tokens = got.response_tokens(row)
        assert (eos in tokens) == bool(got.finished[row])
        assert eos not in tokens[:-1]
        assert len(tokens) == 24 or tokens[-1] == eos
    with torch.no_grad():
        assert_close(got.logprobs, learner_logprobs(engine.model, engine.tokenizer, got), atol=1e-4, rtol=0)
    assert "<|end|>" not in "".join(decode_responses(engine.tokenizer, got))


def test_other_special_tokens_are_never_sampled(engine):
    forbidden = set(forbidden_token_ids(engine.tokenizer, engine.model.config.vocab_size).tolist())
    assert forbidden == set(engine.tokenizer.all_special_ids) - {engine.tokenizer.eos_token_id}
    got = engine.generate([[1]] * 32, SamplingConfig(max_new_tokens=30, temperature=8.0), seeds=range(32))
    assert not forbidden & set(got.response_ids[got.response_mask].tolist())


def test_tokens_follow_the_softmax(engine):
    """Chi-square over the likeliest tokens; the bound is passed by chance once in 10,000."""
    draws = 4000
    got = engine.generate([[72, 105]] * draws, SamplingConfig(max_new_tokens=1, temperature=0.8), seeds=range(draws))
    with torch.no_grad():
        logits = engine.model(torch.tensor([[72, 105]])).logits[0, -1] / 0.8
    logits[forbidden_token_ids(engine.tokenizer, len(logits))] = -torch.inf
    expected = logits.softmax(-1) * draws
    seen = torch.bincount(got.response_ids[:, 0], minlength=len(logits)).float()
    common = expected >= 8
    pooled = torch.stack((seen[~common].sum(), expected[~common].sum()))
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum() + (pooled[0] - pooled[1]) ** 2 / pooled[1]
    degrees = int(common.sum())
    assert degrees > 10
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5 + 8


def test_top_k_and_top_p_keep_the_likeliest(engine):
    with torch.no_grad():
        logits = engine.model(torch.tensor([[72, 105]])).logits[0, -1]
    logits[forbidden_token_ids(engine.tokenizer, len(logits))] = -torch.inf
    ordered = logits.argsort(descending=True).tolist()
    sampling = SamplingConfig(max_new_tokens=1, top_k=3)
    assert set(engine.generate([[72, 105]] * 200, sampling, range(200)).response_ids[:, 0].tolist()) == set(ordered[:3])
    mass = logits.softmax(-1)[ordered].cumsum(0)
    sampling = SamplingConfig(max_new_tokens=1, top_p=0.5)
    nucleus = int((mass < 0.5).sum()) + 1
    got = set(engine.generate([[72, 105]] * 200, sampling, range(200)).response_ids[:, 0].tolist())
    assert got <= set(ordered[:nucleus]) and ordered[0] in got


def test_too_long_prompt(engine):
    with pytest.raises(
        DataError, match=f"prompt 1 has 60 tokens.*max_new_tokens = 5 more than the model's context of {CONTEXT}"
    ):
        engine.generate([[1], [1] * 60], SamplingConfig(max_new_tokens=5), seeds=[0, 1])


def test_empty_prompt(engine):
    with pytest.raises(DataError, match="prompt 0 has no tokens"):
        engine.generate([[]], SamplingConfig(), seeds=[0])


@pytest.mark.parametrize("name", ENGINES)
def test_dropout_of_adapters_is_off(name, request):
    prepare(name, request)
    lora = LoRAConfig(r=2, dropout=0.5)
    model = make_trainable(tiny_model("llama"), TrainableConfig(mode="lora", lora=lora), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    engine, sampling = ENGINES[name](model.train(), tiny_tokenizer()), SamplingConfig(max_new_tokens=4)
    first, second = (engine.generate(PROMPTS, sampling, range(4)) for _ in range(2))
    assert torch.equal(first.logprobs, second.logprobs) and model.training


def test_adapters_that_cannot_be_merged_take_the_other_engine():
    config = peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"])
    assert "not plain LoRA" in fast_engine.why_not(peft.get_peft_model(tiny_model("llama"), config))
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    assert "not plain LoRA" in fast_engine.why_not(peft.get_peft_model(tiny_model("llama"), config))


def test_the_model_is_left_as_it_was(engine):
    engine.model.train()
    engine.generate([[1]], SamplingConfig(max_new_tokens=2), seeds=[0])
    assert engine.model.training


def make_eos_likely(model, eos):
    """Point the EOS row of the output matrix along a typical hidden state."""
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.clone())
        inner = model.base_model(torch.tensor([[1, 2, 3]])).last_hidden_state[0].mean(0)
        others = (head.weight @ inner).logsumexp(0)
        head.weight[eos] = inner / inner.norm() ** 2 * (others - 2.5)
