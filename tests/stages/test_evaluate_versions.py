"""The evaluation of a line of versions: methods and rounds beside base and SFT."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from loopwright.loop import config_from
from loopwright.loop.plan import make_plan
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import POLICIES, Stage, StageConfig
from loopwright.stages.evaluate import STAGE, EvaluateConfig, bind, run
from loopwright.stages.evaluate_inputs import in_order, reference_of
from tests.stages.test_evaluate import CONTRACT, SMALL, files_of, inputs  # noqa: F401 (a fixture)

LINE = ("base", "sft", "dpo", "v1", "v2")


@pytest.fixture(scope="module")
def line(inputs):  # noqa: F811
    """v1 is base again, and dpo and v2 are SFT again."""
    folders = {name: inputs.versions["base" if name in ("base", "v1") else "sft"] for name in LINE}
    judges = {"even": lambda prompt, text: float(len(text) % 2 == 0), "long": lambda prompt, text: len(text) / 400}
    return replace(inputs, versions=folders, judges=judges, reward=None)


@pytest.fixture(scope="module")
def compared(line, tmp_path_factory):
    runtime = Runtime.temporary(tmp_path_factory.mktemp("run"), stage="evaluate")
    return runtime.output, run(SMALL, line, runtime).metrics


def test_the_form_of_the_summary_stays(compared):
    _, metrics = compared
    assert list(metrics["versions"]) == list(LINE)
    for version in metrics["versions"].values():
        assert set(version) == CONTRACT | {"adversarial"}
    json.dumps(metrics)


def test_rounds_stand_in_the_summary(compared):
    output, metrics = compared
    rounds = metrics["rounds"]
    assert list(rounds["elo"]) == list(LINE) and rounds["elo"]["sft"]["mean"] == 1000
    assert list(rounds["gained"]) == ["dpo", "v1", "v2"] and rounds["worse"] == []  # 12 prompts are too few to say
    steps = json.loads((output / "evaluation.json").read_text())["comparison"]["steps"]
    assert [(one["after"], one["version"]) for one in steps] == [("sft", "dpo"), ("dpo", "v1"), ("v1", "v2")]


def test_kl_is_to_sft_and_also_to_base(compared):
    """v1 is base: its KL to base is 0, that to SFT is not; dpo is SFT."""
    output, metrics = compared
    from_base = metrics["rounds"]["kl_from_base"]
    assert list(from_base) == ["sft", "dpo", "v1", "v2"]
    assert from_base["v1"] == 0.0 < metrics["versions"]["v1"]["kl"]
    assert metrics["versions"]["dpo"]["kl"] == metrics["versions"]["v2"]["kl"] == 0.0 < from_base["v2"]
    assert from_base["sft"] == metrics["versions"]["sft"]["kl"]
    rows = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    asked = {(row["set"], row["version"]) for row in rows if "kl_from_base" in row}
    assert asked == {("held_out", name) for name in LINE[1:]}


def test_one_policy_is_reported_as_before(line, tmp_path):
    three = replace(line, versions={name: line.versions[name] for name in ("base", "sft", "dpo")})
    runtime = Runtime.temporary(tmp_path, stage="evaluate")
    metrics = run(SMALL, three, runtime).metrics
    assert "rounds" not in metrics
    assert json.loads((runtime.output / "evaluation.json").read_text())["comparison"] is None
    assert "kl_from_base" not in (runtime.output / "samples.jsonl").read_text()


def test_a_killed_comparison_goes_on_where_it_was(line, compared, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    dying = Runtime.temporary(tmp_path, stage="evaluate")
    checkpoint = dying.checkpoint

    def fail(step, state):
        checkpoint(step, state)
        if step == 9:
            raise KilledError

    monkeypatch.setattr(dying, "checkpoint", fail)
    with pytest.raises(KilledError):
        run(SMALL, line, dying)
    again = Runtime.temporary(tmp_path, stage="evaluate")
    assert run(SMALL, line, again).metrics == compared[1]
    assert files_of(again.output) == files_of(compared[0])


def test_a_reference_is_sft_or_else_base():
    versions = ["base", "sft", "sft_clean", "v1"]
    assert [reference_of(name, versions) for name in versions] == [None, "base", "base", "sft"]
    assert reference_of("dpo", ["base", "dpo"]) == "base" and reference_of("dpo", ["dpo"]) is None


def test_versions_stand_in_the_order_they_were_made():
    assert in_order(["v1", "ppo", "sft_clean", "v2", "base", "sft"]) == ["base", "sft", "sft_clean", "v1", "ppo", "v2"]


def test_whatever_fills_a_role_of_its_own_name_is_a_version():
    made = {
        role: SimpleNamespace(file=lambda name, role=role: Path(role) / name, manifest=SimpleNamespace(config={}))
        for role in ("base", "sft", "dpo", "v1", "reward", "pretrain")
    }
    got = bind(EvaluateConfig(prompts=Path("mine.jsonl")), made)
    assert dict(got.versions) == {name: Path(name) / "model" for name in ("base", "sft", "dpo", "v1")}
    assert got.reward == Path("reward/model")


def test_the_plan_hands_every_policy_to_the_evaluation(monkeypatch):
    """A role with a star and candidates is filled by all of them that run before, in their order."""

    def stage(name, needs=None):
        nothing = lambda *given: []  # noqa: E731
        return Stage(name, StageConfig, needs or {}, nothing, nothing, nothing)

    names = [name for name in POLICIES if name not in ("sft", "pretrain")][::-1]
    table = {name: stage(name) for name in ("pretrain", "sft", "reward", *names)}
    table["evaluate"] = stage("evaluate", STAGE.needs)
    monkeypatch.setattr("loopwright.loop.plan.code_hashes", lambda module: {})
    config = config_from({"name": "x"} | {name: {} for name in table}, "here", stages=table)
    parents = make_plan(config, table).steps[-1].parents
    assert parents == {"base": "pretrain", "sft": "sft", "reward": "reward"} | {name: name for name in names}
    assert [role for role in parents if role in names] == names
