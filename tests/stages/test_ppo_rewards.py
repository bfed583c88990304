"""PPO against several rewards: which they are, how they are merged, and what is kept and reported of them."""

import json
import math
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from pydantic import ValidationError
from torch.testing import assert_close

from loopwright.data.readers import write_records
from loopwright.errors import ConfigError, ModelError
from loopwright.loop import load_config
from loopwright.loop import run as run_loop
from loopwright.loop.plan import make_plan
from loopwright.loop.table import load_stages
from loopwright.models.heads import reward_model_from
from loopwright.rewards import CallableReward, MergeConfig, Merged, RemoteReward, RewardModel, Sample, Scores
from loopwright.rewards.combine import reward_models
from loopwright.rewards.sources import KINDS, RewardSource, load_source
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Message, Prompt
from loopwright.stages import ppo
from loopwright.stages.ppo import PPOConfig, PPOInputs
from loopwright.stages.ppo_looks import share_labels
from loopwright.stages.reward import RewardConfig
from loopwright.stages.sampled_rewards import chosen_rewards, own_models
from loopwright.tracking.artifacts import Artifact, Manifest
from tests.tiny import saved, tiny_model, tiny_tokenizer

HERE = "tests.stages.test_ppo_rewards"
PROMPTS = [Prompt.user(f"p{i}", text, adversarial=i == 1) for i, text in enumerate(["abc", "a", "hello there", "zz?"])]
SMALL = dict(
    steps=3, rollouts_per_step=8, minibatch_size=4, epochs_per_batch=2, max_new_tokens=6, learning_rate=1e-3,
    critic_learning_rate=2e-3, save_steps=2,
)  # fmt: skip
ROLES = dict(helpful="length", safe="vowels")


def length(prompts, responses):
    return [float(len(response)) for response in responses]


def longer(prompts, responses):
    return [100.0 * len(response) + 7.0 for response in responses]


def shorter(prompts, responses):
    return [-2.0 * len(response) for response in responses]


def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in response) - 0.05 * len(response) for response in responses]


LENGTH, VOWELS = CallableReward(length, "length"), CallableReward(vowels, "vowels")


def source(function, **settings):
    return {"kind": "callable", "function": f"{HERE}:{function}"} | settings


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer, policy = tiny_tokenizer(), tiny_model("llama")
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_token_id] *= 3.0
    models = [reward_model_from(policy, seed=seed) for seed in (1, 2)]
    return saved(policy, tokenizer, folder / "policy"), *(
        saved(model, tokenizer, folder / f"reward{i}") for i, model in enumerate(models)
    )


def run(folders, folder, given, **settings):
    runtime = Runtime.temporary(folder, stage="ppo", seed=0)
    return ppo.run(PPOConfig(**(SMALL | settings)), PPOInputs(folders[0], given, PROMPTS), runtime)


def run_sources(folders, folder, *sources, **settings):
    config = PPOConfig(**(SMALL | settings), rewards=sources)
    runtime = Runtime.temporary(folder, stage="ppo", seed=0)
    return ppo.run(config, PPOInputs(folders[0], chosen_rewards(config, {}), PROMPTS), runtime)


def recorded(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "stage")} for line in lines]


def weights(folder):
    return safetensors.torch.load_file(folder / "output" / "model" / "model.safetensors")


def same_weights(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


# ---- what is learned


def test_weights_one_and_nothing_are_the_first_reward_alone(folders, tmp_path):
    run(folders, tmp_path / "both", [(LENGTH, 1.0), (VOWELS, 0.0)])
    run(folders, tmp_path / "one", [(LENGTH, 1.0)])
    assert same_weights(tmp_path / "both", tmp_path / "one")


def test_a_merged_reward_from_python_is_merged_and_stays_as_it_was(folders, tmp_path):
    given = Merged([(LENGTH, 1.0), (VOWELS, 1.0)], MergeConfig(rule="constraint", limit=-9.0, **ROLES))
    run(folders, tmp_path / "merged", given)
    run(folders, tmp_path / "again", given)  # the multiplier of the first run is not in the second
    assert given.multiplier == 1.0
    merge = dict(rule="constraint", limit=-9.0, **ROLES)
    run(folders, tmp_path / "pairs", [(LENGTH, 1.0), (VOWELS, 1.0)], merge=merge)
    assert recorded(tmp_path / "merged") == recorded(tmp_path / "again") == recorded(tmp_path / "pairs")


def test_the_heads_of_one_reward_model_say_how_sure_it_is(folders, tmp_path):
    folder = saved(reward_model_from(tiny_model("llama"), seed=1, heads=3), tiny_tokenizer(), tmp_path / "reward")
    run(folders, tmp_path / "mean", folder)  # its critic starts from the mean of the heads
    careful = {"kind": "ensemble", "path": folder, "rule": "mean_less_std", "penalty": 2.0}
    run_sources(folders, tmp_path / "careful", careful, merge={"normalise": False})
    mean, less = (recorded(tmp_path / name)[0] for name in ("mean", "careful"))
    assert mean["score_uncertainty"] == pytest.approx(less["score_uncertainty"]) and mean["score_uncertainty"] > 0
    assert less["score"] == pytest.approx(mean["score"] - 2 * mean["score_uncertainty"], abs=1e-5)


@pytest.mark.parametrize("rule", ["weighted_sum", "worst", "product"])
def test_the_scale_of_a_reward_changes_nothing(folders, tmp_path, rule):
    for name in ("length", "longer"):
        of = source(name, name="first")
        run_sources(folders, tmp_path / name, of, source("vowels"), merge={"rule": rule, "reference_samples": 12})
    for ours, theirs in zip(recorded(tmp_path / "length"), recorded(tmp_path / "longer"), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert math.isclose(value, theirs[name], rel_tol=1e-3, abs_tol=1e-4), name
    scales = [
        json.loads((tmp_path / name / "output" / "normalisation.json").read_text()) for name in ("length", "longer")
    ]
    assert scales[0]["first"]["samples"] == 12
    assert scales[1]["first"]["std"] == pytest.approx(100 * scales[0]["first"]["std"])
    assert scales[1]["first"]["mean"] == pytest.approx(100 * scales[0]["first"]["mean"] + 7)


def test_normalising_is_on_the_policy_that_training_starts_from(folders, tmp_path):
    run_sources(folders, tmp_path, source("length"), merge={"reference_samples": 64}, steps=1)
    scale = json.loads((tmp_path / "output" / "normalisation.json").read_text())["length"]
    line = recorded(tmp_path)[0]
    raw = line["score"] * scale["std"] + scale["mean"]
    assert raw == pytest.approx(round(raw * 8) / 8, abs=1e-4)  # the mean of 8 whole lengths
    assert abs(line["score"]) < 4 / math.sqrt(8)  # of a sample of that policy


def test_llama2_learns_from_whitened_scores_and_reports_them_as_they_are(folders, tmp_path):
    run(folders, tmp_path, [(LENGTH, 1.0), (VOWELS, 1.0)], merge=dict(rule="llama2", **ROLES))
    for line in recorded(tmp_path):
        paid = (1.0 - line["finished_share"]) + 0.05 * line["kl"]
        assert line["reward"] == pytest.approx(-paid, abs=1e-4)  # the mean of what is whitened is 0
        assert line["decided_by_length"] + line["decided_by_vowels"] == pytest.approx(1.0)
    assert recorded(tmp_path)[0]["score"] > 0.5
    assert 0 < recorded(tmp_path)[0]["decided_by_vowels"] < 1  # prompts with the tag, and the rest


def test_the_multiplier_follows_the_cost_and_is_read_before_it_moves(folders, tmp_path):
    merge = dict(rule="constraint", limit=-0.3, multiplier=0.2, multiplier_learning_rate=0.7, **ROLES)
    found = run(folders, tmp_path, [(LENGTH, 1.0), (VOWELS, 1.0)], merge=merge, steps=4)
    lines = recorded(tmp_path)
    assert lines[0]["multiplier"] == 0.2
    for now, after in zip(lines, lines[1:], strict=False):
        assert now["cost"] == pytest.approx(-now["score_vowels"])
        assert after["multiplier"] == pytest.approx(max(0.0, now["multiplier"] + 0.7 * (now["cost"] + 0.3)))
    for line in lines:
        price = line["multiplier"]
        parts = line["contribution_length"] + line["contribution_vowels"]
        assert line["score"] == pytest.approx(parts) and line["contribution_vowels"] == pytest.approx(
            price * line["score_vowels"] / (1 + price)
        )
        assert line["score"] == pytest.approx(
            (line["score_length"] + price * line["score_vowels"]) / (1 + price), abs=1e-5
        )
    assert found.metrics["multiplier"] == pytest.approx(sum(line["multiplier"] for line in lines) / 4)


class Interrupted(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("merge", [dict(rule="constraint", limit=-0.3, normalise=True, **ROLES), dict(rule="worst")])
def test_a_killed_run_ends_like_one_that_was_not(folders, tmp_path, merge, monkeypatch):
    def both(folder):
        return run_sources(folders, folder, source("length"), source("vowels"), merge=merge, steps=6, save_steps=2)

    whole = both(tmp_path / "whole")
    calls, plain = [], Merged.score

    def dying(self, samples):
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted
        return plain(self, samples)

    monkeypatch.setattr(Merged, "score", dying)
    with pytest.raises(Interrupted):
        both(tmp_path / "killed")
    monkeypatch.setattr(Merged, "score", plain)
    assert both(tmp_path / "killed") == whole
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    scales = [(tmp_path / name / "output" / "normalisation.json").read_text() for name in ("killed", "whole")]
    assert scales[0] == scales[1]


def test_each_reward_and_their_conflict_are_reported(folders, tmp_path):
    found = run(folders, tmp_path, [(LENGTH, 1.0), (CallableReward(shorter, "short"), 1.0)], steps=4)
    lines = recorded(tmp_path)
    for line in lines:
        assert line["score_short"] == pytest.approx(-2 * line["score_length"])
        assert line["std_of_short"] == pytest.approx(2 * line["std_of_length"], rel=1e-5)
        assert line["correlation_length_and_short"] == pytest.approx(-1.0)
    moved = [a["score_length"] != b["score_length"] for a, b in zip(lines, lines[1:], strict=False)]
    assert "disagreement_length_and_short" not in lines[0]
    assert lines[-1]["disagreement_length_and_short"] == pytest.approx(sum(moved) / 3)
    assert found.metrics["score_short"] == pytest.approx(-2 * found.metrics["score_length"])


def test_each_reward_is_assessed_on_held_out_prompts(folders, tmp_path):
    run(folders, tmp_path, [(LENGTH, 0.5), (VOWELS, 1.0)], eval_steps=3, held_out_prompts=2)
    (line,) = [line for line in recorded(tmp_path) if "held_out_score" in line]
    expected = 0.5 * line["held_out_score_length"] + line["held_out_score_vowels"]
    assert line["held_out_score"] == pytest.approx(expected, abs=1e-5)


# ---- which rewards


def test_sources_of_every_kind_are_loaded(folders, tmp_path):
    given = [
        {"kind": "model", "path": folders[1], "name": "first"},
        {"kind": "ensemble", "paths": folders[1:], "rule": "mean_less_std", "penalty": 0.5},
        source("vowels", weight=0.5, direction="lower_is_better"),
    ]
    run_sources(folders, tmp_path, *given, merge={"normalise": False})
    for line in recorded(tmp_path):
        parts = [line[f"score_{name}"] for name in ("first", "ensemble", "vowels")]
        assert line["score"] == pytest.approx(parts[0] + parts[1] + 0.5 * parts[2], abs=1e-5)
    runtime = Runtime.temporary(tmp_path / "again", stage="ppo")
    loaded = ppo.load_reward(PPOInputs(folders[0], [RewardSource(**one) for one in given]), runtime)
    models = [part for part, _ in loaded.rewards if isinstance(part, RewardModel)]
    assert [model.name for model in models] == ["first"]
    assert loaded.merge.normalise and [weight for _, weight in loaded.rewards] == [1.0, 1.0, 0.5]
    inputs = PPOInputs(folders[0], [RewardSource(**one) for one in given])
    own = own_models(inputs, loaded)
    assert [folder for _, folder in own] == [folders[1], *folders[1:]]  # what nobody else holds may share weights
    held = [(models[0], 1.0)]
    assert own_models(PPOInputs(folders[0], held), Merged(held)) == []


def test_recipes_of_the_docs_are_accepted_and_show_every_kind():
    page = (Path(__file__).parents[2] / "docs" / "merging.md").read_text(encoding="utf-8")
    sections = [yaml.safe_load(block)["ppo"] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    shown = [source.kind for section in sections for source in PPOConfig(**section).rewards]
    assert len(sections) == 3 and set(shown) == set(KINDS)
    for name, kind in KINDS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert all(f"`{setting}`" in row for setting in (*kind.needs, *kind.takes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "modle", "path": "x"},
            "kind = modle is none of model, classifier, spans, remote, ensemble",
        ),
        ({"kind": "model"}, "kind = model needs path or stage; set one"),
        ({"kind": "model", "path": "x", "stage": "reward_a"}, "needs path or stage; set one"),
        ({"kind": "callable", "function": "a:b", "path": "x"}, "path has no effect with kind = callable"),
        ({"kind": "model", "path": "x", "penalty": 1.0}, "penalty has no effect with kind = model"),
        ({"kind": "model", "path": "x", "name": "a b"}, "should match pattern"),
        ({"kind": "model", "path": "x", "batch_size": 8}, "batch_size has no effect with kind = model"),
        ({"kind": "classifier", "path": "x", "attempts": 2}, "attempts has no effect with kind = classifier"),
        ({"kind": "judge", "judge": {}, "timeout_seconds": 9}, "timeout_seconds has no effect with kind = judge"),
        ({"kind": "remote", "url": "http://h:1", "batch_size": 0}, "batch_size"),
        ({"kind": "remote", "url": "http://h:1", "attempts": 0}, "attempts"),
        ({"kind": "remote", "url": "http://h:1", "timeout_seconds": 0}, "timeout_seconds"),
        ({"kind": "remote", "url": "http://h:1", "timeout_seconds": ".inf"}, "timeout_seconds"),
    ],
)
def test_a_source_that_contradicts_itself_is_an_error(settings, message):
    with pytest.raises(ValidationError, match=message):
        RewardSource(**settings)


def test_how_a_server_is_asked_is_said_in_the_recipe():
    of = {"kind": "remote", "url": "http://judge:8500", "content_hash": "abc"}
    asked = load_source(RewardSource(**of, batch_size=8, timeout_seconds=2.5, attempts=2), torch.device("cpu"))
    usual, plain = load_source(RewardSource(**of), torch.device("cpu")), RemoteReward("http://judge:8500")
    assert (asked.batch_size, asked.timeout_seconds, asked.attempts) == (8, 2.5, 2)
    for name in ("batch_size", "timeout_seconds", "attempts"):
        assert getattr(usual, name) == getattr(plain, name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(reward="x", rewards=[source("length")]), "reward is one reward, beside which rewards and merge"),
        (dict(reward="x", merge={"rule": "worst"}), "reward is one reward, beside which rewards and merge"),
        (dict(rewards=[source("length", weight=2.0)], merge={"rule": "worst"}), "a weight has no effect with rule"),
        (dict(rewards=[source("length")], merge=dict(rule="llama2", **ROLES)), "merges two rewards"),
    ],
)
def test_settings_that_contradict_are_errors(settings, message):
    with pytest.raises(ValidationError, match=message):
        PPOConfig(**settings)


@pytest.mark.parametrize("function", ["no_such_package.x:f", f"{HERE}:absent", "no_colon"])
def test_a_function_that_is_not_there_is_an_error(folders, tmp_path, function):
    with pytest.raises(ConfigError, match="cannot be imported|is no function"):
        run_sources(folders, tmp_path, {"kind": "callable", "function": function})


def test_a_rule_for_what_is_one_reward_is_an_error(folders, tmp_path):
    for given, what in ((folders[1], "one reward model"), (Merged([(LENGTH, 1.0)]), "rewards that are merged already")):
        with pytest.raises(ConfigError, match=f"ppo.merge has no effect on {what}"):
            run(folders, tmp_path, given, merge={"rule": "worst"})


def test_the_files_of_sources_belong_to_the_key(folders):
    config = PPOConfig(rewards=[source("length"), {"kind": "ensemble", "paths": folders[1:]}])
    files = ppo.STAGE.files(config)
    assert [file.name for file in files] == ["test_ppo_rewards.py", "reward0", "reward1"]
    with pytest.raises(ConfigError, match=r"the module of nowhere:f cannot be imported"):
        ppo.STAGE.files(PPOConfig(rewards=[{"kind": "callable", "function": "nowhere:f"}]))


def artifact(folder, **config):
    return Artifact(folder, Manifest.model_construct(kind="reward", name="recipe", files={"model": ""}, config=config))


def test_rewards_that_the_recipe_trains_are_merged(tmp_path):
    trained = {f"reward_{name}": artifact(tmp_path / name) for name in ("helpful", "safe")}
    got = chosen_rewards(PPOConfig(), trained)
    assert [(one.title, one.path) for one in got] == [
        (name, tmp_path / name / "model") for name in ("helpful", "safe")
    ]  # fmt: skip
    listed = PPOConfig(
        rewards=[{"kind": "model", "stage": "reward_safe", "weight": 2.0}, {"kind": "model", "stage": "reward_helpful"}]
    )
    assert [(one.title, one.weight) for one in chosen_rewards(listed, trained)] == [("safe", 2.0), ("helpful", 1.0)]
    assert chosen_rewards(PPOConfig(), {"reward": artifact(tmp_path)}) == tmp_path / "model"  # one alone


@pytest.mark.parametrize(
    ("settings", "stages", "message"),
    [
        ({}, [], "ppo has no reward; add a reward section"),
        ({"reward": "x"}, ["reward_a"], "ppo.reward = x contradicts the stages reward_a"),
        ({"rewards": [{"kind": "model", "stage": "reward_b"}]}, ["reward_a"], "names the stage reward_b, which the"),
        (
            {"rewards": [{"kind": "model", "stage": "reward_b"}]},
            ["reward_a", "reward_b"],
            "does not use the stage reward_a",
        ),
        ({"rewards": [source("length")]}, ["reward"], "does not use the stage reward that the recipe has"),
    ],
)
def test_rewards_that_are_missing_or_not_used_are_named(tmp_path, settings, stages, message):
    with pytest.raises(ConfigError, match=message):
        chosen_rewards(PPOConfig(**settings), {stage: artifact(tmp_path) for stage in stages})


# ---- several reward stages


RECIPE = """
name: two-rewards
reward_helpful:
  {judgements: {criterion: helpful}, model: MODELS/policy, comparisons: COMPARISONS, TRAINING}
reward_safe:
  {judgements: {criterion: safe}, model: MODELS/policy, comparisons: COMPARISONS, TRAINING}
ppo:
  policy: MODELS/policy
  prompts: PROMPTS
  merge: {rule: llama2, helpful: helpful, safe: safe}
  steps: 2
  rollouts_per_step: 4
  minibatch_size: 4
  epochs_per_batch: 1
  max_new_tokens: 4
"""
TRAINING = (
    "max_steps: 2, batch_size_per_device: 4, max_length: 60, held_out_share: 0, learning_rate: 0.001, "
    "normalise_on: responses"
)


def comparisons():
    return [
        Comparison(
            id=str(i), prompt=(Message(role="user", content=f"q{i}"),), responses=("yes", "no, sorry"), choice=0,
            strength="better", criteria={"helpful": 0, "safe": 1},
        )
        for i in range(12)
    ]  # fmt: skip


def test_a_recipe_trains_two_reward_models_and_merges_them(folders, tmp_path):
    write_records(tmp_path / "comparisons.jsonl", comparisons())
    write_records(tmp_path / "prompts.jsonl", PROMPTS)
    text = RECIPE.replace("TRAINING", TRAINING).replace("MODELS", str(folders[0].parent))
    for name in ("comparisons", "prompts"):
        text = text.replace(name.upper(), str(tmp_path / f"{name}.jsonl"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    config = load_config(recipe)
    assert list(config.sections) == ["reward_helpful", "reward_safe", "ppo"]
    assert make_plan(config).steps[-1].parents == {name: name for name in ("reward_helpful", "reward_safe")}
    summary = run_loop(config, tmp_path / "run")
    assert {"score_helpful", "score_safe"} <= summary["stages"]["ppo"].keys()
    assert run_loop(load_config(tmp_path / "run" / "config.yaml", resolved=True), tmp_path / "run") == summary
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Reward, helpful" in page and "helpful and safe" in page


@pytest.mark.parametrize(
    ("ppo_section", "message"),
    [
        (
            "{merge: {rule: llama2, helpful: helpfull, safe: safe}}",
            "helpful = helpfull and safe = safe, but the rewards",
        ),
        ("{rewards: [{kind: model, stage: reward_safe}]}", "does not use the stage reward_helpful"),
        ("{rewards: [{kind: model, stage: reward_save}]}", "names the stage reward_save, which the recipe does not"),
    ],
)
def test_a_reward_that_no_stage_makes_is_found_before_anything_is_trained(tmp_path, ppo_section, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: typo\nworld:\npretrain:\nsft:\nfeedback:\nreward_helpful:\nreward_safe:\nppo: {ppo_section}\n"
    )
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config(recipe))


@pytest.mark.parametrize("section", ["ppo", "rejection"])
def test_merging_one_reward_model_is_found_before_it_is_trained(tmp_path, section):
    recipe = tmp_path / "recipe.yaml"
    for kind in ("comparisons", "spans"):
        (tmp_path / f"{kind}.jsonl").touch()
    stages = f"world:\npretrain:\nsft:\nreward: {{kinds: [KIND], feedback: {tmp_path}}}\n"
    lone = f"name: lone\n{stages}{section}: {{merge: {{rule: weighted_sum}}}}\n"
    recipe.write_text(lone.replace("KIND", "comparisons"))
    with pytest.raises(ConfigError, match=f"{section}.merge has no effect on one reward model"):
        make_plan(load_config(recipe))
    recipe.write_text(lone.replace("KIND", "spans"))  # sums the scores of tokens
    make_plan(load_config(recipe))


def test_patience_with_a_server_is_no_reason_to_train_anew(tmp_path):
    def key(**settings):
        source = {"kind": "remote", "url": "http://127.0.0.1:1/", **settings}
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            yaml.safe_dump(
                {"name": "patient", "world": None, "pretrain": None, "sft": None, "ppo": {"rewards": [source]}}
            )
        )
        plan = make_plan(load_config(recipe))
        return plan.origin(plan.steps[-1], {}).key()

    assert key() == key(timeout_seconds=90, attempts=9) != key(batch_size=3)


WATCHED = """
name: watched
reward:
  {model: MODELS/policy, comparisons: COMPARISONS, part_of_prompts: [0, 0.6], TRAINING}
reward_other:
  {model: MODELS/policy, comparisons: COMPARISONS, part_of_prompts: [0.6, 1], TRAINING}
ppo:
  policy: MODELS/policy
  prompts: PROMPTS
  watch: {stage: reward_other, every_steps: 1, patience: 1, stall_looks: null}
  held_out_prompts: 2
  steps: 2
  rollouts_per_step: 4
  minibatch_size: 4
  epochs_per_batch: 1
  max_new_tokens: 4
"""


def test_a_recipe_trains_the_model_that_watches(folders, tmp_path):
    write_records(tmp_path / "comparisons.jsonl", comparisons())
    write_records(tmp_path / "prompts.jsonl", PROMPTS)
    text = WATCHED.replace("TRAINING", TRAINING).replace("MODELS", str(folders[0].parent))
    for name in ("comparisons", "prompts"):
        text = text.replace(name.upper(), str(tmp_path / f"{name}.jsonl"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    summary = run_loop(load_config(recipe), tmp_path / "run")["stages"]
    assert summary["reward"]["prompts"] + summary["reward_other"]["prompts"] == len(comparisons())
    assert summary["ppo"]["watch"]["saved"]["watch_held_out"] is not None
    assert "score_other" not in summary["ppo"]  # it watches, and teaches nothing
    for old, new, message in (
        ("[0.6, 1]", "[0.5, 1]", "reward_other learns from judgements that reward learns from"),
        ("stage: reward_other", "stage: reward_othr", "names the stage reward_othr, which the recipe does not have"),
        ("  prompts", "  rewards: [{kind: model, stage: reward_other}]\n  prompts", "which cannot watch itself"),
        ("stage: reward_other, ", "", "ppo.watch has no reward"),
    ):
        recipe.write_text(text.replace(old, new, 1))
        with pytest.raises(ConfigError, match=message):
            run_loop(load_config(recipe), tmp_path / "refused")


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        ({}, True),
        ({"part_of_prompts": (0.3, 1)}, True),
        ({"part_of_prompts": (0.4, 1)}, False),
        ({"part_of_prompts": (0.4, 1), "heads": 2}, False),
        ({"comparisons": "b"}, False),
        ({"judgements": {"criterion": "safe"}}, False),
        ({"average_of": 2, "learning_rate": 0.1}, True),
    ],
)
def test_what_two_reward_stages_share(other, shares):
    one = RewardConfig(comparisons="a", part_of_prompts=(0, 0.4))
    two = RewardConfig(**{"comparisons": "a"} | other)
    one, two = (each.model_dump(mode="json") for each in (one, two))
    assert share_labels(one, two) == share_labels(two, one) == shares


def test_named_stages_are_named_after_one_that_may_be():
    assert list(load_stages(["ppo", "reward_safe", "reward", "reward_a_b", "sft_safe", "reward_", "rewards"])) == [
        "reward", "reward_safe", "reward_a_b", "ppo",
    ]  # fmt: skip
    assert load_stages(["reward_safe"])["reward_safe"].name == "reward_safe"


def test_per_token_scores_flow_into_ppo_through_a_weighted_sum(folders, tmp_path):
    """The scores of tokens, summed over a response, are part of what is maximised."""

    class Dense:
        name = "dense"

        def score(self, samples):
            tokens = torch.zeros(len(samples), max(len(sample.response_ids) for sample in samples))
            for row, sample in enumerate(samples):
                tokens[row, : len(sample.response_ids)] = 0.1
            return Scores(torch.zeros(len(samples)), per_token=tokens)

    run(folders, tmp_path, [(Dense(), 2.0), (LENGTH, 1.0)], missing_eos_penalty=0.0)
    for line in recorded(tmp_path):
        dense = 0.2 * line["length_tokens"]
        assert line["score_dense"] == pytest.approx(dense / 2, abs=1e-4)
        assert line["score"] == pytest.approx(line["score_length"] + dense, abs=1e-4)
        assert line["reward"] == pytest.approx(line["score"] - 0.05 * line["kl"], abs=1e-4)


def test_a_lone_model_of_marked_passages_is_a_reward_of_tokens_alone(folders, tmp_path):
    model = reward_model_from(tiny_model("llama"), seed=3)
    model.config.finds_spans = True
    folder = saved(model, tiny_tokenizer(), tmp_path / "artifact" / "model")
    found = run(folders, tmp_path, [RewardSource(kind="spans", path=folder)], eval_steps=3, held_out_prompts=2)
    lines = recorded(tmp_path)
    assert all(line["score_std"] > 0 for line in lines if "score_std" in line)
    assert lines[-1]["held_out_score"] != 0 and found.metrics["score"] != 0
    with pytest.raises(ModelError, match=r"trained on marked passages .*use kind: spans in ppo.rewards"):
        run(folders, tmp_path / "model", folder)


def test_a_stage_that_learned_from_marked_passages_gives_a_reward_of_tokens(tmp_path):
    spans = artifact(tmp_path / "spans", kinds=["spans"])
    (alone,) = chosen_rewards(PPOConfig(), {"reward": spans})
    assert (alone.kind, alone.path) == ("spans", tmp_path / "spans" / "model")
    both = chosen_rewards(PPOConfig(), {"reward": artifact(tmp_path), "reward_marked": spans})
    assert [one.kind for one in both] == ["model", "spans"]
    with pytest.raises(ConfigError, match="ppo.reward = x contradicts the stage reward"):
        chosen_rewards(PPOConfig(reward="x"), {"reward": spans})


@pytest.mark.parametrize(("rule", "settings"), [("worst", {}), ("mean_less_std", {"penalty": 0.5})])
def test_an_ensemble_of_which_less_is_better_stays_cautious(folders, rule, settings):
    turned = load_source(
        RewardSource(
            kind="ensemble", paths=folders[1:], rule=rule, direction="lower_is_better", name="harm", **settings
        ),
        torch.device("cpu"),
    )
    tokenizer = tiny_tokenizer()
    some = [Sample(PROMPTS[i], "", [1, 2], [3 + i], False, tokenizer) for i in range(4)]
    low = -torch.stack([RewardModel(path).score(some).total for path in folders[1:]])
    expected = low.min(0).values if rule == "worst" else low.mean(0) - 0.5 * low.std(0, correction=0)
    assert_close(turned.score(some).total, expected)
    assert len(list(reward_models(turned))) == 2
