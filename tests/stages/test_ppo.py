import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from loopwright.data.chat import ensure_chat_template, render_prompt
from loopwright.data.readers import write_records
from loopwright.data.tokenizer import encode_text, train_tokenizer
from loopwright.errors import CheckError, ConfigError, DataError, ModelError
from loopwright.generation.base import Rollouts, SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.generation.fast_engine import FastEngine
from loopwright.generation.transformers_engine import TransformersEngine
from loopwright.kernels import library
from loopwright.models.adapters import FILE, save_adapters
from loopwright.models.decoder import Decoder
from loopwright.models.heads import Critic, head_of, reward_model_from
from loopwright.models.loading import load_causal_lm, load_reward_model, load_tokenizer, save_model
from loopwright.models.sharing import resident_bytes
from loopwright.models.tokens import forbidden_token_ids
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable, trainable_parameters
from loopwright.objectives import logprobs
from loopwright.rewards import CallableReward, RewardModel
from loopwright.rewards.reward_model import score_rows
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages import ppo, ppo_models
from loopwright.stages.ppo import PPOConfig, PPOInputs
from loopwright.tracking.artifacts import Artifact, Manifest
from loopwright.training import ppo_checks
from loopwright.training.ppo_batch import (
    Episodes,
    Experience,
    Observations,
    even_parts,
    microbatches,
    prompts_of_step,
    spread,
    with_advantages,
)
from loopwright.training.ppo_learner import PPOLearner, schedule
from loopwright.training.ppo_reader import Reader
from tests.tiny import FAMILIES, KNOWN, Elsewhere, saved, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "tiny_ppo.json"
PROMPTS = [Prompt.user(f"p{i}", text) for i, text in enumerate(["abc", "a", "hello there", "what is it", "zz?"])]
SMALL = dict(
    steps=3, rollouts_per_step=8, minibatch_size=4, epochs_per_batch=2, max_new_tokens=6, learning_rate=1e-3,
    critic_learning_rate=2e-3, save_steps=2,
)  # fmt: skip
MUON = dict(optimizer="muon", muon_learning_rate=0.02, critic_muon_learning_rate=0.01)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A policy and a reward model of its shape."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer, policy = tiny_tokenizer(), tiny_model("llama")
    # EOS likely enough that responses end early, late and never.
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_token_id] *= 3.0
    reward = reward_model_from(policy, seed=1)
    return saved(policy, tokenizer, folder / "policy"), saved(reward, tokenizer, folder / "reward")


def run(folders, folder, *, reward=None, prompts=PROMPTS, seed=0, of=None, **settings):
    """PPO in this folder; `of`: the folder of another reference than the policy."""
    runtime = Runtime.temporary(folder, stage="ppo", seed=seed)
    reward = folders[1] if reward is None else reward
    inputs = PPOInputs(policy=folders[0], reward=reward, prompts=prompts, reference=of)
    return ppo.run(PPOConfig(**(SMALL | settings)), inputs, runtime)


def recorded(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "stage")} for line in lines]


def weights(folder, part="model"):
    return safetensors.torch.load_file(folder / "output" / part / "model.safetensors")


def callable_reward(function):
    return [(CallableReward(function, "test"), 1.0)]


def length_of(prompts, responses):
    return [float(len(response)) for response in responses]


# ---- the whole stage


def test_tiny_ppo_matches_golden(folders, tmp_path):
    settings = dict(steps=10, kl_controller="adaptive", kl_target=0.5, kl_horizon=100, entropy_coef=0.01)
    run(folders, tmp_path, report_exact_kl=True, **settings)
    got = recorded(tmp_path)
    if os.environ.get("RECORD_GOLDEN"):
        GOLDEN.write_text(json.dumps(got, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert [set(line) for line in got] == [set(line) for line in golden]
    for ours, theirs in zip(got, golden, strict=True):
        for name, value in theirs.items():
            assert math.isclose(ours[name], value, rel_tol=1e-4, abs_tol=1e-6), (ours["step"], name)


class Interrupted(BaseException):
    """Stands for a kill: nothing catches it."""


def dies_in_step(reward, fatal_step):
    calls = []

    class Dying:
        name = "dying"

        def score(self, samples):
            calls.append(1)
            if len(calls) == fatal_step:
                raise Interrupted
            return reward.score(samples)

    return [(Dying(), 1.0)]


@pytest.mark.parametrize(
    "varied",
    [
        {},
        {"trainable": {"mode": "lora"}},
        {"trainable": {"mode": "top_layers", "layers": 1}},
        MUON,
        {"precision": "bfloat16"},
        {"eval_steps": 3, "held_out_prompts": 2},
    ],
    ids=["all", "lora", "top_layers", "muon", "bfloat16", "evaluated"],
)
def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(folders, tmp_path, varied):
    settings = dict(steps=6, kl_controller="adaptive", kl_target=0.5, kl_horizon=50, **varied)
    reward = RewardModel(load_reward_model(folders[1]), load_tokenizer(folders[1]))
    whole = run(folders, tmp_path / "whole", reward=dies_in_step(reward, None), **settings)
    with pytest.raises(Interrupted):
        run(folders, tmp_path / "killed", reward=dies_in_step(reward, 4), **settings)
    assert [line["step"] for line in recorded(tmp_path / "killed")] == [1, 2, 3]
    resumed = run(folders, tmp_path / "killed", reward=dies_in_step(reward, None), **settings)
    assert resumed == whole
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    for part in ("model", "critic"):
        ours, theirs = weights(tmp_path / "killed", part), weights(tmp_path / "whole", part)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_assessing_held_out_prompts_changes_nothing_that_is_learned(folders, tmp_path):
    prompts = [Prompt.user(f"p{i}", f"say {i % 9}") for i in range(12)]
    reward, evaluated = callable_reward(length_of), dict(eval_steps=2, held_out_prompts=2)
    run(folders, tmp_path / "with", reward=reward, prompts=prompts, **evaluated)
    runtime, tokenizer = Runtime.temporary(tmp_path / "split", stage="ppo"), load_tokenizer(folders[0])
    config = PPOConfig(**SMALL, **evaluated)
    tasks = ppo.load_prompts(config, PPOInputs(*folders, prompts), tokenizer, load_causal_lm(folders[0]))
    train, held_out = ppo.hold_out(tasks, config, runtime)
    assert not {str(task.tokens) for task in train} & {str(task.tokens) for task in held_out}
    assert len(train) + len(held_out) == 12 and train and held_out

    run(folders, tmp_path / "without", reward=reward, prompts=[task.prompt for task in train])
    lines = recorded(tmp_path / "with")
    assessed = [line for line in lines if "held_out_score" in line]
    assert [line for line in lines if line not in assessed] == recorded(tmp_path / "without")
    assert [line["step"] for line in assessed] == [2, 3]
    for part in ("model", "critic"):
        ours, theirs = weights(tmp_path / "with", part), weights(tmp_path / "without", part)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    # The last figures again, from the model that was written.
    learner, engine, _ = make_learner(folders, tmp_path / "again")
    learner.policy.load_state_dict(load_causal_lm(tmp_path / "with" / "output" / "model").state_dict())
    seeds = [runtime.seed_for("held out", row) for row in range(len(held_out))]
    rollouts = engine.generate([task.tokens for task in held_out], SamplingConfig(max_new_tokens=6), seeds)
    episodes = Episodes.of(rollouts, torch.device("cpu"))
    drift = (episodes.logprobs - learner.observe(episodes).reference_logprobs) * episodes.mask
    assert assessed[-1] == pytest.approx({
        "step": 3,
        "held_out_score": sum(length_of([], decode_responses(tokenizer, rollouts))) / len(held_out),
        "held_out_kl": drift.sum().item() / len(held_out),
        "held_out_length_tokens": episodes.mask.sum().item() / len(held_out),
    }, rel=1e-4)  # fmt: skip


def test_holding_out_every_prompt_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="held_out_prompts = 64, but only 5 prompts differ"):
        run(folders, tmp_path, eval_steps=1)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_eight_rows_at_once_equal_one_row_eight_times(folders, tmp_path, threads):
    for size in (1, 2, 8):
        run(folders, tmp_path / str(size), minibatch_size=8, microbatch_size=size)
    run(folders, tmp_path / "tokens", minibatch_size=8, microbatch_tokens=30)
    run(folders, tmp_path / "default", minibatch_size=8)
    for size in ("1", "2", "tokens", "default"):
        assert_same_training(tmp_path / size, tmp_path / "8")


def assert_same_training(one, other):
    """The figures of every step, but for the order in which numbers are summed."""
    for ours, theirs in zip(recorded(one), recorded(other), strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            assert math.isclose(ours[name], theirs[name], rel_tol=1e-4, abs_tol=1e-5), (ours["step"], name)
    for name, value in weights(one).items():
        assert_close(value, weights(other)[name], rtol=0, atol=1e-5)


@pytest.mark.skipif(library.compiled() is None, reason="no C compiler on this machine")
def test_operations_in_c_train_as_those_of_torch(folders, tmp_path, request):
    run(folders, tmp_path / "c")
    request.getfixturevalue("kernels_in_torch")
    run(folders, tmp_path / "torch")
    assert_same_training(tmp_path / "c", tmp_path / "torch")


def test_real_tokens_alone_train_as_padded_rows_through_transformers(folders, tmp_path, monkeypatch):
    """Sampled and learned by our own forward pass, and by the model's."""
    run(folders, tmp_path / "own")
    monkeypatch.setattr(Decoder, "of", lambda model: "of a new family")
    monkeypatch.setattr(Decoder, "_block", None)
    run(folders, tmp_path / "transformers")
    assert_same_training(tmp_path / "own", tmp_path / "transformers")


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2"])
def test_other_families_train_and_load_again(tmp_path, family):
    tokenizer, policy = tiny_tokenizer(), tiny_model(family)
    start = (
        saved(policy, tokenizer, tmp_path / "policy"),
        saved(reward_model_from(policy, seed=1), tokenizer, tmp_path / "reward"),
    )
    run(start, tmp_path / "run", steps=2)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "output" / "model")
    assert any(not torch.equal(p, q) for p, q in zip(trained.parameters(), policy.parameters(), strict=True))
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "output" / "critic")


def test_a_reward_that_is_known_is_reached_as_far_as_the_kl_allows(folders, tmp_path):
    """One token to say, reward 1 for a capital letter: the optimum is pi* ~ pi_ref exp(r / beta), in closed form."""
    beta, prompts = 0.4, PROMPTS[:1]
    settings = dict(
        steps=24, rollouts_per_step=256, minibatch_size=128, max_new_tokens=1, missing_eos_penalty=0.0, kl_coef=beta,
        learning_rate=4e-3, schedule="cosine", save_steps=100,
    )  # fmt: skip

    def capital(prompts, responses):
        return [float(response.isupper()) for response in responses]

    run(folders, tmp_path, reward=callable_reward(capital), prompts=prompts, **settings)
    tokenizer = load_tokenizer(folders[0])
    before, after = (
        next_token(folder, tokenizer, prompts[0]) for folder in (folders[0], tmp_path / "output" / "model")
    )
    rewards = torch.tensor(capital([], [tokenizer.decode([i]) for i in range(len(before))]))
    optimum = torch.softmax(before.log() + rewards / beta, 0)
    share = (before * rewards).sum(), (optimum * rewards).sum(), (after * rewards).sum()
    assert share[1] > 3 * share[0]  # the optimum is far from the start
    assert abs(share[2] - share[1]) < 0.1 * share[1]
    assert distance(after, optimum) < 0.25 * distance(before, optimum)


def next_token(folder, tokenizer, prompt):
    ids = torch.tensor([render_prompt(tokenizer, prompt.messages)])
    logits = load_causal_lm(folder)(ids).logits[0, -1].detach()
    return logits.index_fill(0, forbidden_token_ids(tokenizer, len(logits)), -torch.inf).softmax(0)


def distance(p, q):
    return 0.5 * (p - q).abs().sum()


# ---- the KL


def test_lora_measures_against_the_base_without_adapters(folders, tmp_path):
    lora = {"mode": "lora", "lora": {"r": 4, "modules_to_save": ["lm_head"]}}
    run(folders, tmp_path, steps=4, trainable=lora, learning_rate=1e-2)
    kl = [line["kl"] for line in recorded(tmp_path)]
    assert kl[0] == pytest.approx(0, abs=1e-4) and kl[-1] > 0.01
    learner, _, _ = make_learner(folders, tmp_path / "again", trainable=lora)
    shared = {id(parameter) for parameter in learner.policy.parameters()}
    assert all(id(parameter) in shared for parameter in learner.reference.parameters())  # no second copy
    base = load_causal_lm(folders[0]).state_dict()
    for name, value in learner.policy.get_base_model().state_dict().items():
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        if plain in base:
            assert torch.equal(value, base[plain])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "output" / "model")  # merged: no adapter to know about
    assert not torch.equal(
        plain.model.layers[0].self_attn.q_proj.weight, base["model.layers.0.self_attn.q_proj.weight"]
    )


def test_adapters_on_the_lm_head_are_refused(folders, tmp_path):
    with pytest.raises(ModelError, match="modules_to_save"):
        run(folders, tmp_path, trainable={"mode": "lora", "lora": {"targets": ["lm_head"]}})


@pytest.fixture(scope="module")
def earlier(folders, tmp_path_factory):
    """What the policy may have been before: other weights in the lowest block and the LM head."""
    model = load_causal_lm(folders[0])
    with torch.no_grad():
        for parameter in (*model.model.layers[0].parameters(), *model.lm_head.parameters()):
            parameter.mul_(0.5)
    return saved(model, load_tokenizer(folders[0]), tmp_path_factory.mktemp("earlier") / "policy")


def test_the_same_weights_as_a_reference_of_their_own_change_no_figure(folders, tmp_path):
    run(folders, tmp_path / "own", of=folders[0])
    run(folders, tmp_path / "none")
    assert recorded(tmp_path / "own") == recorded(tmp_path / "none")


def test_kl_is_measured_from_a_reference_of_its_own_and_leads_back_to_it(folders, earlier, tmp_path):
    settings = dict(reward=callable_reward(lambda prompts, responses: [float(i) for i in range(len(responses))]))
    settings |= dict(of=earlier, kl_penalty="loss", kl_estimator="exact", rollouts_per_step=32, minibatch_size=16)
    run(folders, tmp_path, steps=12, kl_coef=20.0, **settings)
    kl = [line["kl_loss"] for line in recorded(tmp_path)]
    assert kl[0] > 0.01 and kl[-1] < 0.4 * kl[0]
    own = next_token(folders[0], tokenizer := load_tokenizer(folders[0]), PROMPTS[0])
    reference, learned = (
        next_token(folder, tokenizer, PROMPTS[0]) for folder in (earlier, tmp_path / "output" / "model")
    )
    assert distance(learned, reference) < 0.7 * distance(own, reference)


def test_a_reference_of_another_tokenizer_is_refused(folders, foreign, tmp_path):
    with pytest.raises(ConfigError, match="has another tokenizer than the policy"):
        run(folders, tmp_path, of=foreign)


def test_a_reference_of_its_own_shares_what_is_frozen_and_the_same(folders, earlier, tmp_path):
    top = {"mode": "top_layers", "layers": 1}
    run(folders, tmp_path / "whole", of=earlier, trainable=top, steps=1)
    runtime, config = Runtime.temporary(tmp_path, stage="ppo"), PPOConfig(**SMALL, trainable=top)
    inputs = PPOInputs(*folders, PROMPTS, reference=earlier)
    policy, tokenizer = load_causal_lm(folders[0]), load_tokenizer(folders[0])
    learner = ppo.make_learner(config, inputs, ppo.load_reward(inputs, runtime), policy, tokenizer, runtime)
    ours = {id(parameter) for parameter in learner.policy.parameters()}
    apart = {name for name, parameter in learner.reference.named_parameters() if id(parameter) not in ours}
    assert apart == {
        name
        for name, parameter in learner.policy.named_parameters()
        if parameter.requires_grad or not torch.equal(parameter, load_causal_lm(earlier).get_parameter(name))
    }
    assert learner.reference_reader.below == 0 < learner.below  # whose blocks differ are not taken for the policy's


def test_clip_only_pays_nothing_for_kl(folders, tmp_path):
    run(folders, tmp_path, kl_penalty="none")
    for line in recorded(tmp_path):
        penalty = 1.0 - line["finished_share"]
        assert line["kl_coef"] == 0.0
        assert line["reward"] == pytest.approx(line["score"] - penalty, abs=1e-5)
    assert recorded(tmp_path)[-1]["kl"] != 0.0  # still measured


def test_the_penalty_in_the_reward_is_coefficient_times_kl(folders, tmp_path):
    run(folders, tmp_path, kl_coef=0.3)
    for line in recorded(tmp_path):
        expected = line["score"] - (1.0 - line["finished_share"]) - 0.3 * line["kl"]
        assert line["reward"] == pytest.approx(expected, abs=1e-4)


def test_the_adaptive_coefficient_follows_its_formula(folders, tmp_path):
    run(folders, tmp_path, steps=4, kl_controller="adaptive", kl_target=0.2, kl_horizon=40)
    lines = recorded(tmp_path)
    assert lines[0]["kl_coef"] == 0.05
    for now, after in zip(lines, lines[1:], strict=False):
        error = min(max(now["kl"] / 0.2 - 1, -0.2), 0.2)
        assert after["kl_coef"] == pytest.approx(now["kl_coef"] * (1 + error * 8 / 40))


def test_max_kl_holds_a_policy_that_nothing_else_holds(folders, tmp_path):
    settings = dict(
        steps=16, rollouts_per_step=32, minibatch_size=16, kl_penalty="none", learning_rate=3e-3, schedule="constant"
    )
    reward = callable_reward(lambda prompts, responses: [float(r.count("a")) - len(r) for r in responses])
    run(folders, tmp_path / "free", reward=reward, **settings)
    run(folders, tmp_path / "held", reward=reward, max_kl=1.0, **settings)
    free, held = ([line["kl"] for line in recorded(tmp_path / name)][-6:] for name in ("free", "held"))
    assert sum(free) / 6 > 3.0
    assert sum(held) / 6 < 1.5


def test_beyond_max_kl_only_the_kl_is_taught_and_the_critic_goes_on():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    logprobs = torch.tensor([[-1.0, -1.0, -1.0], [-2.0, -2.0, 0.0]])
    episodes = Episodes(torch.zeros(2, 5, dtype=torch.long), torch.tensor([2, 2]), mask, logprobs, torch.ones(2).bool())
    observed = Observations(torch.full((2, 3), -2.0), torch.rand(2, 3), None)
    scores = (torch.tensor([5.0, -5.0]), None)
    free, _ = with_advantages(episodes, observed, scores, 0.1, PPOConfig())
    held, figures = with_advantages(episodes, observed, scores, 0.1, PPOConfig(max_kl=1.0))
    assert figures["kl"] == 1.5 and figures["beyond_max_kl"] == 1.0
    assert_close(held.returns, free.returns)
    raw = torch.tensor([-3.0, -2.0, -1.0, 0.0, 0.0])  # KL still to come, of each response token
    expected = (raw - raw.mean()) / raw.std(unbiased=False)
    assert_close(held.advantages[mask], expected)


def test_scores_are_moved_to_the_episodes_first():
    mask, zeros = torch.ones(2, 3).bool(), torch.zeros(2, 3)
    episodes = Episodes(torch.zeros(2, 5, dtype=torch.long), torch.tensor([2, 2]), mask, zeros, torch.ones(2).bool())
    scores = torch.tensor([1.0, 2.0]), torch.ones(2, 3)
    given = tuple(part.as_subclass(Elsewhere) for part in scores)
    observed = Observations(zeros, zeros, None)
    got, _ = with_advantages(episodes, observed, given, 0.1, PPOConfig())
    assert_close(got.returns, with_advantages(episodes, observed, scores, 0.1, PPOConfig())[0].returns)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_policy_on_a_gpu_learns_from_a_reward_model_on_the_cpu(folders, tmp_path):
    reward = RewardModel(load_reward_model(folders[1]), load_tokenizer(folders[1]))
    runtime = Runtime.temporary(tmp_path, stage="ppo")
    runtime.device = torch.device("cuda")
    weighted = [(reward, 1.0), (CallableReward(length_of, "length"), 0.1)]
    ppo.run(PPOConfig(**SMALL), PPOInputs(folders[0], weighted, PROMPTS), runtime)
    assert [line["step"] for line in recorded(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(("trainable", "estimator"), [("all", "exact"), ("lora", "k3"), ("lora", "exact")])
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_microbatches_side_by_side_see_nothing_of_each_other(folders, tmp_path, trainable, estimator, threads):
    settings = dict(kl_penalty="loss", kl_estimator=estimator, kl_coef=1.0, minibatch_size=8, steps=2)
    settings |= dict(trainable={"mode": trainable}, learning_rate=1e-2)
    assert make_learner(folders, tmp_path / "learner", **settings)[0].at_once
    for size in (1, 8):
        run(folders, tmp_path / str(size), microbatch_size=size, **settings)
    for name, value in weights(tmp_path / "1").items():
        assert_close(value, weights(tmp_path / "8")[name], rtol=0, atol=1e-5)


def test_an_adaptive_coefficient_need_not_move_in_a_trial_of_one_step():
    assert PPOConfig(steps=1, kl_controller="adaptive", kl_target=0.5).kl_horizon == 10_000


@pytest.mark.parametrize("estimator", ["k2", "k3", "exact"])
def test_kl_in_the_loss_leads_back_to_the_reference(folders, tmp_path, estimator):
    settings = dict(kl_penalty="loss", kl_estimator=estimator, kl_coef=1.0, report_exact_kl=True, schedule="constant")
    learner, engine, prompts = make_learner(folders, tmp_path, **settings)
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    exact = []
    for step in range(12):
        episodes = sample(engine, prompts * 4, seed=step)
        observed = learner.observe(episodes)
        exact.append(observed.exact_kl.sum(1).mean().item())
        zero = torch.zeros_like(episodes.logprobs)
        learner.update(Experience(episodes, observed.reference_logprobs, observed.values, zero, zero), step, int)
    assert exact[-1] < 0.6 * exact[0]


def test_exact_kl_agrees_with_k1_on_many_samples(folders, tmp_path):
    learner, engine, prompts = make_learner(folders, tmp_path, report_exact_kl=True)
    with torch.no_grad():
        learner.policy.lm_head.weight.mul_(1.1)
    episodes = sample(engine, prompts * 400, seed=0)
    observed = learner.observe(episodes)
    k1 = ((episodes.logprobs - observed.reference_logprobs) * episodes.mask).sum(1)
    exact = observed.exact_kl.sum(1)
    assert exact.min() >= -1e-5
    assert abs(k1.mean() - exact.mean()) < 4 * (k1 - exact).std() / len(k1) ** 0.5


# ---- padding, temperature, batches


def make_learner(folders, folder, **settings):
    runtime = Runtime.temporary(folder, stage="ppo")
    config = PPOConfig(**(SMALL | settings))
    policy, tokenizer = load_causal_lm(folders[0]), load_tokenizer(folders[0])
    forbidden = forbidden_token_ids(tokenizer, policy.config.vocab_size)
    critic = Critic(load_reward_model(folders[1]))
    learner = PPOLearner(policy, critic, forbidden, config, seed=0, scratch=runtime.scratch)
    prompts = [render_prompt(tokenizer, prompt.messages) for prompt in PROMPTS]
    return learner, TransformersEngine(learner.policy, tokenizer), prompts


def rollouts_of(engine, prompts, *, seed, temperature=1.0):
    sampling = SamplingConfig(max_new_tokens=6, temperature=temperature)
    return engine.generate(prompts, sampling, [seed * 10_000 + row for row in range(len(prompts))])


def sample(engine, prompts, *, seed, temperature=1.0):
    return Episodes.of(rollouts_of(engine, prompts, seed=seed, temperature=temperature), torch.device("cpu"))


def test_rows_lie_without_gaps():
    rollouts = Rollouts(
        prompt_ids=torch.tensor([[0, 7, 8], [4, 5, 6]]),
        prompt_mask=torch.tensor([[False, True, True], [True, True, True]]),
        response_ids=torch.tensor([[1, 2], [3, 0]]),
        response_mask=torch.tensor([[True, True], [True, False]]),
        logprobs=torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]),
        finished=torch.tensor([False, True]),
    )
    episodes = Episodes.of(rollouts, torch.device("cpu"))
    assert episodes.ids[0, :4].tolist() == [7, 8, 1, 2] and episodes.ids[1, :4].tolist() == [4, 5, 6, 3]
    assert episodes.lengths().tolist() == [4, 4]
    assert episodes.predicts().nonzero().tolist() == [
        [0, 1],
        [0, 2],
        [1, 2],
    ]  # the last prompt token predicts the first
    assert episodes.response_ids().tolist() == [1, 2, 3]
    assert episodes.rows(torch.tensor([1])).ids.tolist() == [[4, 5, 6, 3]]


def test_empty_and_single_token_responses_train(folders, tmp_path):
    learner, engine, prompts = make_learner(folders, tmp_path, minibatch_size=5, rollouts_per_step=5)
    rollouts = rollouts_of(engine, prompts, seed=1)
    lengths = torch.tensor([0, 1, 6, 2, 0])[:, None]
    mask = (torch.arange(rollouts.response_ids.shape[1]) < lengths) & rollouts.response_mask
    episodes = Episodes.of(rollouts._replace(response_mask=mask), torch.device("cpu"))
    experience, _ = with_advantages(episodes, learner.observe(episodes), (torch.ones(5), None), 0.1, learner.config)
    figures = learner.update(experience, 0, int)
    assert all(math.isfinite(value) for value in figures.values())
    nothing = Episodes.of(rollouts._replace(response_mask=mask & False), torch.device("cpu"))
    experience, _ = with_advantages(nothing, learner.observe(nothing), (torch.ones(5), None), 0.1, learner.config)
    before = learner.state()["policy"]["model.embed_tokens.weight"].clone()
    learner.update(experience, 0, int)
    assert torch.equal(before, learner.state()["policy"]["model.embed_tokens.weight"])


@pytest.mark.parametrize("left, right", [(3, 0), (0, 2), (5, 4)])
def test_more_padding_with_junk_in_it_changes_nothing(folders, tmp_path, left, right):
    results = []
    for extra_left, extra_right in ((0, 0), (left, right)):
        learner, engine, prompts = make_learner(folders, tmp_path)
        rollouts = rollouts_of(engine, prompts + prompts[:3], seed=0)
        padded = rollouts._replace(
            prompt_ids=torch.nn.functional.pad(rollouts.prompt_ids, (extra_left, 0), value=11),
            prompt_mask=torch.nn.functional.pad(rollouts.prompt_mask, (extra_left, 0)),
            response_ids=torch.nn.functional.pad(rollouts.response_ids, (0, extra_right), value=12),
            response_mask=torch.nn.functional.pad(rollouts.response_mask, (0, extra_right)),
            logprobs=torch.nn.functional.pad(rollouts.logprobs, (0, extra_right), value=math.nan),
        )
        episodes = Episodes.of(padded, torch.device("cpu"))
        observed = learner.observe(episodes)
        experience, figures = with_advantages(episodes, observed, (torch.arange(8.0), None), 0.1, learner.config)
        results.append(figures | learner.update(experience, 0, int))
    for name, value in results[0].items():
        assert math.isclose(value, results[1][name], rel_tol=1e-5, abs_tol=1e-6), name


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])
def test_sampler_learner_and_reference_agree_at_every_temperature(tmp_path, family, temperature):
    tokenizer, model = tiny_tokenizer(), tiny_model(family)
    start = (
        saved(model, tokenizer, tmp_path / "policy"),
        saved(reward_model_from(model, seed=1), tokenizer, tmp_path / "reward"),
    )
    learner, engine, prompts = make_learner(start, tmp_path / "run", temperature=temperature)
    episodes = sample(engine, prompts, seed=0, temperature=temperature)
    expected = episodes.logprobs[episodes.mask]
    assert_close(learner.response_logprobs(episodes), expected, rtol=0, atol=1e-4)
    assert_close(learner.observe(episodes).reference_logprobs[episodes.mask], expected, rtol=0, atol=1e-4)
    # and the same as transformers' own forward pass, one row at a time
    row = episodes.rows(torch.tensor([2]))
    logits = model(row.ids).logits[0] / temperature
    logits[:, forbidden_token_ids(tokenizer, logits.shape[-1])] = -torch.inf
    plain = logits[:-1].log_softmax(-1).gather(-1, row.ids[0, 1:, None])[row.prompt_lengths[0] - 1 :, 0]
    assert_close(plain, row.logprobs[row.mask], rtol=0, atol=1e-4)


def test_a_first_update_by_hand(folders, tmp_path):
    """One minibatch, ratio 1: the figures are plain token means that can be computed from the batch itself."""
    settings = dict(rollouts_per_step=5, minibatch_size=5, epochs_per_batch=1, value_coef=0.5, entropy_coef=0.1)
    learner, engine, prompts = make_learner(folders, tmp_path, microbatch_size=1, **settings)
    episodes = sample(engine, prompts, seed=0)
    observed = learner.observe(episodes)
    experience, _ = with_advantages(episodes, observed, (torch.arange(5.0), None), 0.1, learner.config)
    got = learner.update(experience, 0, int)
    mask = episodes.mask
    assert got["policy_loss"] == pytest.approx(-experience.advantages[mask].mean().item(), abs=1e-5)
    error = (observed.values - experience.returns)[mask]
    assert got["value_loss"] == pytest.approx(0.5 * error.square().mean().item(), rel=1e-4)
    assert got["loss"] == pytest.approx(
        got["policy_loss"] + 0.5 * got["value_loss"] - 0.1 * got["entropy"], rel=1e-4, abs=1e-5
    )
    assert got["approx_kl"] == pytest.approx(0, abs=1e-8) and got["ratio_max"] == pytest.approx(1, abs=1e-3)
    assert got["clip_fraction"] == 0.0


def test_a_first_step_of_muon_is_that_of_torch_at_the_scheduled_rates(folders, tmp_path):
    settings = dict(rollouts_per_step=5, minibatch_size=5, epochs_per_batch=1, warmup_steps=2, max_grad_norm=None)
    learner, engine, prompts = make_learner(folders, tmp_path, **MUON, **settings)
    parts = {learner.policy: (0.02, 1e-3), learner.critic.model: (0.01, 2e-3)}
    before = {p: p.detach().clone() for part in parts for p in part.parameters()}
    gradients = {}
    for parameter in before:
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.update({p: p.grad.clone()}))
    episodes = sample(engine, prompts, seed=0)
    experience, _ = with_advantages(episodes, learner.observe(episodes), (torch.arange(5.0), None), 0.1, learner.config)
    assert learner.update(experience, 0, int)["learning_rate"] == 0.5e-3
    for part, (muon_rate, adamw_rate) in parts.items():
        for name, parameter in part.named_parameters():
            expected = torch.nn.Parameter(before[parameter])
            expected.grad = gradients[parameter]
            by_muon = parameter.dim() == 2 and ".layers." in name
            if by_muon:
                torch.optim.Muon([expected], lr=muon_rate / 2, weight_decay=0.0).step()
            else:
                torch.optim.AdamW([expected], lr=adamw_rate / 2, eps=1e-5, weight_decay=0.0).step()
            assert_close(parameter, expected, rtol=0, atol=1e-7, msg=name)


def test_microbatches_by_hand():
    lengths = torch.tensor([5, 1, 9, 2, 3])
    assert [x.tolist() for x in microbatches(lengths, rows=2)] == [[1, 3], [4, 0], [2]]
    assert [x.tolist() for x in microbatches(lengths, tokens=6)] == [[1, 3, 4], [0], [2]]  # a row of 9 goes alone
    assert [x.tolist() for x in even_parts(lengths, 2)] == [[1, 3, 4, 0], [2]]
    assert [x.tolist() for x in even_parts(lengths, 1)] == [[1, 3, 4, 0, 2]]
    assert sorted(torch.cat(even_parts(lengths, 9)).tolist()) == [0, 1, 2, 3, 4]


def test_prompts_come_in_fresh_permutations_without_state():
    def epochs(count, per_step, steps):
        flat = [i for step in range(steps) for i in prompts_of_step(count, step, per_step, lambda epoch: 100 + epoch)]
        return [flat[k : k + count] for k in range(0, len(flat) - count + 1, count)]

    for count, per_step in ((7, 3), (3, 8), (5, 5)):
        passes = epochs(count, per_step, 20)
        assert all(sorted(order) == list(range(count)) for order in passes)
        assert len({tuple(order) for order in passes}) > 1
    assert prompts_of_step(7, 4, 3, hash) == prompts_of_step(7, 4, 3, hash)


def test_schedule_by_hand():
    linear = PPOConfig(steps=10, warmup_steps=2)
    assert [schedule(step, linear) for step in (0, 1, 2, 6)] == [0.5, 1.0, 1.0, 0.5]
    cosine = PPOConfig(steps=10, schedule="cosine")
    assert schedule(0, cosine) == 1.0 and schedule(5, cosine) == pytest.approx(0.5)
    assert schedule(9, PPOConfig(steps=10, schedule="constant")) == 1.0


# ---- memory, precision, and what is computed once


TOP = {"mode": "top_layers", "layers": 1}


def count_blocks(whole):
    """Stands for Decoder._block, and lists the numbers of blocks that are computed."""

    def counted(self, number, *inputs):
        (counted.with_gradient if torch.is_grad_enabled() else counted.without).append(number)
        return whole(self, number, *inputs)

    counted.with_gradient, counted.without = [], []
    return counted


def test_gradient_checkpointing_changes_no_figure(folders, tmp_path, monkeypatch):
    calls, whole = [], Decoder._block
    for again in (False, True):
        monkeypatch.setattr(Decoder, "_block", counted := count_blocks(whole))
        run(folders, tmp_path / str(again), gradient_checkpointing=again, steps=2)
        calls.append(len(counted.with_gradient))
    assert calls[1] == 2 * calls[0]  # each block once more
    assert recorded(tmp_path / "True") == recorded(tmp_path / "False")
    plain, again = (weights(tmp_path / name) for name in ("False", "True"))
    assert all(torch.equal(value, again[name]) for name, value in plain.items())


def test_gradient_checkpointing_of_an_unknown_family_is_an_error(folders, tmp_path):
    tokenizer, policy = tiny_tokenizer(), tiny_model("granite")
    granite = saved(policy, tokenizer, tmp_path / "granite")
    with pytest.raises(ModelError, match=r"gradient_checkpointing would do nothing for Granite.*granite models"):
        run((granite, folders[1]), tmp_path / "run", gradient_checkpointing=True)


def test_an_unknown_family_learns_and_samples_more_slowly_and_says_so(tmp_path):
    tokenizer, policy = tiny_tokenizer(), tiny_model("gemma2")
    start = saved(policy, tokenizer, tmp_path / "policy")
    runtime = Runtime.temporary(tmp_path / "run", stage="ppo")
    runtime.log = (said := []).append
    ppo.run(PPOConfig(**SMALL), PPOInputs(start, callable_reward(length_of), PROMPTS), runtime)
    learning, sampling = [line for line in said if "slower" in line]
    assert learning.startswith("learning reads policy, reference, critic through transformers, which is slower: gemma2")
    assert sampling.startswith("sampling through transformers, which is slower: gemma2 models are not among")


def test_frozen_blocks_are_computed_once_a_rollout(folders, tmp_path, monkeypatch):
    """The critic is made from the policy's body: what its lower block gives serves policy, reference and critic."""
    reward, whole = callable_reward(length_of), Decoder._block
    monkeypatch.setattr(Decoder, "_block", counted := count_blocks(whole))
    run(folders, tmp_path / "once", reward=reward, trainable=TOP, steps=1)
    assert counted.with_gradient == [1] * 8  # two epochs of two minibatches, policy and critic
    learner, engine, prompts = make_learner(folders, tmp_path, trainable=TOP)
    episodes = learner.prepare(sample(engine, prompts, seed=0))
    monkeypatch.setattr(Decoder, "_block", counted := count_blocks(whole))
    learner.observe(episodes)
    assert set(counted.without) == {1}
    monkeypatch.setattr(Reader, "frozen_blocks", lambda self: 0)
    monkeypatch.setattr(Decoder, "_block", counted := count_blocks(whole))
    run(folders, tmp_path / "again", reward=reward, trainable=TOP, steps=1)
    assert sorted(counted.with_gradient) == [0] * 8 + [1] * 8
    for ours, theirs in zip(recorded(tmp_path / "once"), recorded(tmp_path / "again"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    for name, value in weights(tmp_path / "once").items():
        assert_close(value, weights(tmp_path / "again")[name], rtol=0, atol=1e-6)


def test_each_token_is_read_once_a_pass_and_only_responses_reach_the_last_block_and_the_head(
    folders, tmp_path, monkeypatch
):
    learner, engine, prompts = make_learner(folders, tmp_path, rollouts_per_step=20, minibatch_size=10)
    episodes = sample(engine, prompts * 4, seed=0)
    real, responses = int(episodes.lengths().sum()), int(episodes.mask.sum())
    assert responses < 0.7 * real
    into, out, heads, whole, head = [0, 0], [0, 0], [], Decoder._block, logprobs.head_logits

    def counted(self, number, x, *inputs):
        found = whole(self, number, x, *inputs)
        into[number], out[number] = into[number] + len(x), out[number] + len(found)
        return found

    def of_head(hidden, *inputs):
        heads.append(len(hidden))
        return head(hidden, *inputs)

    monkeypatch.setattr(Decoder, "_block", counted)
    monkeypatch.setattr(logprobs, "head_logits", of_head)
    models = (learner.policy, learner.reference, learner.critic.model.model)
    beside = []  # whoever is not read by our own forward pass
    for model in models:
        model.register_forward_pre_hook(lambda module, _: beside.append(module))

    observed = learner.observe(episodes)
    assert into == [2 * real, 2 * real] and out == [2 * real, 2 * responses]  # reference and critic
    assert sum(heads) == responses
    experience, _ = with_advantages(episodes, observed, (torch.arange(20.0), None), 0.1, learner.config)
    into[:], out[:], heads[:] = [0, 0], [0, 0], []
    learner.update(experience, 0, int)
    assert into == [4 * real, 4 * real] and out == [4 * real, 4 * responses]  # policy and critic, two epochs
    assert sum(heads) == 2 * responses and not beside


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A policy large enough for adapters to be small beside it, and a reward model trained with LoRA over it."""
    folder, tokenizer = tmp_path_factory.mktemp("adapted"), tiny_tokenizer()
    shape = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = LlamaForCausalLM(LlamaConfig(vocab_size=260, eos_token_id=256, bos_token_id=None, **shape))
    lora = LoRAConfig(r=2)
    trained = TrainableConfig(mode="lora", lora=lora)
    reward = make_trainable(reward_model_from(policy, seed=1), trained, seed=2)
    with torch.no_grad():
        for _, parameter in trainable_parameters(reward):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_model(reward, tokenizer, folder / "reward")
    save_adapters(reward, lora, folder / "reward")
    return saved(policy, tokenizer, folder / "policy"), folder / "reward"


LORA = {"mode": "lora", "lora": {"r": 2}}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_with_lora_four_roles_live_on_one_base(adapted, tmp_path, precision):
    runtime = Runtime.temporary(tmp_path, stage="ppo")
    config = PPOConfig(**SMALL, trainable=LORA, precision=precision)
    inputs = PPOInputs(*adapted, PROMPTS)
    reward, policy = ppo.load_reward(inputs, runtime), load_causal_lm(adapted[0])
    said = []
    runtime.log = said.append
    base = sum(p.numel() for p in policy.parameters()) * (2 if precision == "bfloat16" else 4)
    learner = ppo.make_learner(config, inputs, reward, policy, load_tokenizer(adapted[0]), runtime)
    roles = [learner.policy, learner.reference, learner.critic.model, reward.rewards[0][0].model]
    assert resident_bytes(roles) < 1.15 * base and not said
    assert learner.at_once == (precision == "float32")
    assert {id(p) for p in learner.critic.model.parameters() if p.requires_grad}.isdisjoint(
        id(p) for role in (roles[0], roles[1], roles[3]) for p in role.parameters()
    )


def test_one_base_changes_no_figure(adapted, tmp_path, monkeypatch):
    run(adapted, tmp_path / "shared", trainable=LORA)
    merged = tmp_path / "merged"
    shutil.copytree(adapted[1], merged)
    (merged / FILE).unlink()
    run((adapted[0], merged), tmp_path / "apart", trainable=LORA)
    first, second = recorded(tmp_path / "shared")[0], recorded(tmp_path / "apart")[0]
    for name in ("score", "policy_loss", "entropy", "policy_grad_norm"):  # the critics learn with other adapters
        assert first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize(
    ("critic", "trained"),
    [
        ({"mode": "all"}, lambda name: True),
        ({"mode": "top_layers", "layers": 1}, lambda name: re.search(r"layers\.1\.|model\.norm|score", name)),
        ({"mode": "lora", "lora": {"r": 5}}, lambda name: "lora_" in name or "score.modules_to_save" in name),
    ],
    ids=["all", "top_layers", "lora"],
)
def test_a_critic_trains_what_it_is_told_to_whatever_trained_the_reward_model(adapted, tmp_path, critic, trained):
    runtime = Runtime.temporary(tmp_path, stage="ppo")
    runtime.log = (said := []).append
    config = PPOConfig(**SMALL, trainable=LORA, critic_trainable=critic)
    inputs = PPOInputs(*adapted, PROMPTS)
    policy = load_causal_lm(adapted[0])
    learner = ppo.make_learner(
        config, inputs, ppo.load_reward(inputs, runtime), policy, load_tokenizer(adapted[0]), runtime
    )
    names = [name for name, parameter in learner.critic.model.named_parameters() if parameter.requires_grad]
    wanted = [name for name, _ in learner.critic.model.named_parameters() if trained(name)]
    assert names == wanted and names
    shapes = {parameter.shape[0] for name, parameter in learner.critic.model.named_parameters() if "lora_A" in name}
    assert shapes == ({5} if critic["mode"] == "lora" else set())
    assert any("the critic keeps weights of its own" in line for line in said)  # merged: they are not the policy's


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_reward_model_that_the_caller_holds_stays_as_it_was(adapted, tmp_path, precision):
    held = RewardModel(adapted[1])
    before = {name: parameter.clone() for name, parameter in held.model.named_parameters()}
    run(adapted, tmp_path, reward=[(held, 1.0)], trainable=LORA, precision=precision, steps=1)
    for name, parameter in held.model.named_parameters():
        assert parameter.requires_grad and torch.equal(parameter, before[name])


def test_a_sampler_that_is_not_the_learner_is_caught_in_bfloat16_too(folders, tmp_path, monkeypatch):
    generate = FastEngine.generate
    hot = lambda self, prompts, sampling, seeds: generate(  # noqa: E731
        self, prompts, sampling.model_copy(update={"temperature": 2.0}), seeds
    )
    with pytest.raises(CheckError, match=r"step 0: .*the ratio is not 1"):
        monkeypatch.setattr(FastEngine, "generate", hot)
        run(folders, tmp_path, precision="bfloat16")


def test_adapters_are_sampled_from_whole_in_bfloat16(folders, tmp_path):
    """Merged into bfloat16 weights, a small step of an adapter would be lost."""
    learner, _, _ = make_learner(folders, tmp_path, trainable={"mode": "lora"}, precision="bfloat16")
    said = []
    assert isinstance(make_engine(learner.policy, load_tokenizer(folders[0]), said.append), TransformersEngine)
    assert "round away" in said[0]


def test_values_are_not_rounded_to_eight_bits(folders, tmp_path):
    learner, engine, prompts = make_learner(folders, tmp_path, precision="bfloat16")
    with torch.no_grad():
        head_of(learner.critic.model.model).weight.mul_(100.0)
    values = learner.response_values(sample(engine, prompts * 4, seed=0))
    assert not torch.equal(values, values.bfloat16().float())


def test_a_critic_of_other_weights_computes_its_own_blocks(folders, tmp_path):
    other = reward_model_from(tiny_model("llama"), seed=1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    reward = saved(other, tiny_tokenizer(), tmp_path / "reward")
    learner, _, _ = make_learner((folders[0], reward), tmp_path / "run", trainable=TOP)
    assert learner.below == 1 and learner.reference_reader.below == 1 and learner.critic.reader.below == 0
    assert "differ from the policy's" in learner.critic.shares


def test_an_update_in_bfloat16_is_that_in_float32_but_for_rounding(folders, tmp_path):
    """Four steps on the same responses, as if each step had drawn them anew."""
    figures, moved = [], []
    _, engine, prompts = make_learner(folders, tmp_path)
    drawn = sample(engine, prompts * 8, seed=0)
    for precision in ("float32", "bfloat16"):
        settings = dict(rollouts_per_step=40, minibatch_size=20, optimizer="adamw", adam_eps=1e-2)
        learner, _, _ = make_learner(folders, tmp_path, precision=precision, **settings)
        start = learner.policy_masters.state()["model.layers.0.mlp.up_proj.weight"].clone()
        for step in range(4):
            episodes = drawn._replace(logprobs=spread(learner.response_logprobs(drawn), drawn.mask))
            observed = learner.observe(episodes)
            experience, _ = with_advantages(episodes, observed, (torch.arange(40.0) % 3, None), 0.1, learner.config)
            figures.append(learner.update(experience, step, int))
        moved.append(learner.policy_masters.state()["model.layers.0.mlp.up_proj.weight"] - start)
    for step, (exact, coarse) in enumerate(zip(figures[:4], figures[4:], strict=True)):
        for name in ("value_loss", "entropy", "policy_grad_norm", "critic_grad_norm"):
            assert coarse[name] == pytest.approx(exact[name], rel=0.02), (step, name)
    assert torch.nn.functional.cosine_similarity(*(x.flatten() for x in moved), dim=0) > 0.98


def test_bfloat16_learns_and_saves_its_masters(folders, tmp_path):
    reward = callable_reward(lambda _, responses: [sum(c.isascii() for c in text) / 6 for text in responses])
    settings = dict(
        rollouts_per_step=32, minibatch_size=16, learning_rate=1e-2, kl_penalty="none", missing_eos_penalty=0
    )
    run(folders, tmp_path, precision="bfloat16", steps=20, reward=reward, **settings)
    lines = recorded(tmp_path)
    assert 1e-4 < lines[0]["sampler_drift"] < 0.01
    assert lines[0]["score"] < 0.5 and lines[-1]["score"] > 0.75  # float32: 0.46 and 0.87
    assert any(not torch.equal(value, value.bfloat16().float()) for value in weights(tmp_path).values())


def test_a_word_where_sampler_and_learner_part():
    said = []
    drifts = ((0.009, "bfloat16"), (0.02, "bfloat16"), (1e-6, "float32"), (5e-5, "float32"))
    for drift, precision in drifts:
        ppo_checks.watch_sampler(drift, 7, precision, said.append)
    assert [line.partition(" nats a token")[0] for line in said] == [
        f"step 7: sampler and learner differ by {drift}" for drift in ("0.02", "5e-05")
    ]
    assert "tokens are weighed for it" in said[0] and "the run stops at 1e-04" in said[1]
    ppo_checks.check_ratio_is_one(torch.tensor([5e-5]), 7)  # the word comes before the end


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sampler_and_learner_are_watched_in_every_step(folders, tmp_path, monkeypatch, precision):
    usual = ppo_checks.TOLERANCES[precision]
    monkeypatch.setitem(ppo_checks.TOLERANCES, precision, usual._replace(worth_a_word=1e-9))
    runtime = Runtime.temporary(tmp_path, stage="ppo")
    runtime.log = (said := []).append
    ppo.run(PPOConfig(**SMALL, precision=precision), PPOInputs(*folders, PROMPTS), runtime)
    drifts = [line["sampler_drift"] for line in recorded(tmp_path)]
    assert len(drifts) == 3 and all(1e-9 < drift < usual.worth_a_word for drift in drifts)
    assert [line.partition(" nats a token")[0] for line in said if "sampler" in line] == [
        f"step {step}: sampler and learner differ by {drift:.2g}" for step, drift in enumerate(drifts)
    ]


@pytest.mark.parametrize("family", KNOWN)
def test_the_samplers_logprobs_are_the_learners_in_bfloat16(tmp_path, family):
    tokenizer, model = tiny_tokenizer(), tiny_model(family)
    start = (
        saved(model, tokenizer, tmp_path / "policy"),
        saved(reward_model_from(model, seed=1), tokenizer, tmp_path / "reward"),
    )
    learner, _, prompts = make_learner(start, tmp_path / "run", precision="bfloat16")
    engine = make_engine(learner.policy, tokenizer)
    assert isinstance(engine, FastEngine)
    episodes = sample(engine, prompts * 8, seed=0)
    apart = (learner.response_logprobs(episodes) - episodes.logprobs[episodes.mask]).abs()
    assert len(apart) > 100 and 0 < apart.mean() < 0.003  # 0.0014 at the most; 0.01 is what is promised


def test_tokens_are_weighed_where_sampler_and_learner_part():
    """The learner finds the second token e times as likely, the third 100 times, of which the cap leaves 2."""
    sampler = torch.tensor([[-1.0, -2.0, -9.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    episodes = Episodes(torch.arange(4)[None], torch.tensor([1]), mask, sampler, torch.tensor([True]))
    own = sampler + torch.tensor([[0.0, 0.5, math.log(100.0)]])
    observed = Observations(own, torch.zeros(1, 3), policy_logprobs=own)
    config = PPOConfig(precision="bfloat16", whiten_advantages=False, lam=1.0)
    experience, figures = with_advantages(episodes, observed, (torch.tensor([3.0]), None), 0.1, config)
    assert_close(experience.advantages, 3.0 * torch.tensor([[1.0, math.exp(0.5), 2.0]]))
    assert torch.equal(experience.episodes.logprobs, own) and figures["kl"] == 0.0
    assert figures["sampler_drift"] == pytest.approx((0.5 + math.log(100.0)) / 3)


# ---- critic and rewards


def test_the_critic_starts_from_the_reward_model(folders, tmp_path):
    config, runtime = PPOConfig(**SMALL), Runtime.temporary(tmp_path)
    policy, tokenizer = load_causal_lm(folders[0]), load_tokenizer(folders[0])
    inputs = PPOInputs(folders[0], folders[1], PROMPTS)
    learner = ppo.make_learner(config, inputs, ppo.load_reward(inputs, runtime), policy, tokenizer, runtime)
    theirs = load_reward_model(folders[1]).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in learner.critic.model.model.state_dict().items())


def test_without_a_reward_model_the_critic_starts_at_zero(folders, tmp_path):
    reward = callable_reward(length_of)
    policy = load_causal_lm(folders[0])
    inputs = PPOInputs(folders[0], reward, PROMPTS)
    runtime = Runtime.temporary(tmp_path)
    loaded = ppo.load_reward(inputs, runtime)
    critic = ppo_models.start_critic(PPOConfig(**SMALL), inputs, loaded, policy, load_tokenizer(folders[0]), runtime)
    assert not critic(torch.tensor([[1, 2, 3]]), torch.ones(1, 3).long()).any()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A reward model with as many tokens as the policy, but other ones, and a chat template of its own."""
    tokenizer = train_tokenizer([prompt.messages[0].content for prompt in PROMPTS], 260)
    ensure_chat_template(tokenizer)
    reward = reward_model_from(tiny_model("llama", seed=3, vocab_size=len(tokenizer)), seed=1)
    return saved(reward, tokenizer, tmp_path_factory.mktemp("foreign"))


def test_a_reward_model_of_another_tokenizer_reads_the_text(folders, foreign, tmp_path, monkeypatch):
    samples = []
    plain = RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda self, given: samples.extend(given) or plain(self, given))
    run((folders[0], foreign), tmp_path, steps=1)
    reward, seen = RewardModel(foreign), samples[: SMALL["rollouts_per_step"]]
    tokenizer = reward.tokenizer
    rows = [
        render_prompt(tokenizer, one.prompt.messages)
        + encode_text(tokenizer, one.response)
        + [tokenizer.eos_token_id] * one.finished
        for one in seen
    ]
    assert {one.finished for one in seen} == {True, False}
    expected = score_rows(reward.model, rows, reward.pad_id).mean().item()
    assert recorded(tmp_path)[0]["score"] == pytest.approx(expected, rel=1e-4)


def test_a_critic_starts_from_no_reward_model_of_another_tokenizer(folders, foreign, tmp_path):
    policy, tokenizer, runtime = load_causal_lm(folders[0]), load_tokenizer(folders[0]), Runtime.temporary(tmp_path)
    own = RewardModel(folders[1])

    def start(*rewards):
        inputs = PPOInputs(folders[0], [(reward, 1.0) for reward in rewards], PROMPTS)
        return ppo_models.start_critic(
            PPOConfig(**SMALL), inputs, ppo.load_reward(inputs, runtime), policy, tokenizer, runtime
        ).model

    alone, beside = start(RewardModel(foreign)), start(RewardModel(foreign), own)
    assert torch.equal(alone.model.embed_tokens.weight, policy.model.embed_tokens.weight)
    assert not alone.score.weight.any()
    assert torch.equal(beside.score.weight, own.model.score.weight)


def test_a_critic_that_is_named_must_read_the_policys_tokens(folders, foreign, tmp_path):
    policy, tokenizer, runtime = load_causal_lm(folders[0]), load_tokenizer(folders[0]), Runtime.temporary(tmp_path)
    reward = ppo.load_reward(PPOInputs(folders[0], callable_reward(length_of), PROMPTS), runtime)

    def start(critic):
        inputs = PPOInputs(folders[0], callable_reward(length_of), PROMPTS, critic=critic)
        return ppo_models.start_critic(PPOConfig(**SMALL), inputs, reward, policy, tokenizer, runtime).model

    assert torch.equal(start(folders[1]).score.weight, load_reward_model(folders[1]).score.weight)
    with pytest.raises(ConfigError, match=r"ppo.critic = .* has another tokenizer or chat template than the policy"):
        start(foreign)


def test_the_critic_gets_a_row_for_the_policys_padding(folders, tmp_path):
    tokenizer = tiny_tokenizer(pad=False)
    reward = RewardModel(reward_model_from(tiny_model("llama", vocab_size=len(tokenizer)), seed=1), tokenizer)
    policy = saved(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer, tmp_path / "policy")
    run((policy, None), tmp_path / "run", reward=[(reward, 1.0)], steps=1)
    assert len(weights(tmp_path / "run", "critic")["model.embed_tokens.weight"]) == len(tokenizer) + 1


def test_several_rewards_are_weighted_and_reported(folders, tmp_path):
    model = RewardModel(load_reward_model(folders[1]), load_tokenizer(folders[1]))
    run(folders, tmp_path, reward=[(model, 1.0), (CallableReward(length_of, "length"), -0.5)], steps=1)
    line = recorded(tmp_path)[0]
    parts = {name: value for name, value in line.items() if name.startswith("score_") and name != "score_std"}
    assert len(parts) == 2 and "score_length" in parts


# ---- self-checks


def test_a_sampler_at_another_temperature_is_caught(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "SamplingConfig", lambda **kw: SamplingConfig(**(kw | {"temperature": 0.8})))
    with pytest.raises(CheckError, match="is not 0"):
        run(folders, tmp_path)
    monkeypatch.setattr(ppo_checks, "check_reference_is_policy", lambda *args: None)
    with pytest.raises(CheckError, match="step 0.*ratio is not 1.*temperature"):
        run(folders, tmp_path / "ratio")


def test_a_policy_that_changes_between_sampling_and_learning_is_caught(folders, tmp_path):
    learner, engine, prompts = make_learner(folders, tmp_path)
    episodes = sample(engine, prompts + prompts[:3], seed=0)
    with torch.no_grad():
        learner.policy.lm_head.weight.mul_(1.05)
    experience, _ = with_advantages(episodes, learner.observe(episodes), (torch.ones(8), None), 0.1, learner.config)
    with pytest.raises(CheckError, match="ratio is not 1"):
        learner.update(experience, 7, int)


def test_a_reference_that_is_not_the_policy_is_caught(folders, tmp_path, monkeypatch):
    make = ppo.make_learner

    def with_another_reference(*args):
        learner = make(*args)
        with torch.no_grad():
            learner.reference.lm_head.weight.mul_(1.02)
        return learner

    monkeypatch.setattr(ppo, "make_learner", with_another_reference)
    with pytest.raises(CheckError, match=r"KL\(policy \|\| reference\) is not 0"):
        run(folders, tmp_path)


def test_a_critic_that_sees_its_padding_is_caught(folders, tmp_path, monkeypatch):
    plain = PPOLearner.response_values
    monkeypatch.setattr(
        PPOLearner, "response_values", lambda self, episodes: plain(self, episodes) + 0.01 * episodes.ids.shape[1]
    )
    with pytest.raises(CheckError, match="the critic is not invariant to padding"):
        run(folders, tmp_path)


def test_a_policy_that_sees_its_padding_is_caught(folders, tmp_path, monkeypatch):
    plain = PPOLearner.response_logprobs
    monkeypatch.setattr(
        PPOLearner, "response_logprobs", lambda self, episodes: plain(self, episodes) + 0.01 * episodes.ids[0, -1]
    )
    with pytest.raises(CheckError, match="the policy is not invariant to padding"):
        run(folders, tmp_path)


def test_a_reward_model_that_sees_its_padding_is_caught(folders, tmp_path, monkeypatch):
    plain = RewardModel.score

    def score(self, samples):
        scores = plain(self, samples)
        return scores._replace(total=scores.total + 0.1 * max(len(sample.response_ids) for sample in samples))

    monkeypatch.setattr(RewardModel, "score", score)
    with pytest.raises(CheckError, match="the reward model .* is not invariant to padding"):
        run(folders, tmp_path)


def test_a_reward_that_says_the_same_of_everything_is_caught(folders, tmp_path):
    model = load_reward_model(folders[1])
    with torch.no_grad():
        model.score.weight.zero_()
    reward = [(RewardModel(model, load_tokenizer(folders[1])), 1.0)]
    with pytest.raises(CheckError, match="gives the same score, 0, to all 8 responses"):
        run(folders, tmp_path, reward=reward)


def test_a_reward_that_is_not_a_number_is_caught(folders, tmp_path):
    def broken(prompts, responses):
        return [math.nan, *length_of(prompts[1:], responses[1:])]

    with pytest.raises((CheckError, DataError), match="nan|finite"):
        run(folders, tmp_path, reward=callable_reward(broken))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_led_there(folders, tmp_path):
    calls = []

    def explodes(prompts, responses):
        calls.append(1)
        huge = 1e30 if len(calls) == 4 else 1.0
        return [huge * length for length in length_of(prompts, responses)]

    with pytest.raises(CheckError, match="step 3: the loss or its gradient is not finite") as error:
        run(folders, tmp_path, reward=callable_reward(explodes), steps=6, whiten_advantages=False)
    folder = tmp_path / "scratch" / "non-finite-step-3"
    assert str(folder) in str(error.value)
    batch = safetensors.torch.load_file(folder / "batch.safetensors")
    assert batch["returns"].abs().max() > 1e28 and {"ids", "mask", "advantages", "values"} <= set(batch)
    state = safetensors.torch.load_file(folder / "state.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())
    run(
        folders, tmp_path, reward=callable_reward(length_of), steps=6, whiten_advantages=False
    )  # the checkpoint is whole
    assert [line["step"] for line in recorded(tmp_path)] == [1, 2, 3, 4, 5, 6]


# ---- bad input


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            dict(rollouts_per_step=10, minibatch_size=4),
            "rollouts_per_step = 10 is not a multiple of minibatch_size = 4",
        ),
        (dict(microbatch_size=8, microbatch_tokens=99), "both say what is computed at once"),
        (dict(precision="float32", importance_cap=3.0), "importance_cap has no effect with precision = float32"),
        (dict(precision="bfloat16", importance_cap=0.5), "greater than or equal to 1"),
        (dict(microbatch_size=5), "minibatch_size = 64 is not a multiple of microbatch_size = 5"),
        (dict(kl_target=3.0), "kl_target has no effect on a fixed coefficient"),
        (dict(kl_horizon=300), "kl_horizon has no effect on a fixed coefficient"),
        (dict(kl_controller="adaptive"), "needs kl_target"),
        (dict(kl_penalty="none", kl_coef=0.1), "kl_coef has no effect with kl_penalty = none"),
        (dict(kl_penalty="none", reference="start"), "reference has no effect with kl_penalty = none and no max_kl"),
        (dict(kl_penalty="none", kl_estimator="k3"), "kl_estimator has no effect with kl_penalty = none"),
        (dict(kl_penalty="none", kl_controller="adaptive", kl_target=3.0), "has no effect with kl_penalty = none"),
        (dict(kl_coef=0.0), "say so with kl_penalty = none"),
        (dict(kl_estimator="exact"), "set kl_penalty = loss"),
        (dict(kl_penalty="loss"), "k1 has an expected gradient of zero"),
        (dict(kl_controller="adaptive", kl_target=3.0, max_kl=2.0), "max_kl = 2 is not above kl_target = 3"),
        (
            dict(kl_controller="adaptive", kl_target=3.0, steps=2, rollouts_per_step=64, kl_horizon=2_000),
            "moves kl_coef by 0.6% at the most with kl_horizon = 2000, steps = 2 and rollouts_per_step = 64",
        ),
        (dict(max_new_tokens=1, gamma=0.9), "gamma has no effect with max_new_tokens = 1"),
        (dict(max_new_tokens=1, lam=1.0), "lam has no effect with max_new_tokens = 1"),
        (dict(epochs_per_batch=1, minibatch_size=512, clip_range=0.1), "clip_range has no effect with one epoch"),
        (dict(epochs_per_batch=1, minibatch_size=512, value_clip_range=0.1), "value_clip_range has no effect"),
        (dict(steps=10, warmup_steps=10), "warmup_steps = 10 leaves nothing"),
        (dict(held_out_prompts=8), "held_out_prompts has no effect without eval_steps"),
        (dict(muon_learning_rate=0.1), "muon_learning_rate has no effect with optimizer = adamw"),
        (dict(critic_muon_learning_rate=0.1), "critic_muon_learning_rate has no effect with optimizer = adamw"),
        (dict(optimizer="muon", critic_muon_learning_rate=0.1), "optimizer = muon needs muon_learning_rate"),
        (dict(optimizer="muon", muon_learning_rate=0.1), "optimizer = muon needs critic_muon_learning_rate"),
        (dict(trainable={"mode": "lora", "lora": {"dropout": 0.1}}), "dropout = 0.1 has no effect in PPO"),
        (dict(trainable={"mode": "all", "layers": 2}), "layers"),
        (dict(clip_range=1.5), "clip_range"),
        (dict(temperature=0.0), "temperature"),
        (dict(lam=1.2), "lam"),
        (dict(cliprange=0.1), "cliprange"),
        (dict(prompts="p.jsonl", opening_tokens=8), "opening_tokens has no effect beside prompts"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(settings, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        PPOConfig(**settings)


def test_defaults_and_a_resolved_dump_are_accepted():
    assert PPOConfig.model_validate(PPOConfig().model_dump(), context={"resolved": True}) == PPOConfig()
    assert PPOConfig(max_new_tokens=1).lam == 0.95  # a default, which nobody wrote
    assert PPOConfig(kl_controller="adaptive", kl_target=3.0, steps=3, rollouts_per_step=64, kl_horizon=2_000)
    assert PPOConfig().clip_range == 0.2 and PPOConfig().missing_eos_penalty == 1.0


def test_prompts_that_cannot_be_used_are_named(folders, tmp_path):
    long = Prompt.user("too-long", "x" * 60)
    with pytest.raises(DataError, match="'too-long' has 6. tokens.*context of 64"):
        run(folders, tmp_path / "long", prompts=[*PROMPTS, long])
    with pytest.raises(DataError, match="no prompts"):
        run(folders, tmp_path / "none", prompts=[])
    with pytest.raises(DataError, match="no such file"):
        run(folders, tmp_path / "missing", prompts=tmp_path / "prompts.jsonl")


def test_what_neither_a_stage_nor_a_path_gives_is_named(tmp_path):
    with pytest.raises(ConfigError, match="ppo has no policy"):
        ppo.bind(PPOConfig(), {})
    inputs = ppo.bind(PPOConfig(policy=tmp_path, reward=tmp_path, prompts=tmp_path), {})
    assert inputs == PPOInputs(tmp_path, tmp_path, tmp_path)
    sft = Artifact(tmp_path, Manifest.model_construct(kind="sft", files={"model/config.json": ""}))
    assert ppo.bind(PPOConfig(reward=tmp_path, prompts=tmp_path), {"policy": sft}).policy == tmp_path / "model"
    with pytest.raises(ConfigError, match="contradicts the stage sft"):
        ppo.bind(PPOConfig(policy=tmp_path, reward=tmp_path, prompts=tmp_path), {"policy": sft})


def test_openings_of_the_text_that_was_trained_on_are_prompts(folders, tmp_path):
    write_records(
        tmp_path / "text.jsonl.gz", [{"text": text} for text in ("once upon a time", "short", "in a land far")]
    )
    paths = dict(policy=folders[0], reward=folders[1])
    pretrain = Artifact(tmp_path, Manifest.model_construct(name="pretrain", files={"text.jsonl.gz": ""}))
    config = PPOConfig(**SMALL, **paths, opening_tokens=8)
    inputs = ppo.bind(config, {"text": pretrain})
    assert inputs == PPOInputs(*folders, texts=tmp_path / "text.jsonl.gz")
    tasks = ppo.load_prompts(config, inputs, tiny_tokenizer(), load_causal_lm(folders[0]))
    assert [task.prompt.messages[0].content for task in tasks] == ["once upo", "in a lan"]
    ppo.run(config, inputs, Runtime.temporary(tmp_path / "run", stage="ppo", seed=0))

    assert ppo.bind(PPOConfig(**paths, prompts=tmp_path), {"text": pretrain}).texts is None
    world = Artifact(tmp_path, Manifest.model_construct(name="world", files={"prompts_train.jsonl": ""}))
    assert ppo.bind(PPOConfig(**paths), {"text": pretrain, "world": world}).texts is None
    with pytest.raises(ConfigError, match="opening_tokens has no effect where prompts are given"):
        run(folders, tmp_path / "a", opening_tokens=8)
    with pytest.raises(ConfigError, match="opening_tokens = 99: no document"):
        ppo.load_prompts(PPOConfig(opening_tokens=99), inputs, tiny_tokenizer(), load_causal_lm(folders[0]))


# ---- the page that explains it


def test_every_function_and_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "ppo.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and ".py`" in line]
    assert len(rows) >= 25
    for row in rows:
        *_, ours, test, _ = row.split("|")
        for cell, folder in ((ours, ROOT / "loopwright"), (test, ROOT / "tests")):
            path = re.search(r"`([\w/]+\.py)`", cell)
            names = [name for name in re.findall(r"`([\w.]+)`", cell) if not name.endswith(".py")]
            assert path and names, row
            source = (folder / path[1]).read_text()
            for name in names:
                assert re.search(rf"\b(def|class) {name}\b|^ *{name}\b *[:=]", source, re.M), (
                    f"{name} is not in {path[1]}"
                )
