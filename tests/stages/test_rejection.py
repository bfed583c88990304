"""Rejection-sampling fine-tuning, on a policy whose every response can be listed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from loopwright.data.chat import Example
from loopwright.data.readers import read_records, write_records
from loopwright.errors import CheckError, ConfigError, DataError, RewardError
from loopwright.evaluation.best_of import best_of_distribution, exact_best_of_kl
from loopwright.loop import config_from
from loopwright.loop.plan import make_plan
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.rewards import CallableReward
from loopwright.rewards.sources import RewardSource
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt, ScoredAnswer
from loopwright.stages import rejection
from loopwright.stages.rejection import RejectionConfig, RejectionInputs
from loopwright.stages.sampled import SampledInputs
from loopwright.training.examples import fit_examples
from tests.letters import LETTERS, distribution, letters_model
from tests.stages.test_pretrain import Killed, figures, killed_after

HERE = "tests.stages.test_rejection"
PROMPTS = [Prompt.user(f"p{i}", a + b + c) for i, (a, b, c) in enumerate((a, b, c) for a in LETTERS for b in LETTERS for c in LETTERS)]  # fmt: skip # noqa: E501
SMALL = dict(
    samples_per_prompt=4, max_new_tokens=3, max_length=16, held_out_prompts=16, batch_size_per_device=16,
    learning_rate=5e-3, save_steps=2, log_steps=2, epochs=1, answers_at_once=64,
)  # fmt: skip


def likes_a(prompts, responses):
    """More for each a, less for each other letter."""
    return [sum(1.0 if letter == "a" else -0.5 for letter in response) for response in responses]


def hates_a(prompts, responses):
    return [-score for score in likes_a(prompts, responses)]


REWARD = CallableReward(likes_a, "a")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return letters_model(tmp_path_factory.mktemp("start"))


def run(start, folder, reward=REWARD, *, prompts=PROMPTS, earlier=(), stage="rejection", inside=None, **settings):
    runtime = Runtime.temporary(folder, stage=stage, seed=0)
    given = reward if isinstance(reward, list) else [(reward, 1.0)]
    inputs = RejectionInputs(start, given, prompts, earlier=earlier)
    config = RejectionConfig(**(SMALL | settings))
    return rejection.run(config, inputs, runtime if inside is None else inside(runtime)).metrics


def weights(folder):
    return safetensors.torch.load_file(folder / "output" / "model" / "model.safetensors")


def same_weights(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def samples(folder) -> list[ScoredAnswer]:
    return read_records(folder / "output" / "samples.jsonl", ScoredAnswer).records


# ---- what is learned


def test_the_answers_learned_are_the_best_of_those_sampled(start, tmp_path):
    asked = []

    def remembers(prompts, responses):
        scores = likes_a(prompts, responses)
        asked.extend(zip(prompts, responses, scores, strict=True))
        return scores

    metrics = run(start, tmp_path, CallableReward(remembers, "a"), missing_eos_penalty=0.0)
    kept = samples(tmp_path)
    assert metrics["examples"] == metrics["prompts"] == len(kept) == len({one.prompt.id for one in kept})
    assert metrics["answers"] == 4 * metrics["prompts"]
    for one in kept:
        text = one.prompt.messages[0].content
        assert one.score == max(score for prompt, _, score in asked if prompt == text)
        assert (text, one.response, one.score) in asked
    assert metrics["learned_score"] == pytest.approx(sum(one.score for one in kept) / len(kept))
    assert [point["n"] for point in metrics["best_of"]] == [1, 2, 4]
    assert metrics["best_of"][-1]["score"] == pytest.approx(metrics["learned_score"])


def test_several_different_answers_of_a_prompt_may_be_learned(start, tmp_path):
    metrics = run(start, tmp_path, keep_per_prompt=2, samples_per_prompt=8, max_prompts=6)
    kept = [(tuple(one.prompt_ids), tuple(one.response_ids)) for one in samples(tmp_path)]
    assert metrics["examples"] == len(set(kept)) == 2 * len({prompt for prompt, _ in kept}) == 12


def test_of_one_answer_it_is_fine_tuning_on_ones_own_samples(start, tmp_path):
    """K = 1: whatever the reward, each sample is learned once, in the order and with the loss of the one loop."""
    run(start, tmp_path / "likes", samples_per_prompt=1)
    run(start, tmp_path / "hates", CallableReward(hates_a, "a"), samples_per_prompt=1)
    assert same_weights(tmp_path / "likes", tmp_path / "hates")

    runtime = Runtime.temporary(tmp_path / "by hand", stage="rejection", seed=0)
    policy, config = load_causal_lm(start), RejectionConfig(**SMALL)
    examples = [Example(one.prompt_ids, one.response_ids) for one in samples(tmp_path / "likes")]
    pad_id, seed = load_tokenizer(start).pad_token_id, runtime.seed_for("order", 0)
    fit_examples(policy, examples, config, runtime, order_seed=seed, pad_id=pad_id)
    found = weights(tmp_path / "likes")
    assert all(torch.equal(value, found[name]) for name, value in policy.state_dict().items() if name in found)


def test_the_order_of_the_prompts_and_how_they_are_batched_never_matter(start, tmp_path):
    run(start, tmp_path / "one")
    run(start, tmp_path / "other", prompts=[*reversed(PROMPTS), PROMPTS[3]], answers_at_once=7)
    assert same_weights(tmp_path / "one", tmp_path / "other")
    assert samples(tmp_path / "one") == samples(tmp_path / "other")


def test_the_tokens_that_were_sampled_are_learned_though_text_could_be_written_otherwise(start, tmp_path):
    run(start, tmp_path)
    tokenizer = load_tokenizer(start)
    for one in samples(tmp_path):
        assert one.finished == (one.response_ids[-1] == tokenizer.eos_token_id)
        assert len(one.response_ids) == len(one.response) + one.finished  # a letter a token, and EOS
        assert one.finished or len(one.response_ids) == SMALL["max_new_tokens"]


def test_an_answer_without_end_is_worth_less(start, tmp_path):
    run(start, tmp_path / "free", missing_eos_penalty=0.0, samples_per_prompt=12)
    run(start, tmp_path / "dear", missing_eos_penalty=50.0, samples_per_prompt=12)
    free, dear = (sum(not one.finished for one in samples(tmp_path / name)) for name in ("free", "dear"))
    assert dear == 0 < free


def test_it_learns_what_best_of_n_samples(start, tmp_path):
    """Expected reward on held-out prompts, over all responses: near that of best of 8, which has no bound to beat."""
    settings = dict(samples_per_prompt=8, max_new_tokens=2, epochs=8, learning_rate=1e-2, missing_eos_penalty=0.0)
    metrics = run(start, tmp_path, **settings)
    learned = {one.prompt.id for one in samples(tmp_path)}
    before, after, best, kl = [], [], [], []
    for prompt in [prompt for prompt in PROMPTS if prompt.id not in learned][:6]:
        responses, reference = distribution(start, prompt, 2)
        scores = torch.tensor(likes_a([], responses)).double()
        policy = distribution(tmp_path / "output" / "model", prompt, 2)[1]
        before.append(reference.dot(scores).item())
        after.append(policy.dot(scores).item())
        best.append(float(best_of_distribution(reference.numpy(), scores.numpy(), 8) @ scores.numpy()))
        kl.append(exact_best_of_kl(reference.numpy(), scores.numpy(), 8))
    mean = {name: sum(one) / len(one) for name, one in dict(before=before, after=after, best=best, kl=kl).items()}
    assert mean["after"] > mean["before"] + 0.7 * (mean["best"] - mean["before"])
    assert metrics["held_out_gain_low"] > 0  # what the stage itself reports, from samples
    assert metrics["held_out_gain"] == pytest.approx(metrics["held_out_score"] - metrics["held_out_score_before"])
    assert 0.2 * mean["kl"] < metrics["held_out_kl"] < 2 * mean["kl"]


def test_the_temperature_whose_best_answers_score_highest_is_taken(start, tmp_path):
    settings = dict(temperatures=(0.05, 1.0, 1.5), temperature_prompts=12)
    metrics = run(start, tmp_path, **settings)
    means = metrics["best_by_temperature"]
    assert set(means) == {"0.05", "1", "1.5"}
    assert means[f"{metrics['temperature']:g}"] == max(means.values()) > means["0.05"]  # which always says the same
    assert {one.temperature for one in samples(tmp_path)} == {metrics["temperature"]}
    assert metrics["answers"] == 4 * metrics["prompts"] + 3 * 12 * 4


def test_what_is_gained_is_measured_at_temperature_1_whatever_is_sampled_at(start, tmp_path):
    cold, warm = (run(start, tmp_path / f"{t}", temperature=t, max_prompts=4) for t in (0.3, 1.0))
    assert cold["held_out_score_before"] == warm["held_out_score_before"]


def test_few_prompts_are_drawn_and_those_held_out_are_never_learned(start, tmp_path):
    metrics = run(start, tmp_path, max_prompts=10)
    other = run(start, tmp_path / "all")
    assert metrics["prompts"] == len(samples(tmp_path)) == 10
    assert other["prompts"] + other["held_out_prompts"] == len(PROMPTS)
    assert metrics["held_out_prompts"] == other["held_out_prompts"]


# ---- rounds


def test_the_best_answers_of_earlier_rounds_are_kept_under_the_newest_reward(start, tmp_path):
    run(start, tmp_path / "one", stage="v1.rejection")
    before = samples(tmp_path / "one")
    first = tmp_path / "one" / "output"
    metrics = run(first / "model", tmp_path / "two", stage="v2.rejection", earlier=[first / "samples.jsonl"])
    kept = samples(tmp_path / "two")
    by_prompt = {one.prompt.id: one.score for one in before}
    assert len(kept) == len(before) and metrics["earlier_answers"] == len(before)
    assert all(one.score >= by_prompt[one.prompt.id] for one in kept)  # no prompt gets worse
    assert metrics["examples_from_earlier"] == sum(one.stage == "v1.rejection" for one in kept) > 0

    other, turned = CallableReward(hates_a, "a"), tmp_path / "turned"
    run(
        first / "model", turned, other, stage="v2.rejection", earlier=[first / "samples.jsonl"], missing_eos_penalty=0.0
    )
    assert [one.score for one in samples(turned)] == hates_a([], [one.response for one in samples(turned)])


def test_earlier_answers_to_prompts_that_are_not_asked_again_are_kept(start, tmp_path):
    run(start, tmp_path / "one", stage="v1.rejection")
    earlier = [tmp_path / "one" / "output" / "samples.jsonl"]
    metrics = run(start, tmp_path / "two", stage="v2.rejection", max_prompts=5, earlier=earlier)
    assert metrics["examples"] == len(samples(tmp_path / "one"))
    more_held_out = run(
        start, tmp_path / "three", stage="v2.rejection", max_prompts=5, earlier=earlier, held_out_prompts=30
    )
    assert more_held_out["examples"] < metrics["examples"]  # none that answers a prompt which is held out now


def test_earlier_answers_without_end_are_worth_less_here_too(start, tmp_path):
    """Whatever they scored in their round: the penalty is this one's, in the whole and by each reward."""
    run(start, tmp_path / "one", stage="v1.rejection", missing_eos_penalty=0.0)
    earlier = [tmp_path / "one" / "output" / "samples.jsonl"]
    run(start, tmp_path / "two", stage="v2.rejection", max_prompts=1, earlier=earlier, missing_eos_penalty=2.0)
    kept = [one for one in samples(tmp_path / "two") if one.stage == "v1.rejection"]
    assert {one.finished for one in kept} == {True, False}
    for one in kept:
        worth = likes_a([], [one.response])[0] - 2.0 * (not one.finished)
        assert one.score == pytest.approx(worth) and list(one.criteria.values()) == [pytest.approx(worth)]


def test_earlier_answers_of_another_tokenizer_are_refused(start, tmp_path):
    run(start, tmp_path)
    strange = [one.model_copy(update={"prompt_ids": [1, 1, 1]}) for one in samples(tmp_path)]
    write_records(tmp_path / "strange.jsonl", strange)
    with pytest.raises(DataError, match=r"strange.jsonl:1: the tokens of its prompt are not those"):
        run(start, tmp_path / "two", earlier=[tmp_path / "strange.jsonl"])
    silent = [one.model_copy(update={"response_ids": []}) for one in samples(tmp_path)]
    write_records(tmp_path / "silent.jsonl", silent)
    with pytest.raises(DataError, match=r"silent.jsonl:1: its answer has no tokens"):
        run(start, tmp_path / "four", earlier=[tmp_path / "silent.jsonl"])
    (tmp_path / "broken.jsonl").write_text('{"prompt": 1}\n')
    with pytest.raises(DataError, match=r"broken.jsonl:1"):
        run(start, tmp_path / "three", earlier=[tmp_path / "broken.jsonl"])


# ---- crashes


def failing_after(calls):
    """A reward whose process dies while it scores."""
    left = [calls]

    def score(prompts, responses):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("killed")
        return likes_a(prompts, responses)

    return CallableReward(score, "a")


def test_a_killed_run_ends_as_an_undisturbed_one(start, tmp_path):
    settings = dict(temperatures=(0.5, 1.0), temperature_prompts=20, eval_steps=2)
    expected = run(start, tmp_path / "whole", **settings)
    for name, calls in (("before", 0), ("temperature", 2), ("sampling", 6)):
        with pytest.raises(RewardError, match="killed"):
            run(start, tmp_path / name, failing_after(calls), **settings)
    shutil.copytree(tmp_path / "sampling", tmp_path / "training")
    with pytest.raises(Killed):
        run(start, tmp_path / "training", inside=lambda runtime: killed_after(runtime, 1), **settings)
    for name in ("before", "temperature", "sampling", "training"):
        assert run(start, tmp_path / name, **settings) == expected
        assert same_weights(tmp_path / name, tmp_path / "whole")
        assert samples(tmp_path / name) == samples(tmp_path / "whole")
        assert figures(tmp_path / name) == figures(tmp_path / "whole")


def test_what_was_sampled_before_a_crash_is_not_sampled_again(start, tmp_path):
    with pytest.raises(RewardError):
        run(start, tmp_path, failing_after(3))
    asked = []

    def counts(prompts, responses):
        asked.append(len(responses))
        return likes_a(prompts, responses)

    whole = run(start, tmp_path / "whole", CallableReward(counts, "a"))
    everything = len(asked)
    asked.clear()
    assert run(start, tmp_path, CallableReward(counts, "a")) == whole
    assert len(asked) == everything - 3


def test_scales_of_several_rewards_outlive_a_crash(start, tmp_path):
    def sources(*functions):
        return [RewardSource(kind="callable", function=f"{HERE}:{function}") for function in functions]

    settings = dict(merge={"reference_samples": 32}, rewards=sources("likes_a", "hates_a"))
    given = sources("likes_a", "longer")
    expected = run(start, tmp_path / "whole", given, **settings)
    with pytest.raises(Killed):
        run(start, tmp_path / "cut", given, inside=lambda runtime: killed_after(runtime, 1), **settings)
    assert run(start, tmp_path / "cut", given, **settings) == expected
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    names = [path / "output" / "normalisation.json" for path in (tmp_path / "whole", tmp_path / "cut")]
    assert json.loads(names[0].read_text()) == json.loads(names[1].read_text())


def longer(prompts, responses):
    return [float(len(response)) for response in responses]


# ---- settings, and the loop


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(temperatures=(0.5, 1.0), temperature=0.7), "temperature has no effect beside temperatures"),
        (dict(temperatures=(0.5,)), "must be two or more different ones"),
        (dict(temperatures=(0.5, 0.5)), "must be two or more different ones"),
        (dict(temperature_prompts=9), "temperature_prompts has no effect without temperatures"),
        (dict(samples_per_prompt=2, keep_per_prompt=3), "keep_per_prompt = 3 is more than samples_per_prompt = 2"),
        (dict(reward="x", rewards=[{"kind": "model", "path": "y"}]), "rewards and merge have no effect"),
        (dict(prompts="x", opening_tokens=3), "opening_tokens has no effect beside prompts"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(settings, message):
    with pytest.raises(ValidationError, match=message):
        RejectionConfig(**settings)


def test_prompts_that_do_not_fit_are_an_error_before_anything_is_sampled(start, tmp_path):
    with pytest.raises(ConfigError, match=r"rejection.max_length = 5, but a prompt .* may take 6 tokens"):
        run(start, tmp_path / "a", max_length=5)
    with pytest.raises(ConfigError, match=r"rejection.held_out_prompts = 64, but only 64 prompts differ"):
        run(start, tmp_path / "b", held_out_prompts=64)


def test_a_reward_that_says_the_same_of_everything_is_caught(start, tmp_path):
    with pytest.raises(CheckError, match="the reward gives the same score, 1, to all 192 responses"):
        run(
            start,
            tmp_path,
            CallableReward(lambda prompts, responses: [1.0] * len(responses), "blind"),
            missing_eos_penalty=0.0,
        )


def artifact(kind: str) -> SimpleNamespace:
    manifest = SimpleNamespace(kind=kind, config={})
    return SimpleNamespace(file=lambda name: Path(kind) / name, manifest=manifest)


def test_every_rejection_stage_before_is_an_earlier_round():
    artifacts = {role: artifact(role) for role in ("policy", "reward", "world", "v1.rejection", "v2.rejection")}
    inputs = rejection.bind(RejectionConfig(earlier=("mine.jsonl",)), artifacts)
    assert isinstance(inputs, SampledInputs)
    assert inputs.policy == Path("policy/model") and inputs.reward == Path("reward/model")
    names = [Path("mine.jsonl"), Path("v1.rejection/samples.jsonl"), Path("v2.rejection/samples.jsonl")]
    assert inputs.earlier == names
    with pytest.raises(ConfigError, match="rejection has no policy; add an sft section"):
        rejection.bind(RejectionConfig(), {})


def test_it_improves_the_policy_before_it_and_ppo_goes_on_from_it():
    sections = {name: {} for name in ("world", "pretrain", "sft", "feedback", "reward", "rejection", "rest", "ppo")}
    steps = {step.name: step for step in make_plan(config_from({"name": "x", **sections}, "here")).steps}
    assert steps["rejection"].parents["policy"] == "sft" and steps["rejection"].parents["reward"] == "reward"
    assert steps["rest"].parents["policy"] == "rejection"
    assert steps["ppo"].parents["policy"] == "rest"


def test_rounds_go_on_from_one_another_and_keep_what_they_learned():
    made = {"feedback": {"prompts": 4}, "reward": {}, "rejection": {}}
    values = {"name": "x", "world": {}, "pretrain": {}, "sft": {}, "rounds": {"schedule": {"v1-v3": made}}}
    steps = {step.name: step for step in make_plan(config_from(values, "here")).steps}
    parents = [steps[f"v{number}.rejection"].parents for number in (1, 2, 3)]
    assert [one["policy"] for one in parents] == ["sft", "v1.rejection", "v2.rejection"]
    assert [one["reward"] for one in parents] == ["v1.reward", "v2.reward", "v3.reward"]
    earlier = [[role for role in one if role.endswith(".rejection")] for one in parents]
    assert earlier == [[], ["v1.rejection"], ["v1.rejection", "v2.rejection"]]
