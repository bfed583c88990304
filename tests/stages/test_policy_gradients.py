"""RLOO, GRPO and REINFORCE++: PPO's stage with other advantages, and without a critic."""

import json
import math
import re

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch.testing import assert_close

import loopwright
from loopwright.data.chat import render_prompt
from loopwright.errors import ConfigError
from loopwright.generation.base import SamplingConfig
from loopwright.generation.engines import make_engine
from loopwright.loop import config_from
from loopwright.loop.plan import make_plan
from loopwright.models.heads import reward_model_from
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.models.tokens import forbidden_token_ids
from loopwright.rewards import CallableReward
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages import ppo, ppo_models
from loopwright.stages.ppo import PPOConfig, PPOInputs
from loopwright.stages.ppo_config import GRPOConfig, ReinforcePlusPlusConfig, RLOOConfig
from loopwright.training.ppo_batch import Episodes, with_advantages
from loopwright.training.ppo_figures import Totals
from loopwright.training.ppo_learner import PPOLearner
from tests.letters import distribution
from tests.stages.test_ppo_learns import PROMPT, optimum, random_scores, reward_and_kl, start  # noqa: F401
from tests.tiny import saved, tiny_model, tiny_tokenizer

CONFIGS = {"rloo": RLOOConfig, "grpo": GRPOConfig, "reinforce_plus_plus": ReinforcePlusPlusConfig}
EACH = pytest.mark.parametrize("stage", CONFIGS)
PROMPTS = [Prompt.user(f"p{i}", text) for i, text in enumerate(["abc", "a", "hello there", "what is it", "zz?"])]
SMALL = dict(
    steps=3, rollouts_per_step=8, samples_per_prompt=4, minibatch_size=4, epochs_per_batch=2, max_new_tokens=6,
    learning_rate=1e-3, save_steps=2,
)  # fmt: skip
LENGTH = [(CallableReward(lambda prompts, responses: [float(len(r)) for r in responses], "length"), 1.0)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy whose responses end early, late and never."""
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 3.0
    return saved(model, tokenizer, tmp_path_factory.mktemp("models") / "policy")


def run(stage, policy, folder, *, reward=None, prompts=PROMPTS, ptx_text=None, **settings):
    runtime = Runtime.temporary(folder, stage=stage, seed=0)
    inputs = PPOInputs(policy, reward or LENGTH, prompts, ptx_text=ptx_text)
    return ppo.run(CONFIGS[stage](**(SMALL | settings)), inputs, runtime)


def recorded(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "stage")} for line in lines]


def weights(folder):
    return safetensors.torch.load_file(folder / "output" / "model" / "model.safetensors")


# ---- the whole update against the papers, with loops over prompts, responses and tokens


def make_learner(stage, policy, folder, **settings):
    config = CONFIGS[stage](**(SMALL | dict(minibatch_size=8, epochs_per_batch=1, max_grad_norm=None) | settings))
    model, tokenizer = load_causal_lm(policy), load_tokenizer(policy)
    forbidden = forbidden_token_ids(tokenizer, model.config.vocab_size)
    return PPOLearner(model, None, forbidden, config, seed=0, scratch=folder)


def sampled(learner, policy):
    """Four responses of several lengths to each of two prompts, by a policy that has moved since, and their scores."""
    tokenizer = load_tokenizer(policy)
    prompts = [render_prompt(tokenizer, prompt.messages) for prompt in PROMPTS[1:3] for _ in range(4)]
    engine = make_engine(learner.policy, tokenizer, print)
    rollouts = engine.generate(prompts, SamplingConfig(max_new_tokens=6), list(range(8)))
    episodes = Episodes.of(rollouts, torch.device("cpu"))
    mask = episodes.mask & (torch.arange(6) < torch.tensor([6, 3, 1, 5, 2, 6, 4, 6])[:, None])
    episodes = episodes._replace(mask=mask, finished=torch.tensor([True, True, False, True] * 2))
    noise = 0.3 * torch.randn(episodes.logprobs.shape, generator=torch.Generator().manual_seed(1))
    return episodes._replace(logprobs=episodes.logprobs + noise), torch.arange(8.0) * torch.tensor([1.0, -0.4] * 4)


def gradient(learner, episodes, scores):
    """The loss of one minibatch of all episodes, and the gradient that the optimizer gets."""
    observed = learner.observe(learner.prepare(episodes))
    kl_coef = learner.controller.coefficient
    experience, _ = with_advantages(episodes, observed, (scores, None), kl_coef, learner.config)
    found, step = {}, learner.policy_optimizers.step

    def look(factor):
        found.update({name: p.grad.clone() for name, p in learner.policy.named_parameters()})
        step(factor)

    learner.policy_optimizers.step, totals = look, Totals()
    learner._minibatch(experience, None, totals, 0, check_ratio=False)
    return totals.means()["loss"], found


def logprobs_by_transformers(model, episodes, row, forbidden):
    first, length = int(episodes.prompt_lengths[row]), int(episodes.mask[row].sum())
    ids = episodes.ids[row, : first + length]
    logits = model(ids[None]).logits[0].index_fill(1, forbidden, -torch.inf)
    found = logits.log_softmax(-1)
    return [found[place - 1, ids[place]] for place in range(first, first + length)]


def surrogate(new, old, advantage, clip):
    ratio = torch.exp(new - old)
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def objective_of_the_paper(stage, config, new, old, reference, scores, finished):
    """What is maximised. `new`, `old`, `reference`: log-probabilities, [response][token]."""
    beta, clip, n = config.kl_coef, config.clip_range, config.samples_per_prompt
    scores = [score - (0.0 if ended else 1.0) for score, ended in zip(scores.tolist(), finished.tolist(), strict=True)]
    groups = [list(range(first, first + n)) for first in range(0, len(scores), n)]
    kl = [[o - r for o, r in zip(old[i], reference[i], strict=True)] for i in range(len(scores))]
    if stage == "grpo":  # Shao et al. 2024, eq. 3 and 4
        whole = 0.0
        for group in groups:
            mean = sum(scores[i] for i in group) / n
            std = math.sqrt(sum((scores[i] - mean) ** 2 for i in group) / (n - 1)) + 1e-6
            for i in group:
                advantage, inner = (scores[i] - mean) / (std if config.divide_by_std else 1.0), 0.0
                for t, logprob in enumerate(new[i]):
                    away = reference[i][t] - logprob
                    k3 = torch.exp(away) - away - 1.0
                    inner = inner + surrogate(logprob, old[i][t], advantage, clip) - beta * k3
                budget = len(new[i]) if config.loss_aggregation == "response_mean" else config.max_new_tokens
                whole = whole + inner / budget
        return whole / len(scores)
    if stage == "rloo":  # Ahmadian et al. 2024: the response is one action, its reward has the KL in it
        rewards, whole = [scores[i] - beta * sum(kl[i]) for i in range(len(scores))], 0.0
        for group in groups:
            for i in group:
                baseline = sum(rewards[j] for j in group if j != i) / (n - 1)
                for t, logprob in enumerate(new[i]):
                    whole = whole + surrogate(logprob, old[i][t], rewards[i] - baseline, clip)
        return whole / len(scores) / config.max_new_tokens
    advantages = {}  # Hu 2025
    for group in groups:
        baseline = sum(scores[i] - beta * sum(kl[i]) for i in group) / n if config.group_baseline else 0.0
        for i in group:
            for t in range(len(new[i])):
                advantages[i, t] = scores[i] - beta * sum(kl[i][t:]) - baseline
    mean = sum(advantages.values()) / len(advantages)
    std = math.sqrt(sum((a - mean) ** 2 for a in advantages.values()) / len(advantages))
    terms = [surrogate(new[i][t], old[i][t], (a - mean) / std, clip) for (i, t), a in advantages.items()]
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("rloo", {}),
        ("grpo", {}),
        ("grpo", {"divide_by_std": False, "loss_aggregation": "response_sum"}),  # Dr. GRPO
        ("reinforce_plus_plus", {}),
        ("reinforce_plus_plus", {"group_baseline": True}),
    ],
    ids=["rloo", "grpo", "dr_grpo", "reinforce_plus_plus", "with_baseline"],
)
def test_an_update_is_the_papers(policy, tmp_path, stage, settings):
    learner = make_learner(stage, policy, tmp_path, microbatch_size=2, kl_coef=0.1, **settings)
    episodes, scores = sampled(learner, policy)
    reference = learner.observe(learner.prepare(episodes)).reference_logprobs.double()
    model = load_causal_lm(policy).double()
    forbidden = learner.sampled["forbidden"]
    new = [logprobs_by_transformers(model, episodes, row, forbidden) for row in range(8)]
    lengths = [len(row) for row in new]
    old, ref = (
        [row[:n] for row, n in zip(x.double().tolist(), lengths, strict=True)] for x in (episodes.logprobs, reference)
    )
    expected = -objective_of_the_paper(stage, learner.config, new, old, ref, scores, episodes.finished)
    expected.backward()
    loss, found = gradient(learner, episodes, scores)
    assert loss == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    for name, parameter in model.named_parameters():
        assert_close(found[name].double(), parameter.grad, rtol=1e-4, atol=2e-5, msg=name)


def test_on_policy_rloo_is_reinforce(policy, tmp_path):
    """Without a step in between, the gradient is that of -A log pi(response)."""
    learner = make_learner("rloo", policy, tmp_path, kl_penalty="none")
    episodes, scores = sampled(learner, policy)
    model = load_causal_lm(policy)
    new = [sum(logprobs_by_transformers(model, episodes, row, learner.sampled["forbidden"])) for row in range(8)]
    own = torch.zeros_like(episodes.logprobs)
    own[episodes.mask] = learner.response_logprobs(episodes)
    _, found = gradient(learner, episodes._replace(logprobs=own, finished=torch.ones(8).bool()), scores)
    groups = scores.view(2, 4)
    advantages = (groups - (groups.sum(1, keepdim=True) - groups) / 3).flatten()
    (-(advantages * torch.stack(new)).mean() / 6).backward()
    for name, parameter in model.named_parameters():
        assert_close(found[name], parameter.grad, rtol=1e-4, atol=2e-5, msg=name)


@EACH
def test_neither_the_order_of_groups_nor_padding_nor_microbatches_matter(policy, tmp_path, stage):
    results = []
    for microbatch, order, padding in ((8, [0, 1], 0), (1, [0, 1], 0), (4, [1, 0], 3)):
        learner = make_learner(stage, policy, tmp_path, microbatch_size=microbatch)
        episodes, scores = sampled(learner, policy)
        rows = torch.tensor([4 * group + place for group in order for place in range(4)])
        episodes = episodes.rows(rows)._replace(below=None)
        wider = {"ids": 7, "mask": False, "logprobs": math.nan}
        padded = {
            name: torch.nn.functional.pad(getattr(episodes, name), (0, padding), value=junk)
            for name, junk in wider.items()
        }
        results.append(gradient(learner, episodes._replace(**padded), scores[rows]))
    for loss, found in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-5)
        for name, value in results[0][1].items():
            assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_grpo_without_its_two_divisions_is_rloo_but_for_a_constant(policy, tmp_path):
    plain = dict(kl_penalty="none", loss_aggregation="response_sum")
    rloo, dr_grpo = (
        make_learner("rloo", policy, tmp_path, **plain),
        make_learner("grpo", policy, tmp_path, divide_by_std=False, **plain),
    )
    episodes, scores = sampled(rloo, policy)
    # Where nothing is clipped, three quarters: (n - 1) / n of n = 4.
    own = torch.zeros_like(episodes.logprobs)
    own[episodes.mask] = rloo.response_logprobs(episodes)
    episodes = episodes._replace(logprobs=own)
    (_, first), (_, second) = (gradient(learner, episodes, scores) for learner in (rloo, dr_grpo))
    for name, value in first.items():
        assert_close(second[name], 0.75 * value, rtol=1e-4, atol=1e-6, msg=name)


# ---- the stage


class Interrupted(BaseException):
    """Stands for a kill: nothing catches it."""


def dies_in_step(fatal_step):
    calls = []

    def length(prompts, responses):
        calls.append(1)
        if len(calls) == fatal_step:
            raise Interrupted
        return [float(len(response)) for response in responses]

    return [(CallableReward(length, "length"), 1.0)]


@EACH
def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(policy, tmp_path, stage):
    settings = dict(steps=4, kl_controller="adaptive", kl_target=0.5, kl_horizon=50)
    whole = run(stage, policy, tmp_path / "whole", reward=dies_in_step(None), **settings)
    with pytest.raises(Interrupted):
        run(stage, policy, tmp_path / "killed", reward=dies_in_step(4), **settings)
    assert run(stage, policy, tmp_path / "killed", reward=dies_in_step(None), **settings) == whole
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@EACH
def test_there_is_no_critic(policy, tmp_path, stage, monkeypatch):
    monkeypatch.setattr(ppo_models, "start_critic", lambda *args: pytest.fail("a critic was made"))
    states, plain = [], Runtime.checkpoint
    monkeypatch.setattr(
        Runtime, "checkpoint", lambda self, step, state: states.append(state) or plain(self, step, state)
    )
    # Not even of a reward model that could be one.
    reward = saved(reward_model_from(load_causal_lm(policy), seed=1), load_tokenizer(policy), tmp_path / "reward")
    inputs = PPOInputs(policy, reward, PROMPTS)
    ppo.run(CONFIGS[stage](**SMALL), inputs, Runtime.temporary(tmp_path / "run", stage=stage))
    assert {path.name for path in (tmp_path / "run" / "output").iterdir()} == {"model"}
    assert set(states[0]["learner"]) == {"policy", "policy_optimizers", "kl_controller"}
    figures = set(recorded(tmp_path / "run")[0])
    assert {"policy_loss", "policy_grad_norm", "kl", "equal_groups"} <= figures
    assert not {name for name in figures if re.search("critic|value|explained", name)}


def test_ppo_has_a_critic_and_its_relatives_have_none(policy, tmp_path):
    model = load_causal_lm(policy)
    with pytest.raises(ValueError, match="PPOConfig got no critic"):
        PPOLearner(model, None, torch.tensor([0]), PPOConfig(), seed=0, scratch=tmp_path)
    with pytest.raises(ValueError, match="RLOOConfig got a critic"):
        PPOLearner(model, reward_model_from(model, seed=0), torch.tensor([0]), RLOOConfig(), seed=0, scratch=tmp_path)


def test_each_prompt_of_a_step_is_answered_as_often_as_asked(policy, tmp_path):
    config = GRPOConfig(**SMALL)
    tokenizer = load_tokenizer(policy)
    tasks = ppo.load_prompts(config, PPOInputs(policy, LENGTH, PROMPTS), tokenizer, load_causal_lm(policy))
    runtime = Runtime.temporary(tmp_path)
    steps = [[task.prompt.id for task in ppo.tasks_of_step(tasks, step, config, runtime)] for step in range(5)]
    assert all(ids == [ids[0]] * 4 + [ids[4]] * 4 for ids in steps)
    assert sorted(ids[k] for ids in steps for k in (0, 4)) == sorted([prompt.id for prompt in PROMPTS] * 2)


def test_groups_of_equal_scores_are_counted(policy, tmp_path):
    learner = make_learner("grpo", policy, tmp_path)
    episodes, _ = sampled(learner, policy)
    observed = learner.observe(learner.prepare(episodes))
    scores = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    episodes = episodes._replace(finished=torch.ones(8).bool())
    experience, figures = with_advantages(episodes, observed, (scores, None), 0.0, learner.config)
    assert figures["equal_groups"] == 0.5
    assert not experience.advantages[:4].any() and experience.advantages[4:][episodes.mask[4:]].all()


def test_max_kl_leads_back_without_a_critic(policy, tmp_path):
    learner = make_learner("rloo", policy, tmp_path, max_kl=0.01)
    episodes, scores = sampled(learner, policy)
    episodes = episodes._replace(logprobs=episodes.logprobs + 1.0)
    experience, figures = with_advantages(episodes, learner.observe(episodes), (scores, None), 0.1, learner.config)
    assert figures["beyond_max_kl"] == 1.0
    kept = experience.advantages[episodes.mask]
    assert kept.mean().item() == pytest.approx(0, abs=1e-5) and kept.std(correction=0).item() == pytest.approx(
        1, abs=1e-3
    )


# ---- what is learned: two letters, every response listed

LEARNS = dict(
    steps=40, rollouts_per_step=128, minibatch_size=128, epochs_per_batch=1, samples_per_prompt=8, max_new_tokens=2,
    missing_eos_penalty=0.0, learning_rate=8e-3, schedule="cosine", save_steps=100,
)  # fmt: skip


def learned(stage, start, folder, responses, scores, **settings):  # noqa: F811
    table = dict(zip(responses, scores.tolist(), strict=True))
    reward = [(CallableReward(lambda prompts, sampled: [table[response] for response in sampled], "table"), 1.0)]
    run(stage, start, folder, reward=reward, prompts=[PROMPT], **(LEARNS | settings))
    return distribution(folder / "output" / "model", PROMPT, 2)[1]


@pytest.mark.parametrize("stage", ["rloo", "reinforce_plus_plus"])
def test_with_kl_in_the_reward_the_optimum_is_reached(start, tmp_path, stage):  # noqa: F811
    """pi* ~ pi_ref exp(r / beta): REINFORCE++ divides score and KL by one number, so its optimum is the same."""
    beta = 0.5
    responses, reference = distribution(start, PROMPT, 2)
    scores = random_scores(responses)
    reached = learned(stage, start, tmp_path, responses, scores, kl_coef=beta)
    best = reward_and_kl(optimum(reference, scores, beta), reference, scores)
    assert reward_and_kl(reached, reference, scores) == pytest.approx(best, rel=0.06)
    assert best[0] > reference.dot(scores).item() + 0.5


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("grpo", {}),
        ("grpo", {"divide_by_std": False, "loss_aggregation": "response_sum"}),
        ("reinforce_plus_plus", {"group_baseline": True}),
    ],
    ids=["grpo", "dr_grpo", "with_baseline"],
)
def test_a_toy_reward_is_learned(start, tmp_path, stage, settings):  # noqa: F811
    responses, reference = distribution(start, PROMPT, 2)
    scores = torch.tensor([float(response.count("a")) for response in responses]).double()
    reached = learned(stage, start, tmp_path, responses, scores, steps=20, **settings)
    assert reference.dot(scores) < 0.7
    assert reached.dot(scores) > 1.8  # of 2


# ---- settings


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("rloo", dict(samples_per_prompt=1), "samples_per_prompt = 1 leaves a response nothing to be compared with"),
        ("grpo", dict(samples_per_prompt=1), "samples_per_prompt = 1 leaves a response nothing to be compared with"),
        ("grpo", dict(samples_per_prompt=3), "rollouts_per_step = 512 is not a multiple of samples_per_prompt = 3"),
        ("reinforce_plus_plus", dict(group_baseline=True), "group_baseline needs several responses to a prompt"),
        ("grpo", dict(clip_range=0.1), "clip_range has no effect with one epoch of one minibatch"),
        ("grpo", dict(kl_penalty="none", kl_coef=0.1), "kl_coef has no effect with kl_penalty = none"),
        ("grpo", dict(kl_estimator="k1"), "k1 has an expected gradient of zero"),
        ("grpo", dict(ptx_rows=3), "ptx_rows has no effect with ptx_coef = 0"),
        ("rloo", dict(ptx_text="t.jsonl"), "ptx_text has no effect with ptx_coef = 0"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(stage, settings, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        CONFIGS[stage](**settings)


OF_THE_CRITIC = [name for name in PPOConfig.model_fields if re.search("critic|value|gamma|lam$|whiten", name)]


@EACH
def test_settings_of_a_critic_are_unknown(stage):
    assert len(OF_THE_CRITIC) == 9
    for name in [*OF_THE_CRITIC, *({"divide_by_std", "group_baseline"} - set(CONFIGS[stage].model_fields))]:
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            CONFIGS[stage](**{name: PPOConfig().model_dump().get(name)})


@EACH
def test_defaults_and_a_resolved_dump_are_accepted(stage):
    config = CONFIGS[stage]
    assert config.model_validate(config().model_dump(), context={"resolved": True}) == config()
    assert config().kl_penalty == ("loss" if stage == "grpo" else "reward")


def test_they_take_their_places_in_a_recipe(tmp_path):
    values = {"name": "x", "world": {}, "pretrain": {}, "sft": {}, "reward": {}, "feedback": {}}
    values |= {"grpo": {}, "rloo": {}, "ppo": {}, "reinforce_plus_plus": {}}
    steps = {step.name: step.parents for step in make_plan(config_from(values, "here")).steps}
    chain = ["sft", "rloo", "grpo", "reinforce_plus_plus", "ppo"]
    assert [steps[name]["policy"] for name in chain[1:]] == chain[:-1]
    assert all(steps[name]["reward"] == "reward" and steps[name]["text"] == "pretrain" for name in chain[1:])


@EACH
def test_errors_name_the_section(policy, tmp_path, stage):
    with pytest.raises(ConfigError, match=f"{stage} has no policy; add an sft section to the recipe, or set {stage}.p"):
        ppo.bind(CONFIGS[stage](), {})
    with pytest.raises(ConfigError, match=f"{stage}.held_out_prompts = 64, but only 5"):
        run(stage, policy, tmp_path, eval_steps=1)


@EACH
def test_a_model_in_memory_is_improved(stage):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    settings = SMALL | dict(steps=1)
    found = getattr(loopwright, stage)(model, tokenizer, ["abc", "what?"], LENGTH[0][0], **settings)
    assert found.metrics["responses_sampled"] == 8
    assert any(not torch.equal(p, q) for p, q in zip(found.model.parameters(), model.parameters(), strict=True))
    assert stage in getattr(loopwright, stage).__doc__
