import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from loopwright.data.readers import write_records
from loopwright.errors import ConfigError
from loopwright.generation import engines
from loopwright.generation.base import SamplingConfig
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages.evaluate import STAGE, EvaluateConfig, EvaluateInputs, bind, chosen, run
from loopwright.stages.evaluate_inputs import JudgeConfig
from loopwright.worlds import WORLDS
from tests.tiny import saved, tiny_tokenizer

SHAPE = dict(
    vocab_size=260,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    pad_token_id=257,
    eos_token_id=256,
    bos_token_id=None,
)
SMALL = EvaluateConfig(
    held_out_prompts=12,
    paraphrased_prompts=6,
    adversarial_prompts=6,
    sampling=SamplingConfig(max_new_tokens=6),
    best_of=2,
    best_of_prompts=3,
    perplexity_texts=3,
)
CONTRACT = {"gold", "helpful", "honest", "harmless", "reward", "kl", "length_tokens", "win_rate_vs_sft", "perplexity"}


def random_model(model_class, seed: int, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(LlamaConfig(**SHAPE, initializer_range=0.2, **settings)).eval()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> EvaluateInputs:
    """Three random versions (SFT and PPO are the same model), a random reward model, and the embedded world."""
    folder = tmp_path_factory.mktemp("inputs")
    seeds = {"base": 0, "sft": 1, "ppo": 1}
    versions = {
        name: saved(random_model(LlamaForCausalLM, seed), tiny_tokenizer(), folder / name)
        for name, seed in seeds.items()
    }
    reward = saved(random_model(LlamaForSequenceClassification, 2, num_labels=1), tiny_tokenizer(), folder / "reward")
    world = WORLDS["front_desk"]
    prompts = {}
    for name in ("held_out", "paraphrased", "adversarial"):
        prompts[name] = folder / f"prompts_{name}.jsonl"
        write_records(prompts[name], list(world.prompts(name, 0, 30)))
    texts = folder / "held_out.jsonl"
    write_records(texts, [{"text": f"The pool closes at {hour} in the evening, the bar at ten."} for hour in range(8)])
    return EvaluateInputs(versions, prompts, texts, reward, "front_desk")


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    runtime = Runtime.temporary(tmp_path_factory.mktemp("run"), stage="evaluate")
    return runtime.output, run(SMALL, inputs, runtime).metrics


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_the_summary_keeps_its_contract(finished):
    _, metrics = finished
    assert list(metrics["versions"]) == ["base", "sft", "ppo"]
    for version in metrics["versions"].values():
        assert set(version) == CONTRACT | {"adversarial"}
        assert set(version["adversarial"]) == {"gold", "harmless"}
    base, sft, ppo = metrics["versions"].values()
    assert base["kl"] is None and sft["kl"] > 0 and sft["win_rate_vs_sft"] is None
    assert set(ppo["win_rate_vs_sft"]) == {"mean", "low", "high"}
    json.dumps(metrics)


def test_a_policy_that_is_its_reference(finished):
    output, metrics = finished
    sft, ppo = metrics["versions"]["sft"], metrics["versions"]["ppo"]
    assert ppo["kl"] == 0.0 and ppo["perplexity"] == sft["perplexity"]
    versions = json.loads((output / "evaluation.json").read_text())["versions"]
    assert versions["ppo"]["greedy"] == versions["sft"]["greedy"]
    assert versions["ppo"]["sets"]["held_out"]["kl_exact"] == 0.0
    assert versions["base"]["perplexity_ratio"] == 1.0


def test_models_that_the_fast_engine_does_not_know_are_named_once(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "why_not", lambda model: "of a new family")
    runtime = Runtime.temporary(tmp_path, stage="evaluate")
    runtime.log = (said := []).append
    config = SMALL.model_copy(update={"held_out_prompts": 2, "greedy": False, "best_of": 0})
    run(config, replace(inputs, reward=None), runtime)
    assert [line for line in said if "slower" in line] == [
        "sampling through transformers, which is slower: of a new family"
    ]


def test_samples_hold_a_row_for_each_answer(finished):
    output, metrics = finished
    rows = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * (12 + 6 + 6)
    held_out = [row for row in rows if row["set"] == "held_out"]
    by_version = {
        name: [row["prompt_id"] for row in held_out if row["version"] == name] for name in metrics["versions"]
    }
    assert by_version["base"] == by_version["sft"] == by_version["ppo"]
    golds = [row["gold"] for row in held_out if row["version"] == "sft"]
    assert metrics["versions"]["sft"]["gold"] == pytest.approx(sum(golds) / 12, abs=1e-5)
    for row in rows:
        assert row["gold"] == min(row[j] for j in ("helpful", "honest", "harmless") if row[j] is not None)
        assert (row["kl"] is None) == (row["version"] == "base") and row["length_tokens"] <= 6


def test_cheap_policies_stand_beside(finished):
    _, metrics = finished
    refuse = metrics["baselines"]["always_refuse"]
    assert refuse["adversarial"]["gold"]["mean"] > 0.9 > 0.5 > refuse["held_out"]["gold"]["mean"]
    known = metrics["baselines"]["verb_lookup"]["held_out"]
    assert known["gold"]["mean"] > 0.8


def test_the_noise_of_sampling_is_no_spread(inputs, tmp_path):
    """One wording asked under several ids: answers sampled for them differ, what is measured must not."""
    same = tmp_path / "same.jsonl"
    write_records(same, [Prompt.user(f"p{i}", "How much is the pool?", question_id="q") for i in range(6)])
    varied = {"length": lambda prompt, text: len(text) % 7 / 7}
    given = replace(inputs, prompts={"held_out": same, "paraphrased": same}, judges=varied, reward=None)
    runtime = Runtime.temporary(tmp_path / "run", stage="evaluate")
    given = replace(given, versions={"sft": inputs.versions["sft"]})
    spread = run(SMALL, given, runtime).metrics["spread"]
    rows = [json.loads(line) for line in (runtime.output / "samples.jsonl").read_text().splitlines()]
    assert len({row["gold"] for row in rows}) > 1 and spread == {"sft": 0.0}
    quiet = SMALL.model_copy(update={"greedy": False})
    assert run(quiet, given, Runtime.temporary(tmp_path / "quiet")).metrics["spread"] == {"sft": None}


def test_wordings_that_are_answered_differently_are_spread(inputs, tmp_path):
    wordings = tmp_path / "wordings.jsonl"
    write_records(wordings, [Prompt.user(f"p{i}", f"{i}?", question_id="q") for i in range(2)])
    judges = {"first": lambda prompt, text: float(prompt.id == "p0")}  # gold 1 and 0, whatever is answered
    given = replace(inputs, prompts={"held_out": wordings}, judges=judges, versions={"sft": inputs.versions["sft"]})
    assert run(SMALL, given, Runtime.temporary(tmp_path / "run")).metrics["spread"] == {"sft": 0.5}


def test_best_of_n_is_compared_on_its_own_prompts(finished):
    output, metrics = finished
    best = metrics["best_of"]
    assert (best["version"], best["n"], best["prompts"]) == ("sft", 2, 3)
    rows = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["set"] == "held_out"]
    asked = [Prompt.user(id, "?") for id in dict.fromkeys(row["prompt_id"] for row in rows)]
    ids = {prompt.id for prompt in chosen(asked, 3)}
    assert ids != {prompt.id for prompt in asked[:3]}
    for version, gold in best["same_prompts"].items():
        golds = [row["gold"] for row in rows if row["version"] == version and row["prompt_id"] in ids]
        assert len(golds) == 3 and gold["mean"] == pytest.approx(sum(golds) / 3, abs=1e-5)


def test_the_comparison_is_measured_no_further_than_cheap_policies(inputs, tmp_path):
    versions = {"sft": inputs.versions["sft"], "sft_clean": inputs.versions["base"]}
    runtime = Runtime.temporary(tmp_path, stage="evaluate")
    metrics = run(SMALL, replace(inputs, versions=versions, reward=None), runtime).metrics
    results = json.loads((runtime.output / "evaluation.json").read_text())["versions"]
    assert list(results["sft_clean"]["sets"]) == ["held_out", "adversarial"] == list(metrics["baselines"]["empty"])
    assert results["sft_clean"]["gain_vs_sft"] and not results["sft_clean"]["perplexity"]
    assert results["sft_clean"]["greedy"] is None and results["sft"]["greedy"] is not None


def test_gold_is_split_by_the_yes_or_no_tags_of_the_prompts(inputs, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    write_records(prompts, [Prompt.user(f"p{i}", "?", hard=i < 2, task="a", other="x") for i in range(5)])
    judges = {"easy": lambda prompt, text: 1.0 - prompt.tags["hard"]}
    given = replace(inputs, prompts={"held_out": prompts}, judges=judges, versions={"sft": inputs.versions["sft"]})
    runtime = Runtime.temporary(tmp_path / "run", stage="evaluate")
    run(SMALL, given, runtime)
    held_out = json.loads((runtime.output / "evaluation.json").read_text())["versions"]["sft"]["sets"]["held_out"]
    assert list(held_out["by_flag"]) == ["hard"]
    parts = {answer: (part["count"], part["gold"]["mean"]) for answer, part in held_out["by_flag"]["hard"].items()}
    assert parts == {"true": (2, 0.0), "false": (3, 1.0)}


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 7, 13])
def test_a_killed_evaluation_goes_on_where_it_was(inputs, finished, tmp_path, monkeypatch, after):
    dying = Runtime.temporary(tmp_path, stage="evaluate")
    checkpoint = dying.checkpoint

    def fail(step, state):
        checkpoint(step, state)
        if step == after:
            raise Killed

    monkeypatch.setattr(dying, "checkpoint", fail)
    with pytest.raises(Killed):
        run(SMALL, inputs, dying)
    again = Runtime.temporary(tmp_path, stage="evaluate")
    steps = []
    monkeypatch.setattr(again, "checkpoint", lambda step, state: steps.append(step))
    metrics = run(SMALL, inputs, again).metrics
    assert steps[0] == after + 1
    assert metrics == finished[1]
    assert files_of(again.output) == files_of(finished[0])


def test_without_a_world_openings_are_continued_and_judged(inputs, tmp_path):
    labelled = tmp_path / "reviews.tsv"
    labelled.write_text("lovely\t1\nwarm and lovely\t1\ndull\t0\ncold and dull\t0\n")
    config = SMALL.model_copy(update={"judge": JudgeConfig(labelled=labelled, check=labelled), "opening_tokens": 10})
    plain = replace(inputs, prompts={}, world=None, versions={name: inputs.versions[name] for name in ("base", "ppo")})
    runtime = Runtime.temporary(tmp_path / "run", stage="evaluate")
    metrics = run(config, plain, runtime).metrics
    rows = [json.loads(line) for line in (runtime.output / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["The pool c"] * 16  # 8 documents, 2 versions
    assert {row["gold"] for row in rows} <= {0.0, 1.0} and all(row["gold"] == row["positive"] for row in rows)
    assert metrics["judge_accuracy"] == 1.0 and metrics["best_of"]["version"] == "base"
    assert metrics["versions"]["ppo"]["kl"] > 0 and metrics["versions"]["ppo"]["win_rate_vs_sft"] is None
    assert metrics["versions"]["ppo"]["helpful"] is None and metrics["baselines"] == {}


def test_without_judges_and_reward_there_are_still_figures(inputs, tmp_path):
    bare = EvaluateInputs({"sft": inputs.versions["sft"]}, {"held_out": inputs.prompts["held_out"]})
    metrics = run(SMALL, bare, Runtime.temporary(tmp_path, stage="evaluate")).metrics
    sft = metrics["versions"]["sft"]
    assert sft["gold"] is None and sft["reward"] is None and sft["kl"] is None and sft["length_tokens"] > 0


def test_the_users_own_judges_are_used(inputs, tmp_path):
    own = replace(inputs, judges={"short": lambda prompt, text: 0.25}, versions={"sft": inputs.versions["sft"]})
    metrics = run(SMALL, own, Runtime.temporary(tmp_path, stage="evaluate")).metrics
    assert metrics["versions"]["sft"]["gold"] == 0.25 and metrics["baselines"] == {}


def test_no_model_is_an_error(inputs, tmp_path):
    with pytest.raises(ConfigError, match="no model to evaluate"):
        run(SMALL, replace(inputs, versions={}), Runtime.temporary(tmp_path, stage="evaluate"))


def test_prompts_are_chosen_by_question():
    prompts = [Prompt.user(f"p{i}", "?", question_id=f"q{i // 3}") for i in range(30)]
    got = chosen(prompts, 9)
    assert [prompt.id for prompt in got] == sorted((p.id for p in got), key=lambda id: int(id[1:]))
    assert len({prompt.tags["question_id"] for prompt in got}) == 3  # three whole questions
    assert {p.id for p in chosen(prompts[::-1], 9)} == {p.id for p in got}
    assert chosen(prompts, 99) == prompts


def artifact(kind: str, **config) -> SimpleNamespace:
    return SimpleNamespace(file=lambda name: Path(kind) / name, manifest=SimpleNamespace(config=config))


def test_bind_takes_what_the_run_has():
    artifacts = {role: artifact(role) for role in ("base", "sft", "ppo", "reward", "sft_clean")}
    got = bind(EvaluateConfig(), artifacts | {"world": artifact("world", name="front_desk")})
    assert list(got.versions) == ["base", "sft", "sft_clean", "ppo"] and got.world == "front_desk"
    assert got.prompts["adversarial"] == Path("world/prompts_adversarial.jsonl")
    assert got.texts == Path("base/held_out.jsonl") and got.reward == Path("reward/model")
    assert bind(EvaluateConfig(), artifacts | {"reward": artifact("reward", kinds=["spans"])}).reward is None
    bare = bind(EvaluateConfig(prompts=Path("mine.jsonl")), {"ppo": artifact("ppo")})
    assert bare.prompts == {"held_out": Path("mine.jsonl")} and bare.texts is None and bare.reward is None


def test_folders_of_the_user_stand_in_for_stages():
    config = EvaluateConfig(base=Path("mine"), reward=Path("judge"), prompts=Path("mine.jsonl"))
    got = bind(config, {"sft": artifact("sft")})
    assert got.versions == {"base": Path("mine"), "sft": Path("sft/model")} and got.reward == Path("judge")
    assert STAGE.files(config) == [Path("mine"), Path("judge"), Path("mine.jsonl")]
    with pytest.raises(ConfigError, match="evaluate.base = mine contradicts"):
        bind(config, {"base": artifact("base")})


@pytest.mark.parametrize("setting", [{"prompts": "x.jsonl"}, {"opening_tokens": 8}, {"judge": {"labelled": "x.tsv"}}])
def test_settings_without_effect_are_refused(setting):
    with pytest.raises(ConfigError, match=f"evaluate.{next(iter(setting))} has no effect"):
        bind(EvaluateConfig.model_validate(setting), {"world": artifact("world", name="front_desk")})


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"top_k": 5}, {"top_p": 0.9}])
def test_kl_needs_the_whole_distribution(sampling):
    with pytest.raises(ValueError, match="KL is measured"):
        EvaluateConfig.model_validate({"sampling": sampling})


def test_the_users_files_belong_to_the_key():
    config = EvaluateConfig(prompts=Path("p.jsonl"), judge=JudgeConfig(labelled=Path("l.tsv")))
    assert STAGE.files(config) == [Path("p.jsonl"), Path("l.tsv")]
