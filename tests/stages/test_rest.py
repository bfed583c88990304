"""Reinforced self-training, on a policy whose every response can be listed."""

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from loopwright.data.readers import read_records
from loopwright.errors import DataError, RewardError
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.rewards import CallableReward
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import ScoredAnswer
from loopwright.stages import rejection, rest
from loopwright.stages.rejection import RejectionConfig, RejectionInputs
from loopwright.stages.rest import RestConfig
from loopwright.stages.sampled import SampledInputs
from loopwright.training.examples import fit_examples
from loopwright.training.selection import examples_of
from tests.letters import distribution, letters_model
from tests.stages.test_pretrain import Killed, figures, killed_after
from tests.stages.test_rejection import PROMPTS, REWARD, SMALL, failing_after, likes_a


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return letters_model(tmp_path_factory.mktemp("start"))


def run(start, folder, reward=REWARD, *, inside=None, **settings):
    runtime = Runtime.temporary(folder, stage="rest", seed=0)
    inputs = SampledInputs(start, [(reward, 1.0)], PROMPTS)
    return rest.run(RestConfig(**(SMALL | settings)), inputs, runtime if inside is None else inside(runtime)).metrics


def weights(folder):
    return safetensors.torch.load_file(folder / "output" / "model" / "model.safetensors")


def same_weights(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def samples(folder) -> list[ScoredAnswer]:
    return read_records(folder / "output" / "samples.jsonl", ScoredAnswer).records


def expected_reward(folder, prompts, tokens):
    """Mean over prompts, over every response there is."""
    total = 0.0
    for prompt in prompts:
        responses, policy = distribution(folder, prompt, tokens)
        total += policy.dot(torch.tensor(likes_a([], responses)).double()).item()
    return total / len(prompts)


def test_expert_iteration_of_one_round_is_rejection_sampling(start, tmp_path):
    run(start, tmp_path / "rest", select="best")
    inputs, config = RejectionInputs(start, [(REWARD, 1.0)], PROMPTS), RejectionConfig(**SMALL)
    rejection.run(config, inputs, Runtime.temporary(tmp_path / "rejection", stage="rest", seed=0))
    assert same_weights(tmp_path / "rest", tmp_path / "rejection")
    assert samples(tmp_path / "rest") == samples(tmp_path / "rejection")


def test_each_improve_step_learns_what_is_above_its_threshold(start, tmp_path):
    seen = []

    def remembers(prompts, responses):
        seen.append(likes_a(prompts, responses))
        return seen[-1]

    settings = dict(thresholds=(0.25, 0.5, 0.75), missing_eos_penalty=0.0, answers_at_once=10_000)
    metrics = run(start, tmp_path, CallableReward(remembers, "a"), **settings)
    _, grown, *_ = seen  # the first are answers to held-out prompts
    assert len(grown) == metrics["answers"]
    for step, share in zip(metrics["improvements"], (0.25, 0.5, 0.75), strict=True):
        assert step["threshold"] == np.quantile(grown, share)
        assert step["examples"] == sum(score >= step["threshold"] for score in grown)
    sizes = [step["examples"] for step in metrics["improvements"]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert sorted(one.score for one in samples(tmp_path)) == sorted(
        score for score in grown if score >= metrics["improvements"][-1]["threshold"]
    )


def test_a_threshold_below_everything_keeps_every_sample(start, tmp_path):
    metrics = run(start, tmp_path / "score", select="score", thresholds=(-1e9,))
    assert metrics["improvements"][0]["examples"] == metrics["answers"]
    run(start, tmp_path / "quantile", thresholds=(0.0,))
    assert same_weights(tmp_path / "score", tmp_path / "quantile")
    with pytest.raises(DataError, match="no answer scores 99 or more"):
        run(start, tmp_path / "none", select="score", thresholds=(99.0,))


def test_an_improve_step_goes_on_from_the_one_before_more_slowly(start, tmp_path):
    """Two improve steps are one, and then another whose start and learning rate are as they should be."""
    first = run(start, tmp_path / "one", thresholds=(0.25,))
    both = run(start, tmp_path / "two", thresholds=(0.25, 0.5), learning_rate_factor=0.5)
    assert both["improvements"][0] == first["improvements"][0]
    lines = [line for line in figures(tmp_path / "two") if "learning_rate" in line]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})  # counted on
    begins = next(line for line in lines if line["step"] > first["steps"])
    second_steps = both["improvements"][1]["steps"]
    done = begins["step"] - first["steps"]
    assert begins["learning_rate"] == pytest.approx(0.5 * SMALL["learning_rate"] * (1 - (done - 1) / second_steps))

    policy, runtime = load_causal_lm(tmp_path / "one" / "output" / "model"), Runtime.temporary(tmp_path / "by hand")
    config = RestConfig(**SMALL | {"learning_rate": 0.5 * SMALL["learning_rate"]})
    order_seed = Runtime.temporary(tmp_path / "x", stage="rest").seed_for("order", 1)
    learned = examples_of(samples(tmp_path / "two"))
    fit_examples(policy, learned, config, runtime, order_seed=order_seed, pad_id=load_tokenizer(start).pad_token_id)
    found = weights(tmp_path / "two")
    assert all(torch.equal(value, found[name]) for name, value in policy.state_dict().items() if name in found)


def test_muon_slows_down_as_adamw_does():
    config = RestConfig(optimizer="muon", muon_learning_rate=0.02, learning_rate=1e-3, learning_rate_factor=0.5)
    assert [rest.slower(config, improve).muon_learning_rate for improve in range(3)] == [0.02, 0.01, 0.005]
    assert [rest.slower(config, improve).learning_rate for improve in range(3)] == [1e-3, 5e-4, 2.5e-4]


def test_reward_rises_over_improve_and_grow_steps(start, tmp_path):
    """Expected reward over all responses, on prompts that were never learned."""
    settings = dict(max_new_tokens=2, learning_rate=1e-2, missing_eos_penalty=0.0, samples_per_prompt=8)
    prompts = PROMPTS[:8]
    before = expected_reward(start, prompts, 2)
    metrics = run(start, tmp_path / "once", thresholds=(0.5, 0.75), **settings)
    again = run(start, tmp_path / "twice", thresholds=(0.5, 0.75), grow_steps=2, **settings)
    once, twice = (expected_reward(tmp_path / name / "output" / "model", prompts, 2) for name in ("once", "twice"))
    assert before + 0.5 < once < twice
    assert metrics["held_out_gain_low"] > 0 and again["held_out_gain_low"] > 0
    assert again["improvements"][:2] == metrics["improvements"]
    grown = [step["threshold"] for step in again["improvements"]]
    assert grown[2] >= grown[0]  # the second set of answers is better than the first


def test_each_grow_step_samples_from_the_policy_as_it_is_then(start, tmp_path):
    """Expert iteration: the answers that a second round learns score higher than those of the first."""
    scores = []
    for rounds in (1, 2):
        run(start, tmp_path / str(rounds), select="best", grow_steps=rounds, learning_rate=1e-2, max_prompts=24)
        scores.append([one.score for one in samples(tmp_path / str(rounds))])
    assert sum(scores[1]) > sum(scores[0]) and len(scores[1]) == len(scores[0]) == 24
    asked = [{one.prompt.id for one in samples(tmp_path / str(rounds))} for rounds in (1, 2)]
    assert len(asked[0] & asked[1]) < 24  # other prompts in each


def test_a_killed_run_ends_as_an_undisturbed_one(start, tmp_path):
    settings = dict(grow_steps=2, thresholds=(0.5, 0.75), eval_steps=3, save_steps=3, max_prompts=20)
    expected = run(start, tmp_path / "whole", **settings)
    saved = []
    run(start, tmp_path / "counted", inside=lambda runtime: counting(runtime, saved), **settings)
    # In an improve step, at its end, between the grow steps, in the second, at the end.
    for crash in (1, 2, 3, 4, 6):
        with pytest.raises(Killed):
            run(start, tmp_path / str(crash), inside=lambda runtime, at=crash: killed_after(runtime, at), **settings)
        assert run(start, tmp_path / str(crash), **settings) == expected
        assert same_weights(tmp_path / str(crash), tmp_path / "whole")
        assert figures(tmp_path / str(crash)) == figures(tmp_path / "whole")
    assert len(saved) == 6


def counting(runtime, saved):
    save = runtime.checkpoint

    def checkpoint(step, state):
        save(step, state)
        saved.append(step)

    runtime.checkpoint = checkpoint
    return runtime


def test_a_run_killed_while_it_samples_ends_as_an_undisturbed_one(start, tmp_path):
    settings = dict(grow_steps=2, thresholds=(0.5,))
    expected = run(start, tmp_path / "whole", **settings)
    for calls in (2, 6):  # in the first grow step, and in the second
        folder = tmp_path / str(calls)
        with pytest.raises(RewardError, match="killed"):
            run(start, folder, failing_after(calls), **settings)
        assert run(start, folder, **settings) == expected
        assert same_weights(folder, tmp_path / "whole")
        assert figures(folder) == figures(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(thresholds=(0.5, 0.5)), "must rise"),
        (dict(thresholds=()), "must rise, at least one"),
        (dict(thresholds=(0.5, 1.0)), "are quantiles, from 0 to below 1; or set select: score"),
        (dict(select="best", thresholds=(0.5,)), "thresholds has no effect with select = best"),
        (dict(select="best", learning_rate_factor=0.5), "learning_rate_factor has no effect with select = best"),
        (dict(keep_per_prompt=2), "keep_per_prompt has no effect beside thresholds"),
        (dict(thresholds=(0.5,), learning_rate_factor=0.5), "learning_rate_factor has no effect on one threshold"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(settings, message):
    with pytest.raises(ValidationError, match=message):
        RestConfig(**settings)
