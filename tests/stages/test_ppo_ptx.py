"""PPO-ptx: raw text joins the minibatches, so that a policy does not forget it."""

import json
import math

import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from loopwright.data.readers import write_records
from loopwright.data.tokenizer import document_start, encode_documents
from loopwright.errors import ConfigError
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.rewards import CallableReward
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages import ppo
from loopwright.stages.ppo import PPOConfig, PPOInputs
from loopwright.stages.ppo_config import RLOOConfig
from loopwright.tracking.artifacts import Artifact, Manifest
from loopwright.training.ppo_figures import Totals
from loopwright.training.raw_text import RawText
from tests.stages.test_policy_gradients import Interrupted, dies_in_step, gradient, make_learner, sampled
from tests.tiny import saved, tiny_model, tiny_tokenizer

DOCUMENTS = ["the cat sat on the mat", "a dog", "the dog sat on the cat", "cats and dogs", "mats are for cats", "no"]
SMALL = dict(
    steps=4, rollouts_per_step=8, minibatch_size=4, epochs_per_batch=2, max_new_tokens=6, learning_rate=1e-3,
    critic_learning_rate=1e-3, save_steps=2, ptx_coef=0.5, ptx_rows=2, ptx_row_tokens=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return saved(tiny_model("llama"), tiny_tokenizer(), tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl.gz"
    write_records(path, [{"text": text} for text in DOCUMENTS])
    return path


def run(policy, text, folder, *, reward=None, config=PPOConfig, **settings):
    reward = reward or dies_in_step(None)
    inputs = PPOInputs(policy, reward, [Prompt.user("p", "say")], ptx_text=text)
    return ppo.run(config(**(SMALL | settings)), inputs, Runtime.temporary(folder, stage=config.section))


def recorded(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "stage")} for line in lines]


def mean_loss(folder, documents):
    """Cross-entropy by transformers, one document at a time, mean over tokens; as a tensor with its model."""
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    losses = []
    for tokens in encode_documents(tokenizer, documents):
        ids = torch.tensor([document_start(tokenizer), *tokens])
        losses.append(torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none"))
    return torch.cat(losses).mean(), model


@pytest.mark.parametrize("batch", [{"microbatch_size": 1}, {"microbatch_size": 8}, {"microbatch_tokens": 64}, {}])
def test_the_gradient_is_that_of_the_responses_and_of_the_text(policy, text, tmp_path, batch):
    coef, raw = 0.7, dict(ptx_coef=0.7, ptx_rows=9, ptx_row_tokens=48)
    plain, mixed = (make_learner("rloo", policy, tmp_path, **batch, **more) for more in ({}, raw))
    read = RawText.read(text, load_tokenizer(policy), row_tokens=48, rows_per_step=9, seed=0)
    (loss, without), (both, found) = (gradient(plain, *sampled(plain, policy)), with_text(mixed, policy, read))
    expected, model = mean_loss(policy, DOCUMENTS)
    expected.backward()
    assert both["ptx_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert both["loss"] == pytest.approx(loss + coef * expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert_close(found[name], without[name] + coef * parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def with_text(learner, policy, read):
    """Figures and gradient of a minibatch that all rows of the text join."""
    minibatch, totals = learner._minibatch, Totals()

    def joined(batch, _, totals_of_test, step, **settings):
        minibatch(batch, read.rows_of(0), totals, step, **settings)
        totals_of_test.count_minibatch(1, {"loss": 0.0})

    learner._minibatch = joined
    _, found = gradient(learner, *sampled(learner, policy))
    return totals.means(), found


def test_minibatches_take_turns_over_the_text(policy, text, tmp_path, monkeypatch):
    taken, plain = [], RawText.rows_of
    monkeypatch.setattr(RawText, "rows_of", lambda self, step: taken.append(step) or plain(self, step))
    run(policy, text, tmp_path)
    assert taken == list(range(4 * 2 * 2))  # steps, epochs, minibatches
    read = RawText.read(text, load_tokenizer(policy), row_tokens=32, rows_per_step=2, seed=3)
    rows = [row for step in range(read.order.steps_per_epoch) for row in read.order.rows_of(step)]
    assert sorted(rows) == list(range(len(read.documents)))
    again = RawText.read(text, load_tokenizer(policy), row_tokens=32, rows_per_step=2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(read.rows_of(7), again.rows_of(7), strict=True))


def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(policy, text, tmp_path):
    whole = run(policy, text, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(policy, text, tmp_path / "killed", reward=dies_in_step(4))
    assert run(policy, text, tmp_path / "killed") == whole
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    ours, theirs = (
        safetensors.torch.load_file(tmp_path / name / "output" / "model" / "model.safetensors")
        for name in ("killed", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("trainable", ["lora", "top_layers"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_and_frozen_blocks_and_rounded_weights_learn_from_text(policy, text, tmp_path, trainable, precision):
    part = {"mode": trainable} | ({"layers": 1} if trainable == "top_layers" else {})
    run(policy, text, tmp_path, trainable=part, precision=precision, ptx_coef=20.0, ptx_rows=9, learning_rate=5e-3)
    losses = [line["ptx_loss"] for line in recorded(tmp_path)]
    assert losses[-1] < losses[0] - 0.1 and math.isfinite(losses[-1])


def test_with_raw_text_less_is_forgotten(policy, text, tmp_path):
    """A reward for capitals makes a policy forget a text without them; mixed in, the text is learned beside it."""
    settings = dict(
        steps=50, rollouts_per_step=32, samples_per_prompt=4, minibatch_size=32, max_new_tokens=6, kl_penalty="none",
        learning_rate=1e-2, schedule="constant", save_steps=100, missing_eos_penalty=0.0,
    )  # fmt: skip
    mixed = dict(ptx_coef=1.0, ptx_rows=9, ptx_row_tokens=32)
    capitals = CallableReward(lambda prompts, said: [float(sum("A" <= c <= "Z" for c in r)) for r in said], "capitals")
    inputs = PPOInputs(policy, [(capitals, 1.0)], [Prompt.user("p", "say")], ptx_text=text)
    after = []
    for varied in ({}, mixed):
        folder = tmp_path / str(len(varied))
        ppo.run(RLOOConfig(**settings, **varied), inputs, Runtime.temporary(folder, stage="rloo"))
        lines = recorded(folder)
        assert lines[-1]["score"] > lines[0]["score"] + 1.0
        assert ("ptx_loss" in lines[0]) == bool(varied)
        after.append(mean_loss(folder / "output" / "model", DOCUMENTS)[0].item())
    assert after[1] < mean_loss(policy, DOCUMENTS)[0].item() < after[0]


def test_text_that_is_not_there_or_does_not_fit_is_an_error(policy, text, tmp_path):
    with pytest.raises(ConfigError, match="ppo.ptx_coef needs raw text; name a file or folder in ppo.ptx_text"):
        run(policy, None, tmp_path)
    with pytest.raises(ConfigError, match="ptx_row_tokens = 65 is longer than the model's context of 64"):
        run(policy, text, tmp_path, ptx_row_tokens=65)


def test_the_text_of_pretraining_is_taken_unless_another_is_named(tmp_path):
    paths = dict(policy=tmp_path, reward=tmp_path, prompts=tmp_path)
    pretrain = Artifact(tmp_path, Manifest.model_construct(name="pretrain", files={"text.jsonl.gz": ""}))
    own = tmp_path / "own.txt"
    named, plain = PPOConfig(**paths, ptx_coef=1.0, ptx_text=own), PPOConfig(**paths, ptx_coef=1.0)
    assert ppo.bind(plain, {"text": pretrain}).ptx_text == tmp_path / "text.jsonl.gz"
    assert ppo.bind(named, {"text": pretrain}).ptx_text == own and own in ppo.files(named)
    assert ppo.bind(PPOConfig(**paths), {"text": pretrain}).ptx_text is None
