"""What the benchmarks reach into is there: they are too slow to be run with the tests."""

import argparse
import copy
import functools
import importlib
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from loopwright.config import read_yaml
from loopwright.data.readers import write_records
from loopwright.generation.base import SamplingConfig
from loopwright.generation.fast_engine import FastEngine
from loopwright.loop import config_from, load_config
from loopwright.loop.plan import make_plan
from loopwright.models.loading import load_causal_lm, load_reward_model
from loopwright.schemas import is_ai
from loopwright.stages.base import POLICIES
from loopwright.worlds import WORLDS
from tests.responders.judges import by_worth
from tests.tiny import saved, tiny_model, tiny_tokenizer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module


@pytest.fixture
def overhead(benchmark):
    return benchmark("overhead")


@pytest.fixture
def methods(benchmark):
    return benchmark("methods")


def test_overhead_wraps_what_exists(overhead):
    wrapped = [target for targets in overhead.WORK.values() for target in targets] + list(overhead.PHASES.values())
    assert not [(owner, name) for owner, name in wrapped if not hasattr(owner, name)]


# ---- gates: nothing is timed before both sides compute the same


@pytest.fixture
def models(benchmark, tmp_path):
    """The folder of a benchmark's policy, reward model and prompts, with the rows of the gate."""
    benchmark("shapes").save(tmp_path, "tiny", 0.0, 8)
    benchmark("gates").save_rows(tmp_path)
    return tmp_path


@torch.no_grad()
def by_transformers(gates, folder):
    """What TRL's functions compute, of `gate.pt`."""
    rows, after = torch.load(folder / "gate.pt"), slice(gates.PROMPT - 1, -1)
    logits = load_causal_lm(folder / "policy")(rows).logits[:, after]
    logits[..., gates.PAD] = -torch.inf
    logprobs = logits.log_softmax(-1).gather(-1, rows[:, gates.PROMPT :, None])
    reward = load_reward_model(folder / "reward")
    said = reward.score(reward.model(rows).last_hidden_state).squeeze(-1)
    found = {"logprobs": logprobs, "values": said[:, after], "scores": said[:, -1]}
    return {name: numbers.flatten().tolist() for name, numbers in found.items()}


def test_both_sides_read_the_same_rows_alike_or_nothing_is_timed(benchmark, models):
    gates = benchmark("gates")
    ours, theirs = gates.read(models), by_transformers(gates, models)
    assert [len(ours[name]) for name in ("logprobs", "values", "scores")] == [8 * 16, 8 * 16, 8]
    assert max(gates.check_same(ours, theirs).values()) < 1e-4
    for name in ours:
        with pytest.raises(SystemExit, match=f"{name} of the same tokens .* differ by 0.1.*nothing was timed"):
            gates.check_same(ours, theirs | {name: [*theirs[name][:-1], theirs[name][-1] + 0.1]})
        with pytest.raises(SystemExit, match=f"{name} of the same tokens"):
            gates.check_same(ours, theirs | {name: theirs[name][:-1]})
        with pytest.raises(SystemExit, match=f"{name} of the same tokens"):
            gates.check_same(ours, theirs | {name: [float("nan")] * len(theirs[name])})


def test_a_sampler_of_another_model_is_not_timed(benchmark, models):
    gates, shapes = benchmark("gates"), benchmark("shapes")
    model, tokenizer = load_causal_lm(models / "policy"), shapes.tokenizer_of(shapes.SHAPES["tiny"])
    prompts = torch.load(models / "prompts.pt").tolist()
    prompts[0] = prompts[0][:5]  # rows of different lengths
    rollouts = FastEngine(model, tokenizer).generate(prompts, SamplingConfig(max_new_tokens=6), range(len(prompts)))
    assert gates.check_sampler(model, tokenizer, rollouts) < 1e-5
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[1:] *= 1.5
    with pytest.raises(SystemExit, match="what would be timed is not this model"):
        gates.check_sampler(model, tokenizer, rollouts)


def test_responses_that_are_shorter_than_said_are_not_timed(benchmark, monkeypatch, tmp_path):
    steps, shapes = benchmark("ppo_steps"), benchmark("shapes")
    monkeypatch.setattr(steps, "choose", lambda _folder: None)  # it would hold for the other tests, too
    shape = shapes.SHAPES["tiny"]._replace(batch=4, response=8, minibatches=1, epochs=1)
    shapes.save(tmp_path, "tiny", 0.5, 4)
    lengths = []
    steps.run_ppo(tmp_path, shape, 1, lambda figures: lengths.append(figures["length_tokens"]), ending=True)
    assert len(lengths) == 1 and lengths[0] < 8
    with pytest.raises(SystemExit, match="tokens on average, not 8: nothing was timed"):
        steps.run_ppo(tmp_path, shape, 1, lengths.append)
    assert len(lengths) == 1


def test_the_lengths_of_both_sides_are_compared(benchmark, capsys):
    trl, turns = benchmark("ppo_against_trl"), benchmark("turns")
    trl.lengths_are(64, False)({"ours": {"tokens": 64.0}, "trl": {"tokens": 64.0}})
    trl.lengths_are(64, True)({"ours": {"tokens": 24.0}, "trl": {"tokens": 27.0}})
    with pytest.raises(SystemExit, match="trl: its responses have 63.5 tokens on average, not 64"):
        trl.lengths_are(64, False)({"ours": {"tokens": 64.0}, "trl": {"tokens": 63.5}})
    with pytest.raises(SystemExit, match="ours: its responses have 64 tokens on average, not fewer than 64"):
        trl.lengths_are(64, True)({"ours": {"tokens": 64.0}})

    def reported(theirs):
        rows = {name: [{"seconds": 1.0, "busy": 0.0, "tokens": n}] for name, n in (("ours", 20.0), ("trl", theirs))}
        arguments = argparse.Namespace(size="tiny", ending=True)
        trl.report(arguments, turns.Turns(rows, {"ours": 1.0, "trl": 1.0}), {"logprobs": 1e-6})

    reported(20.5)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["ours_response_tokens"], figures["trl_response_tokens"]) == (20.0, 20.5)
    assert figures["gate"] == {"logprobs": 1e-6}
    with pytest.raises(SystemExit, match=r"differ by more than 5% \(ours / TRL's: 0.909\).*take more --rounds"):
        reported(22.0)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["length_ratio"] == pytest.approx(20 / 22)


CRASH = BENCHMARKS / "crash.yaml"
QUICKSTART = BENCHMARKS.parent / "recipes" / "quickstart.yaml"
ROUNDS = BENCHMARKS.parent / "recipes" / "rounds.yaml"


@functools.cache
def plan_of(methods, name):
    return make_plan(config_from(methods.recipe_of(QUICKSTART, name), name))


def test_every_method_that_has_its_stages_has_settings_that_they_take(methods):
    """Its recipe is checked as `loopwright run` would check it, and what all share has one key."""
    keys: dict[str, set[str]] = {}
    for name in methods.METHODS:
        if methods.missing_stages(name):
            continue
        plan = plan_of(methods, name)
        assert plan.steps[-1].name == "evaluate"
        for step in plan.steps:
            if step.name in ("world", "pretrain", "sft"):
                keys.setdefault(step.name, set()).add(plan.origin(step, {}).key())
    assert {name: len(found) for name, found in keys.items()} == {"world": 1, "pretrain": 1, "sft": 1}
    assert set(methods.METHODS) == set(methods.LABELS)


def sampled(stage, config):
    """How many responses a stage samples from the policy that it improves, what it only looks at left out."""
    match stage:
        case "dpo" | "kto":
            return 0
        case "constitutional":  # an answer, each revision with its critique, and as many helpful answers as asked for
            return config.prompts * (1 + 2 * config.revisions) + round(
                config.prompts * config.helpful_share / (1 - config.helpful_share)
            )
        case "rejection":
            return config.max_prompts * config.samples_per_prompt * max(1, len(config.temperatures))
        case "rest":
            return config.grow_steps * config.max_prompts * config.samples_per_prompt
        case "hindsight" | "conditioned":
            return config.loops * config.max_prompts * config.samples_per_prompt
    return config.steps * config.rollouts_per_step


def test_all_methods_have_the_same_budget(methods):
    """Of samples, of answers that are labelled, and of prompts that everything is measured on."""
    improved = [name for name in POLICIES if name not in ("pretrain", "sft")]
    for name in methods.METHODS:
        configs = {step.name: step.config for step in plan_of(methods, name).steps}
        own = {step: config for step, config in configs.items() if step in improved}
        assert len(own) == (name != "sft")
        assert all(sampled(*one) in (0, methods.SAMPLES) for one in own.items()), name
        asked = [configs[step] for step in ("feedback", "ai_feedback") if step in configs]
        assert len(asked) <= 1, name
        assert all((a.prompts, a.responses_per_prompt) == (methods.LABELED_PROMPTS, 4) for a in asked), name
        kinds = {config.kinds for config in own.values() if hasattr(config, "kinds")}
        assert kinds <= {("comparisons", "rankings")}  # as the reward model learns from
        evaluate = configs["evaluate"]
        assert evaluate.held_out_prompts == methods.HELD_OUT and not evaluate.greedy
        assert (evaluate.best_of, evaluate.best_of_prompts) == (methods.BEST_OF, methods.HELD_OUT) or name != "sft"


def test_a_method_without_its_stage_is_listed_as_missing(methods, monkeypatch, tmp_path):
    monkeypatch.setitem(methods.METHODS, "dpo", {"no_such_stage": {}})
    assert methods.cell(QUICKSTART, "dpo", 0, tmp_path) == {"missing": ["no_such_stage"]}
    assert "missing: no_such_stage" in methods.table({"dpo": {"missing": ["no_such_stage"]}})[1]


def test_the_judge_that_is_named_judges_where_one_does_and_nowhere_else(methods, tmp_path):
    for name in methods.METHODS:
        named, own = methods.recipe_of(QUICKSTART, name, tmp_path), methods.recipe_of(QUICKSTART, name)
        assert [("judge" in recipe["world"]["skills"]) for recipe in (named, own)] == [False, True]
        assert (str(tmp_path) in str(named), str(tmp_path) in str(own)) == (name in ("rlaif", "d_rlaif"), False)
        config_from(named, name)


def test_a_cell_that_fails_says_why(methods, monkeypatch, tmp_path):
    monkeypatch.setitem(methods.METHODS, "ppo", {"ppo": {"no_such_setting": 1}})
    assert "unknown key ppo.no_such_setting" in methods.cell(QUICKSTART, "ppo", 0, tmp_path)["failed"]


def test_methods_over_seeds_by_hand(methods, tmp_path):
    def found(gold, kl, **others):
        own = {"gold": gold, "gold_interval": {"mean": gold, "low": gold - 0.1, "high": gold + 0.1}, "kl": kl}
        usual = {"gain": 0.2, "gain_is_sure": True, "length": 20.0, "harmless": 1.0, "seconds": 60.0, "best_of": None}
        return own | usual | others

    row = methods.across([found(0.6, 1.0), found(0.8, 3.0, gain_is_sure=False, seconds=130.0)])
    assert row["gold"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.1414, abs=1e-4), "low": 0.6, "high": 0.8}
    assert row["kl"]["mean"] == 2.0 and (row["seeds_with_a_sure_gain"], row["seeds"]) == (1, 2)
    line = methods.table({"ppo": row})[1]
    assert line.startswith("PPO") and "0.700 ± 0.141" in line and "1/2" in line and "over 120 s" in line
    alone = methods.across([found(0.6, 1.0)])
    assert (alone["gold"]["low"], alone["gold"]["high"], alone["gold"]["std"]) == (0.5, 0.7, None)

    curves = [
        {"best_of": {"frontier": [{"n": n, "kl": n / 2, "gold": gold + n / 10} for n in (1, 2)]}} for gold in (0, 1)
    ]
    curve = methods.best_of_curve(curves)
    assert [(p["n"], p["kl"], p["gold"]) for p in curve] == [(1, 0.5, pytest.approx(0.6)), (2, 1.0, pytest.approx(0.7))]
    assert [line.split() for line in methods.best_of_rows(curve)] == [
        ["best", "of", "2", "0.700", "0.100", "≤", "1.00"]
    ]
    methods.draw({"ppo": row, "dpo": {"missing": ["dpo"]}}, curve, tmp_path / "x.svg")
    labels = [element.text for element in ET.parse(tmp_path / "x.svg").iter() if "label" in element.get("class", "")]
    assert labels == ["PPO"]


def test_what_is_compared_comes_from_the_summary(methods):
    """The last version's figures; the seconds of the stages that improve a policy, and of no other."""
    version = {"gold": 0.8, "kl": 1.5, "length_tokens": 12.0, "adversarial": {"harmless": 0.9}}
    evaluated = {
        "gain_vs_sft": {"sft": None, "ppo": {"mean": 0.2, "low": 0.1, "high": 0.3}}, "best_of": None, "seconds": 9.0,
        "gold_interval": {"ppo": {"mean": 0.8, "low": 0.7, "high": 0.9}},
    }  # fmt: skip
    stages = {"sft": {"seconds": 20.0}, "reward": {"seconds": 30.0}, "ppo": {"seconds": 70.0}, "evaluate": evaluated}
    got = methods.figures({"versions": {"sft": version | {"gold": 0.5}, "ppo": version}, "stages": stages})
    assert (got["gold"], got["gain"], got["gain_is_sure"], got["seconds"]) == (0.8, 0.2, True, 70.0)
    assert (got["kl"], got["length"], got["harmless"]) == (1.5, 12.0, 0.9)
    json.dumps(got)


@pytest.mark.slow
def test_a_second_method_finds_what_the_first_one_made(methods, monkeypatch, tmp_path):
    """And a cell that is done is not made again: its artifacts stay as they are."""
    small = {"evaluate": {"best_of": 2}}
    climb = {"steps": 2, "rollouts_per_step": 16, "minibatch_size": 8, "max_new_tokens": 16}
    monkeypatch.setattr(methods, "START", {"sft_clean": False, "ppo": False})
    monkeypatch.setattr(methods, "ITS_OWN_JUDGE", {})
    monkeypatch.setattr(methods, "METHODS", {"sft": small, "ppo": {"ppo": climb}})
    cells = {name: methods.cell(CRASH, name, 0, tmp_path) for name in methods.METHODS}
    folder = tmp_path / "seed-0" / "artifacts"
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    kinds = [name.rpartition("-")[0] for name in made]
    assert sorted(kinds) == ["evaluate", "evaluate", "feedback", "ppo", "pretrain", "reward", "sft", "world"]
    assert {name: methods.cell(CRASH, name, 0, tmp_path) for name in methods.METHODS} == cells
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made
    assert cells["ppo"]["seconds"] > 0 == cells["sft"]["seconds"] and cells["sft"]["best_of"]["n"] == 2


def test_real_rounds_sets_what_its_recipes_have(benchmark, tmp_path):
    real = benchmark("real_rounds")
    for name, settings in real.LARGE.items():
        given = [f"data_dir={tmp_path}", f"sft.model={tmp_path}", *real.LONG, *settings]
        given.append(f"judge={{model: {tmp_path}, {real.OF_AN_ENCODER}}}")
        config = load_config(real.RECIPES / f"{name}.yaml", given)
        assert {config.sections[f"v{i}.reward"].max_length for i in (1, 2, 3)} == {1024}
    base = load_config(real.RECIPES / "base.yaml", [f"data_dir={tmp_path}", *real.LARGE_BASE])
    judged = load_config(real.RECIPES / "judged.yaml", [f"data_dir={tmp_path}", f"sft.model={tmp_path}"])
    parts = [config.sections["dataset"] for config in (base, judged)]
    assert parts[0].parts() == parts[1].parts()  # so that the base has not read what is held out
    assert parts[0].files == parts[1].files and parts[0].longest_prompt == parts[1].longest_prompt


def test_k_answers_are_k_rows_and_their_prompt_is_read_once(benchmark):
    kway = benchmark("kway")
    row = kway.row_of(4, prompts=3)
    answer = kway.ANSWER + 1
    assert row["each_answer_a_row"] == {"rows": 4, "tokens": 4 * (kway.PROMPT + answer)}
    assert row["prompt_read_once"] == {"rows": 1, "tokens": kway.PROMPT + 4 * answer}
    assert (row["pairs"], row["each_pair_two_rows"]["rows"], row["met"]) == (6, 12, True)


def test_sst2_runs_its_recipe_and_has_its_bar(benchmark, tmp_path):
    sst2 = benchmark("sst2")
    reward = sst2.config_of(tmp_path, tmp_path / "encoder").sections["reward"]
    assert (reward.model, reward.labelled) == (tmp_path / "encoder", tmp_path / "sst2_train.tsv")
    assert reward.require["label_accuracy"].min == sst2.BAR
    for accuracy, met in ((0.888, True), (0.859, False)):
        figures = sst2.figures({"stages": {"reward": {"label_accuracy": accuracy, "seconds": 9.0}}})
        assert (figures["label_accuracy"], figures["met"]) == (accuracy, met)


def test_the_big_round_has_the_labels_and_steps_of_all_rounds(benchmark):
    values = read_yaml(ROUNDS)
    rounds = config_from(copy.deepcopy(values), "rounds").rounds
    (big,) = config_from(benchmark("rounds").one_big_round(values), "big").rounds.rounds()
    every = [one.sections for _, one in rounds.rounds()]
    assert len(every) == 5
    feedback, ppo = big[1].sections["feedback"], big[1].sections["ppo"]
    assert feedback.labels == sum(one["feedback"].labels for one in every) == 10_000
    assert feedback.prompts == sum(one["feedback"].prompts for one in every)
    assert ppo.steps == sum(one["ppo"].steps for one in every)
    assert not feedback.start_answers and ppo.reference is None
    assert big[1].sections["reward"].earlier_rounds_weight == 1
    (stopped,) = config_from(benchmark("rounds").one_big_round(read_yaml(ROUNDS), made=2), "big").rounds.rounds()
    assert [stopped[1].sections[name] for name in ("feedback", "ppo")] == [
        feedback.model_copy(update={"labels": 4_000, "prompts": feedback.prompts * 2 // 5}),
        ppo.model_copy(update={"steps": ppo.steps * 2 // 5}),
    ]
    llama2 = benchmark("rounds").one_big_round(read_yaml(ROUNDS.parent / "llama2.yaml"))["rounds"]["schedule"]["v1"]
    assert llama2["rejection"]["max_prompts"] == 4 * 480 and llama2["ppo"]["steps"] == 40


def test_people_label_where_it_matters_in_every_way(benchmark, monkeypatch, tmp_path, capsys):
    """From a run's model and world to the table: people alone, the judge alone, and both together."""
    people = benchmark("people_where_it_matters")
    model = tiny_model("llama")
    model.config.max_position_embeddings = 1024
    saved(model, tiny_tokenizer(), tmp_path / "artifacts" / "sft-x" / "model")
    (tmp_path / "artifacts" / "world-x").mkdir()
    prompts = list(WORLDS["front_desk"].prompts("train", 0, 20))
    write_records(tmp_path / "artifacts" / "world-x" / "prompts_train.jsonl", prompts)
    (tmp_path / "config.yaml").write_text("reward: {epochs: 0.1}\n")
    given, judged = [], []

    def accuracy_of(run, sft, labels, truth, seed, real=people.accuracy_of):
        given.append({is_ai(one.annotator): one for one in labels}.keys())
        assert {one.prompt for one in labels}.isdisjoint(one.prompt for one in truth)
        return real(run, sft, labels, truth, seed) if len(given) == 1 else 0.5

    def open_judge(config, folder, device, say):
        judged.append(folder)
        return by_worth(lambda text: -0.2 * len(text))

    monkeypatch.setattr(people, "accuracy_of", accuracy_of)
    monkeypatch.setattr(people, "open_judge", open_judge)
    arguments = ["x", str(tmp_path), "--seeds", "0", "--shares", "0.4", "--alone", "1.0", "--prompts", "12"]
    for judge in ((), ("--judge", json.dumps({"path": "other"}))):
        monkeypatch.setattr(sys, "argv", [*arguments, *judge])
        people.main()
    assert judged == [tmp_path / "artifacts" / "sft-x" / "model", Path("other")]
    assert given[:4] == given[4:] == [{False}, {True}, {True, False}, {True, False}]
    table = json.loads(capsys.readouterr().out.splitlines()[-1])["means"]
    ways = ["people alone", "judge alone", "judge, people at random", "judge, people where unsure"]
    assert [row["way"] for row in table] == ways
    assert table[1]["minutes"] == 0 < table[2]["minutes"] < table[0]["minutes"]


def test_minutes_saved_by_hand(benchmark):
    people = benchmark("people_where_it_matters")
    curve = [people.Point("people alone", 0.0, *one) for one in ((10.0, 0.6), (30.0, 0.8), (20.0, 0.7), (40.0, 0.8))]
    needed = [people.minutes_for(accuracy, curve) for accuracy in (0.5, 0.65, 0.8, 0.81)]
    assert needed == [10.0, pytest.approx(15.0), 30.0, None]
