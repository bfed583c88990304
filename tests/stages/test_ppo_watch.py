"""The watch inside the PPO stage. Its rule is tested in tests/training/test_ppo_watch.py."""

import json
import math
import re
import shutil

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from loopwright.errors import ConfigError
from loopwright.models.heads import head_of, reward_model_from
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.rewards import CallableReward, Scores
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages import ppo
from loopwright.stages.ppo import PPOConfig, PPOInputs
from tests.tiny import saved, tiny_model, tiny_tokenizer

PROMPTS = [Prompt.user(f"p{i}", f"say {i}") for i in range(32)]
PEAK = 4.2  # printable letters: beyond so many the held-out reward falls
SETTINGS = dict(
    steps=14, rollouts_per_step=16, minibatch_size=8, epochs_per_batch=2, max_new_tokens=8, learning_rate=1e-2,
    critic_learning_rate=1e-2, schedule="constant", kl_penalty="none", missing_eos_penalty=0.0, save_steps=3,
    held_out_prompts=12,
)  # fmt: skip
RULE = dict(every_steps=1, patience=2, standard_errors=1.0, stall_looks=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy that ends its responses early, late and never."""
    tokenizer, policy = tiny_tokenizer(), tiny_model("llama")
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_token_id] *= 3.0
    return saved(policy, tokenizer, tmp_path_factory.mktemp("models") / "policy")


def letters(response):
    return sum(letter.isascii() and letter.isprintable() for letter in response)


def likes_many(prompts, responses):
    return [float(letters(response)) for response in responses]


def likes_some(prompts, responses):
    """Agrees with the other up to the peak."""
    return [-((letters(response) - PEAK) ** 2) for response in responses]


def letters_of(prompts, responses):
    return [math.sqrt(letters(response)) for response in responses]


def run(folder, out, *, watch=RULE, reward=likes_many, held_out=likes_some, **settings):
    runtime = Runtime.temporary(out, stage="ppo")
    heard = []
    runtime.log = heard.append
    rewards = [] if held_out is None else [CallableReward(held_out, "held out")]
    inputs = PPOInputs(folder, [(CallableReward(reward, "test"), 1.0)], PROMPTS, held_out_rewards=rewards)
    metrics = ppo.run(PPOConfig(**(SETTINGS | settings), watch=watch), inputs, runtime).metrics
    return metrics, heard


def recorded(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "stage")} for line in lines]


def looks(out):
    return {line["step"]: line for line in recorded(out) if "watch_held_out" in line}


def weights(out, part="model"):
    return safetensors.torch.load_file(out / "output" / part / "model.safetensors")


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def policy_after(folder, out, steps):
    """The policy of a run without a watch after so many steps, on the same prompts."""
    runtime = Runtime.temporary(out / "split", stage="ppo")
    config = PPOConfig(**SETTINGS, watch=RULE)
    tasks = ppo.load_prompts(config, PPOInputs(folder, (), PROMPTS), load_tokenizer(folder), load_causal_lm(folder))
    train, _ = ppo.hold_out(tasks, config, runtime)
    inputs = PPOInputs(folder, [(CallableReward(likes_many, "test"), 1.0)], [task.prompt for task in train])
    settings = {name: value for name, value in SETTINGS.items() if name != "held_out_prompts"} | {"steps": steps}
    ppo.run(PPOConfig(**settings), inputs, Runtime.temporary(out, stage="ppo"))
    return weights(out)


def test_it_stops_where_the_rewards_part_and_saves_the_best_policy(folder, tmp_path):
    metrics, heard = run(folder, tmp_path / "watched")
    watch, seen = metrics["watch"], looks(tmp_path / "watched")
    stop, best = watch["stopped_at"], watch["rolled_back_to"]
    assert best is not None and best + RULE["patience"] <= stop < SETTINGS["steps"]
    assert metrics["steps"] == stop and metrics["responses_sampled"] == stop * 16
    assert list(seen) == list(range(stop + 1))  # the policy that it starts from is looked at, too
    assert best == metrics["watch"]["best_step"] > 0
    assert seen[stop]["held_out_score"] > seen[best]["held_out_score"]
    assert seen[stop]["watch_held_out"] < seen[best]["watch_held_out"]
    assert all(look["watch_kl"] == look["held_out_kl"] for look in seen.values())
    assert seen[0]["watch_kl"] == pytest.approx(0.0, abs=1e-4) and seen[stop]["watch_kl"] > 0.1
    assert "watch_unsure" not in seen[0]  # a function does not say how sure it is
    assert [seen[step]["watch_parted"] for step in (best, stop - 1, stop)] == [0, 1, 2]
    assert f"since step {best}" in watch["reason"] and any(watch["reason"] in line for line in heard)
    assert any(line == f"step {stop}: training stops, back to step {best}" for line in heard)
    assert watch["saved"]["held_out_score"] == seen[best]["held_out_score"]
    expected = load_causal_lm(folder).state_dict() if best == 0 else policy_after(folder, tmp_path / "plain", best)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "watched").items())


def test_stopping_saves_the_last_policy_and_warning_goes_on_to_the_end(folder, tmp_path):
    stopped, _ = run(folder, tmp_path / "stop", watch=RULE | {"action": "stop"})
    stop = stopped["watch"]["stopped_at"]
    assert stopped["watch"]["rolled_back_to"] is None and stopped["watch"]["saved"] == {
        name: value for name, value in looks(tmp_path / "stop")[stop].items() if name != "step"
    }
    assert equal(weights(tmp_path / "stop"), policy_after(folder, tmp_path / "plain", stop))

    warned, heard = run(folder, tmp_path / "warn", watch=RULE | {"action": "warn"})
    assert warned["watch"]["stopped_at"] is None and warned["steps"] == SETTINGS["steps"]
    assert sum("held-out reward fell" in line for line in heard) == 1
    assert recorded(tmp_path / "warn")[: len(recorded(tmp_path / "stop"))] == recorded(tmp_path / "stop")
    assert equal(weights(tmp_path / "warn"), policy_after(folder, tmp_path / "free", SETTINGS["steps"]))


def test_rewards_that_agree_are_left_alone(folder, tmp_path):
    metrics, _ = run(folder, tmp_path, held_out=lambda prompts, responses: [math.sqrt(letters(r)) for r in responses])
    assert metrics["watch"]["stopped_at"] is None and metrics["steps"] == SETTINGS["steps"]


def test_scores_of_tokens_belong_to_what_the_watch_compares(folder, tmp_path):
    class OfTokens:
        """The same rewards, each on the first token of a response."""

        def __init__(self, fn, name):
            self.fn, self.name = fn, name

        def score(self, samples):
            found = torch.tensor(self.fn(None, [sample.response for sample in samples]))
            tokens = torch.zeros(len(samples), max(len(sample.response_ids) for sample in samples))
            tokens[:, 0] = found
            return Scores(torch.zeros(len(samples)), tokens)

    plain, _ = run(folder, tmp_path / "plain", steps=3)
    inputs = PPOInputs(
        folder, [(OfTokens(likes_many, "test"), 1.0)], PROMPTS, held_out_rewards=[OfTokens(likes_some, "held out")]
    )
    ppo.run(
        PPOConfig(**SETTINGS | {"steps": 3}, watch=RULE), inputs, Runtime.temporary(tmp_path / "tokens", stage="ppo")
    )
    first, ours = looks(tmp_path / "plain")[0], looks(tmp_path / "tokens")
    assert ours[0] == pytest.approx(first) and ours[3]["watch_proxy"] != 0 and ours[3]["watch_held_out"] != 0


def test_a_multiplier_that_moves_does_not_move_what_the_watch_compares(folder, tmp_path):
    """A policy that stands still, and a price that climbs: the proxy is the same at every look."""
    rewards = [(CallableReward(likes_many, "many"), 1.0), (CallableReward(likes_some, "some"), 1.0)]
    merge = dict(rule="constraint", helpful="many", safe="some", limit=-50.0, multiplier_learning_rate=5.0)
    config = PPOConfig(**SETTINGS | {"steps": 3, "learning_rate": 1e-12}, watch=RULE, merge=merge)
    held_out = [CallableReward(letters_of, "held out")]
    inputs = PPOInputs(folder, rewards, PROMPTS, held_out_rewards=held_out)
    ppo.run(config, inputs, Runtime.temporary(tmp_path, stage="ppo"))
    seen = list(looks(tmp_path).values())
    assert seen[0]["held_out_score"] != seen[-1]["held_out_score"]  # under the price of its step
    assert {look["watch_proxy"] for look in seen} == {seen[0]["watch_proxy"]}


def test_drift_is_told_in_numbers_and_changes_nothing(folder, tmp_path):
    """The reward has two heads; what each look says of the policy is in the log once, and training is as without."""

    class TwoHeads:
        name = "test"

        def score(self, samples):
            found = torch.tensor(likes_many(None, [sample.response for sample in samples]))
            return Scores(found, std=0.5 + found)

    def watched(out, **bounds):
        runtime, heard = Runtime.temporary(out, stage="ppo"), []
        runtime.log = heard.append
        held_out = [CallableReward(letters_of, "held out")]
        inputs = PPOInputs(folder, [(TwoHeads(), 1.0)], PROMPTS, held_out_rewards=held_out)
        ppo.run(PPOConfig(**SETTINGS | {"steps": 3}, watch=RULE | bounds), inputs, runtime)
        return looks(out), heard

    loose = dict(max_kl=1e9, max_length_ratio=1e9, max_spread_ratio=1e9, max_repetition_rise=1.0)
    seen, heard = watched(tmp_path / "loose", **loose)
    assert not [line for line in heard if "nats of KL" in line or "differ by" in line]
    tight, told = watched(tmp_path / "tight", **loose | dict(max_kl=1e-3, max_spread_ratio=1.0001))
    assert tight == seen and equal(weights(tmp_path / "loose"), weights(tmp_path / "tight"))
    step = next(step for step, look in seen.items() if look["watch_kl"] > 1e-3)
    kl = f"step {step}: the policy is {seen[step]['watch_kl']:.1f} nats of KL from the reference, more than 0.001"
    assert told.count(kl) == sum("nats of KL" in line for line in told) == 1
    start = seen[0]["watch_unsure"]
    assert start > 0
    step = next(step for step, look in seen.items() if look["watch_unsure"] > 1.0001 * start)
    now = seen[step]["watch_unsure"]
    assert f"step {step}: the members of the reward differ by {now:.2f} on a response, {start:.2f} at the start" in told


# ---- killed and resumed


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return run(folder, out)[0], out


@pytest.mark.parametrize(("call", "save_steps"), [(1, 3), (5, 3), (6, 1), (10, 3), (13, 3)])
def test_a_killed_run_ends_like_one_that_was_not(folder, whole, tmp_path, call, save_steps):
    """Killed at any look: before a best policy is kept, between one and the next, and after the last checkpoint."""
    expected, reference = whole
    calls = []

    def dying(prompts, responses):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return likes_some(prompts, responses)

    assert call <= expected["watch"]["stopped_at"] + 1
    with pytest.raises(Killed):
        run(folder, tmp_path, held_out=dying, save_steps=save_steps)
    assert run(folder, tmp_path, save_steps=save_steps)[0] == expected
    assert recorded(tmp_path) == recorded(reference)
    assert equal(weights(tmp_path), weights(reference)) and equal(
        weights(tmp_path, "critic"), weights(reference, "critic")
    )


def test_killed_after_it_stopped_it_does_not_learn_on(folder, whole, tmp_path, monkeypatch):
    expected, reference = whole
    with monkeypatch.context() as patched:
        patched.setattr(ppo, "save_model", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder, tmp_path)
    shutil.rmtree(tmp_path / "output")
    assert run(folder, tmp_path)[0] == expected
    assert recorded(tmp_path) == recorded(reference) and equal(weights(tmp_path), weights(reference))


# ---- bad input


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_held_out_reward_model_that_is_the_proxy_is_refused(folder, tmp_path, precision):
    proxy = reward_model_from(load_causal_lm(folder), seed=1)
    paths = [saved(proxy, load_tokenizer(folder), tmp_path / name) for name in ("proxy", "copy")]
    with torch.no_grad():
        head_of(proxy).weight[0, 0] += 0.1
    other = saved(proxy, load_tokenizer(folder), tmp_path / "other")

    def with_watch(path, out):
        config = PPOConfig(**SETTINGS | {"steps": 2}, precision=precision, watch={"reward": path, "every_steps": 1})
        return ppo.run(config, PPOInputs(folder, paths[0], PROMPTS), Runtime.temporary(tmp_path / out, stage="ppo"))

    with pytest.raises(ConfigError, match="copy is the reward that the policy is trained on"):
        with_watch(paths[1], "refused")
    assert with_watch(other, "taken").metrics["watch"]["saved"]["watch_held_out"] is not None
    with pytest.raises(ConfigError, match="is the reward that the policy is trained on"):
        run(folder, tmp_path / "functions", held_out=likes_many)


def test_what_the_watch_looks_with_is_given_one_way(folder, tmp_path):
    with pytest.raises(ConfigError, match="ppo.watch has no reward"):
        run(folder, tmp_path / "none", held_out=None)
    with pytest.raises(ConfigError, match="contradicts the held-out rewards given"):
        run(folder, tmp_path / "both", watch=RULE | {"reward": folder})
    with pytest.raises(ConfigError, match="have no effect without ppo.watch"):
        run(folder, tmp_path / "unwatched", watch=None, eval_steps=1)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(watch={}, eval_steps=5), "eval_steps has no effect beside watch"),
        (dict(watch={"every_steps": 10}, steps=10), "1 looks in steps = 10, fewer than watch.patience = 2"),
        (
            dict(watch={"every_steps": 5, "stall_looks": 3}, steps=10),
            "watch.stall_looks = 3 has no effect with 2 looks",
        ),
        (dict(held_out_prompts=8), "held_out_prompts has no effect without eval_steps or watch"),
        (dict(watch={"evry_steps": 10}), "evry_steps"),
        (dict(watch={"reward": "a", "stage": "reward_b"}), "reward = a contradicts stage = reward_b"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(settings, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        PPOConfig(**settings)


def test_the_held_out_model_belongs_to_the_artifacts_key(tmp_path):
    config = PPOConfig(watch={"reward": [tmp_path / "a", tmp_path / "b"]})
    assert ppo.STAGE.files(config) == [tmp_path / "a", tmp_path / "b"]
