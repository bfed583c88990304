"""Rounds: who feeds whom, what a change reruns, when no further round is begun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from loopwright.errors import ConfigError
from loopwright.loop import config_from, run, status
from loopwright.loop.config import load_config, resolved_text
from loopwright.loop.plan import make_plan
from loopwright.loop.rounds import StopConfig, why_stop
from loopwright.runtime import Runtime
from loopwright.schemas.steps import named, round_of, stage_of, version_of
from loopwright.stages import feedback, ppo, world
from loopwright.stages.base import POLICIES, Stage, StageConfig, StageOutput, ages_of_rounds
from tests.loop.test_run import Log
from tests.loop.toys import no_files, no_report, outcome


class ToyConfig(StageConfig):
    labels: int = 10
    gain: float = 1.0
    kl: float = 1.0


@dataclass(frozen=True)
class ToyInputs:
    parents: dict[str, Path]  # role -> that artifact's file


def bind(config, artifacts):
    return ToyInputs({role: one.path / "said.txt" for role, one in artifacts.items()})


def work(config: ToyConfig, inputs: ToyInputs, runtime: Runtime) -> StageOutput:
    heard = (f"{role}={file.read_text()}" for role, file in sorted(inputs.parents.items()))
    said = f"{runtime.stage}({', '.join(heard)})"
    (runtime.output / "said.txt").write_text(f"{said}{config.gain:g}")
    runtime.record(1, {"length": len(said)})
    version = version_of(runtime.stage)
    measured = {"versions": {version: {"kl": config.kl}}, "rounds": {"gained": {version: config.gain > 0}}}
    return StageOutput({"labels": config.labels} | (measured if stage_of(runtime.stage) == "evaluate" else {}))


def toy(name, **needs):
    return Stage(name, ToyConfig, needs, bind, work, no_files)


TOYS = {
    "sft": toy("sft"),
    "feedback": toy("feedback", policy=POLICIES),
    "reward": toy("reward", **{"model": ("sft",), "judged.*": ("feedback",)}),
    "reward_safe": toy("reward_safe", **{"model": ("sft",), "judged.*": ("feedback",)}),
    "ppo": toy("ppo", **{"policy": POLICIES, "reward": ("reward",), "reward_*": ()}),
    "evaluate": toy("evaluate", **{"sft": ("sft",), "version_*": POLICIES, "reward": ("reward",)}),
}
METHOD = {"feedback": {}, "reward": {}, "reward_safe": {}, "ppo": {}}


def recipe(schedule=None, **rounds):
    return {
        "name": "rounds",
        "tensorboard": False,
        "sft": {},
        "rounds": {"schedule": schedule or {"v1-v2": METHOD}} | rounds,
        "evaluate": {},
    }


def plan_of(values):
    return make_plan(config_from(values, "here", stages=TOYS), TOYS)


def go(tmp_path, values, out="run"):
    log = Log()
    summary = run(config_from(values, "here", stages=TOYS), tmp_path / out, stages=TOYS, render=no_report, display=log)
    return summary, log


def made(log):
    """The steps that were not skipped."""
    steps = [line.split("] ")[1] for line in log.lines if line.startswith("[")]
    skipped = {line.split(":")[0] for line in log.lines if "not run again" in line}
    return [step for step in steps if step not in skipped]


def test_names_of_steps():
    assert named(3, "reward_safe") == "v3.reward_safe"
    assert (round_of("v12.ppo"), stage_of("v12.ppo"), version_of("v12.ppo")) == (12, "ppo", "v12")
    assert (round_of("ppo"), stage_of("ppo"), version_of("ppo")) == (0, "ppo", "ppo")


def test_each_round_goes_on_from_the_one_before():
    steps = {step.name: step.parents for step in plan_of(recipe()).steps}
    assert list(steps) == [
        "sft",
        *(f"v1.{name}" for name in METHOD),
        *(f"v2.{name}" for name in METHOD),
        "evaluate",
    ]
    assert steps["v1.feedback"] == {"policy": "sft"}
    assert steps["v2.feedback"] == {"policy": "v1.ppo"}
    assert steps["v2.reward"] == {"model": "sft", "v1.feedback": "v1.feedback", "v2.feedback": "v2.feedback"}
    assert steps["v2.ppo"] == {"policy": "v1.ppo", "reward": "v2.reward", "reward_safe": "v2.reward_safe"}
    assert steps["evaluate"] == {
        "sft": "sft", "v1": "v1.ppo", "v2": "v2.ppo", "reward": "v2.reward",
    }  # fmt: skip


def test_a_round_is_evaluated_against_the_one_before_and_the_end_against_all():
    steps = {step.name: step.parents for step in plan_of(recipe({"v1-v3": {"ppo": {}, "evaluate": {}}})).steps}
    assert steps["v1.evaluate"] == {"sft": "sft", "v1": "v1.ppo"}
    assert steps["v3.evaluate"] == {"sft": "sft", "v2": "v2.ppo", "v3": "v3.ppo"}
    assert steps["evaluate"] == {"sft": "sft", "v1": "v1.ppo", "v2": "v2.ppo", "v3": "v3.ppo"}


def test_rounds_may_differ_and_settings_belong_to_one():
    values = recipe({"v1": METHOD, "v2": {"feedback": {"labels": 7}, "ppo": {}}, "v3": METHOD})
    steps = {step.name: step for step in plan_of(values).steps}
    assert [step.config.labels for name, step in steps.items() if stage_of(name) == "feedback"] == [10, 7, 10]
    assert steps["v2.ppo"].parents["reward"] == "v1.reward"  # the nearest one


def test_what_stands_outside_of_rounds_comes_before_them_but_for_what_looks_at_the_end():
    stages = TOYS | {"red_team": toy("red_team", policy=POLICIES)}
    values = recipe({"v1-v2": {"ppo": {}}}) | {"red_team": {}, "feedback": {}}
    steps = make_plan(config_from(values, "here", stages=stages), stages).steps
    assert [step.name for step in steps] == ["sft", "feedback", "v1.ppo", "v2.ppo", "evaluate", "red_team"]
    assert steps[-1].parents == {"policy": "v2.ppo"}


@pytest.mark.parametrize(
    ("collected", "ages"),
    [
        (("dataset", "v1.feedback", "v1.ai_feedback", "v3.feedback"), (3, 2, 2, 0)),
        (("v1.feedback",), (0,)),
        (("feedback",), (0,)),
    ],
)
def test_labels_age_with_the_rounds(collected, ages):
    """Counted from the newest labels; those of before the rounds are older than any."""
    artifacts = [SimpleNamespace(manifest=SimpleNamespace(kind=step)) for step in collected]
    assert ages_of_rounds("reward", 1.0, artifacts) == ages


def test_of_several_reward_models_those_of_the_nearest_round_count_together():
    """None that the newest round has left out is mixed in from the round before."""
    stages = dict(list(TOYS.items())[:4]) | {"reward_kind": TOYS["reward_safe"]} | dict(list(TOYS.items())[4:])
    both = {"reward_safe": {}, "reward_kind": {}, "ppo": {}}
    values = recipe({"v1": both, "v2": {"reward_safe": {}, "ppo": {}}, "v3": {"ppo": {}}})
    parents = {step.name: step.parents for step in make_plan(config_from(values, "here", stages=stages), stages).steps}
    named = {name: {role: parents[name][role] for role in parents[name] if "reward" in role} for name in parents}
    assert named["v1.ppo"] == {"reward_safe": "v1.reward_safe", "reward_kind": "v1.reward_kind"}
    assert named["v2.ppo"] == named["v3.ppo"] == {"reward_safe": "v2.reward_safe"}


def test_what_changes_in_a_round_reruns_only_what_depends_on_it(tmp_path):
    values = recipe({"v1": METHOD, "v2": METHOD, "v3": METHOD})
    go(tmp_path, values)
    values["rounds"]["schedule"]["v2"] = METHOD | {"reward_safe": {"gain": 2.0}}
    config = config_from(values, "here", stages=TOYS)
    states = {one.stage: one.state for one in status(tmp_path / "run", config=config, stages=TOYS)}
    stale = ["v2.reward_safe", "v2.ppo", "v3.feedback", "v3.reward", "v3.reward_safe", "v3.ppo", "evaluate"]
    assert [name for name, state in states.items() if state == "stale"] == stale
    _, log = go(tmp_path, values)
    assert made(log) == stale
    _, log = go(tmp_path, values)
    assert made(log) == []


def test_killed_between_any_two_stages_it_ends_the_same(tmp_path, monkeypatch):
    values = recipe({"v1-v2": METHOD | {"evaluate": {}}}, stop={"labels": 1000})
    go(tmp_path, values, "whole")
    steps = len(plan_of(values).steps)
    for survived in range(1, steps):
        count = iter(range(steps))

        def dies(config, inputs, runtime, count=count, survived=survived):
            if next(count) == survived:
                raise KeyboardInterrupt
            return work(config, inputs, runtime)

        dies.__module__ = work.__module__
        table = {name: Stage(**{**vars(stage), "run": dies}) for name, stage in TOYS.items()}
        config, out = config_from(values, "here", stages=TOYS), tmp_path / f"cut{survived}"
        with pytest.raises(KeyboardInterrupt):
            run(config, out, stages=table, render=no_report)
        _, log = go(tmp_path, values, out.name)
        assert len(made(log)) == steps - survived
        assert outcome(out) == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("stop", "change", "last", "why"),
    [
        ({"labels": 20}, {}, 2, "20 labels were given, and stop.labels = 20"),
        ({"kl": 3}, {"v2": {"kl": 4.0}}, 2, "v2 is 4 nats from sft, and stop.kl = 3"),
        ({"no_gain_in": 2}, {"v2": {"gain": 0.0}, "v3": {"gain": 0.0}}, 3, "no significant gain in 2 rounds"),
        ({"no_gain_in": 2}, {"v1": {"gain": 0.0}, "v3": {"gain": 0.0}}, 4, None),
        ({"kl": 3}, {"v2": {"kl": 3.0}, "v4": {"kl": 4.0}}, 4, None),  # exactly so many; too many where none follows
        ({"labels": 40}, {}, 4, None),  # given by the last round
    ],
)
def test_stop_rules(tmp_path, stop, change, last, why):
    rounds = {"feedback": {}, "ppo": {"labels": 0}}
    schedule = {f"v{i}": rounds | {"evaluate": {"labels": 0} | change.get(f"v{i}", {})} for i in range(1, 5)}
    summary, log = go(tmp_path, recipe(schedule, stop=stop))
    assert list(summary["stages"])[-2:] == [f"v{last}.evaluate", "evaluate"]
    told = [line for line in log.lines if "no round follows" in line]
    assert [summary["stopped"]] == (told or [None])
    assert (why is None and not told) or why in told[0]
    assert {one.state for one in status(tmp_path / "run", stages=TOYS)} == {"done"}
    again, log = go(tmp_path, recipe(schedule, stop=stop))
    assert made(log) == []
    assert again["stopped"] == summary["stopped"]


def test_without_a_last_evaluation_the_summary_compares_what_the_newest_round_did(tmp_path):
    values = recipe({"v1-v2": METHOD | {"evaluate": {}}})
    del values["evaluate"]
    assert list(go(tmp_path, values)[0]["versions"]) == ["v2"]


def test_the_budget_is_of_peoples_labels_alone():
    found = {
        "v1.feedback": {"labels": 5},
        "v1.ai_feedback": {"labels_of_ai": 90, "labels_of_people": 2},
        "v1.evaluate": {"labels": 50},
        "feedback": {"labels": 70},  # before the rounds
    }
    made = {name: SimpleNamespace(manifest=SimpleNamespace(metrics=metrics)) for name, metrics in found.items()}
    assert why_stop(StopConfig(labels=8), 1, made) is None
    assert why_stop(StopConfig(labels=7), 1, made) == "7 labels were given, and stop.labels = 7"


def test_a_gain_that_nothing_measures_is_said(tmp_path):
    table = dict(TOYS)
    blind = lambda config, inputs, runtime: StageOutput({"versions": {}})  # noqa: E731
    blind.__module__ = work.__module__
    table["evaluate"] = Stage(**{**vars(TOYS["evaluate"]), "run": blind})
    config = config_from(recipe({"v1-v2": METHOD | {"evaluate": {}}}, stop={"no_gain_in": 1}), "here", stages=table)
    with pytest.raises(ConfigError, match="needs a judge that tells a gain, and v1.evaluate has none"):
        run(config, tmp_path / "run", stages=table, render=no_report)


def test_until_ends_earlier_and_what_was_made_later_is_found_again(tmp_path):
    values = recipe({"v1-v3": METHOD})
    whole, _ = go(tmp_path, values)
    shorter, log = go(tmp_path, recipe({"v1-v3": METHOD}, until=1))
    assert made(log) == ["evaluate"]
    assert "v2.ppo" not in shorter["stages"]
    again, log = go(tmp_path, values)
    assert made(log) == []
    assert list(again["stages"]) == list(whole["stages"])


def test_a_resolved_config_means_the_same_rounds(tmp_path):
    config = config_from(recipe({"v1-v2": METHOD, "v3": {"ppo": {}}}, until=2), "here", stages=TOYS)
    (tmp_path / "config.yaml").write_text(resolved_text(config))
    again = load_config(tmp_path / "config.yaml", stages=TOYS, resolved=True)
    assert again.model_dump() == config.model_dump()
    assert [step.name for step in make_plan(again, TOYS).steps] == [step.name for step in make_plan(config, TOYS).steps]


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ({"schedule": {"v2": METHOD}}, "schedule.v2: v1 comes next"),
        ({"schedule": {"v1-v2": METHOD, "v2": METHOD}}, "schedule.v2: v3 comes next"),
        ({"schedule": {"v1": METHOD, "v2-v1": METHOD}}, "schedule.v2-v1: v2 comes next"),
        ({"schedule": {"first": METHOD}}, "schedule.first: rounds are called v1, v2"),
        ({"schedule": {"v1": {}}}, "schedule.v1 has no stage"),
        ({"schedule": {"v1": {"ppo": {"gian": 1}}}}, "unknown key rounds.schedule.v1.ppo.gian; did you mean"),
        ({"schedule": {"v1-v2": METHOD}, "until": 2}, "until = 2 has no effect with 2 rounds"),
        ({"schedule": {"v1-v2": METHOD}, "stop": {}}, "stop names nothing to stop at"),
        ({"schedule": {"v1-v2": METHOD}, "stop": {"kl": 3}}, "stop.kl needs each round evaluated"),
        ({"schedule": {"v1-v2": METHOD}, "stop": {"no_gain_in": 3}}, "stop.no_gain_in needs each round evaluated"),
        (
            {"schedule": {"v1": {"feedback": {}, "evaluate": {}}, "v2": METHOD | {"evaluate": {}}}, "stop": {"kl": 3}},
            "stop.kl asks each round for its version, and v1 makes none",
        ),
    ],
)
def test_what_is_refused(rounds, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.").replace("(", r"\(")):
        config_from({"name": "rounds", "sft": {}, "rounds": rounds}, "here", stages=TOYS)


def test_an_override_reaches_into_a_round(tmp_path):
    path = Path(tmp_path / "recipe.yaml")
    path.write_text("name: x\nsft:\nrounds:\n  schedule:\n    v1-v2: {feedback: , ppo: }\n    v3: {ppo: }\n")
    config = load_config(path, ["rounds.schedule.v3.ppo.gain=0.5", "rounds.schedule.v1-v2.feedback=false"], stages=TOYS)
    assert list(config.sections) == ["sft", "v1.ppo", "v2.ppo", "v3.ppo"]
    assert [config.sections[f"v{i}.ppo"].gain for i in (1, 2, 3)] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("keys", "entries"),
    [
        (["v4"], ["v1", "v2-v3", "v4"]),
        (["v2"], ["v1", "v2", "v3-v4"]),
        (["v3", "v4"], ["v1", "v2", "v3", "v4"]),
        (["v3-v4"], ["v1", "v2", "v3-v4"]),
        (["v2-v4"], ["v1", "v2-v4"]),
    ],
)
def test_an_override_of_one_round_is_of_that_one_alone(tmp_path, keys, entries):
    path = Path(tmp_path / "recipe.yaml")
    path.write_text("name: x\nsft:\nrounds:\n  schedule:\n    v1: &r {ppo: {labels: 5}}\n    v2-v4: *r\n")
    plain = load_config(path, stages=TOYS)
    config = load_config(path, [f"rounds.schedule.{key}.ppo.gain=0.5" for key in keys], stages=TOYS)
    assert list(config.rounds.schedule) == entries
    changed = {number for key in keys for number in range(int(key[1]), int(key[-1]) + 1)}
    for number in range(1, 5):
        ppo, before = (one.sections[f"v{number}.ppo"] for one in (config, plain))
        assert ppo == (before.model_copy(update={"gain": 0.5}) if number in changed else before)


def test_an_override_of_a_stage_that_only_rounds_have_adds_no_stage_before_them(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nsft:\nrounds:\n  schedule:\n    v1-v3: {ppo: }\n")
    with pytest.raises(ConfigError, match=r"only rounds have ppo here; set rounds\.schedule\.v1-v3\.ppo\.gain"):
        load_config(path, ["ppo.gain=2"], stages=TOYS)


def test_all_rounds_of_an_entry_and_then_one_of_them(tmp_path):
    path, both = (
        Path(tmp_path / "recipe.yaml"),
        [f"rounds.schedule.{key}" for key in ("v1-v3.ppo.gain=2", "v3.ppo.gain=3")],
    )
    path.write_text("name: x\nsft:\nrounds:\n  schedule:\n    v1-v3: {ppo: }\n")
    config = load_config(path, both, stages=TOYS)
    assert [config.sections[f"v{number}.ppo"].gain for number in (1, 2, 3)] == [2.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="v1-v3 are several entries of rounds.schedule, v1-v2, v3; set each of them"):
        load_config(path, both[::-1], stages=TOYS)


def test_an_override_of_a_round_that_is_not_there_is_refused_where_it_is_written(tmp_path):
    path = Path(tmp_path / "recipe.yaml")
    path.write_text("name: x\nsft:\nrounds:\n  schedule:\n    v1-v2: {ppo: }\n")
    with pytest.raises(ConfigError, match="schedule.v4: v3 comes next"):
        load_config(path, ["rounds.schedule.v4.ppo.gain=0.5"], stages=TOYS)
    with pytest.raises(
        ConfigError, match="--set rounds.schedule.v2.ppo.gian=1: unknown key rounds.schedule.v2.ppo.gian"
    ):
        load_config(path, ["rounds.schedule.v2.ppo.gian=1"], stages=TOYS)


def test_two_versions_are_parents_of_feedback_where_both_of_them_answer():
    """And only there: a pedigree names no policy that wrote nothing."""
    stages = TOYS | {"world": world.STAGE, "feedback": feedback.STAGE}
    values = recipe({"v1": METHOD, "v2-v3": METHOD | {"feedback": {"versions": 2}}}) | {"world": {}}
    plan = make_plan(config_from(values, "here", stages=stages), stages)
    first, second, third = (step.parents for step in plan.steps if step.name.endswith("feedback"))
    assert first == {"policy": "sft", "world": "world"}
    assert second.items() >= {"policy": "v1.ppo", "sft": "sft", "v1": "v1.ppo"}.items()
    assert third.items() >= {"policy": "v2.ppo", "v1": "v1.ppo", "v2": "v2.ppo"}.items() and "sft" not in third
    values["rounds"]["schedule"]["v1"] = METHOD | {"feedback": {"versions": 2}}
    with pytest.raises(ConfigError, match="versions = 2, but sft is the only version"):
        make_plan(config_from(values, "here", stages=stages), stages)


def test_attacks_are_asked_about_where_red_teaming_comes_before_in_some_round():
    stages = TOYS | {"world": world.STAGE, "feedback": feedback.STAGE, "red_team": toy("red_team")}
    asking = METHOD | {"feedback": {"attacks": 5}}

    def load(**schedule):
        return config_from(recipe(schedule) | {"world": {}, "red_team": {}}, "here", stages=stages)

    whole = load(**{"v1-v2": asking | {"red_team": {}}})
    assert whole.ending_with(1).sections["v1.feedback"].attacks == 5  # nothing is wrong where fewer rounds are made
    for schedule in ({"v1-v2": asking}, {"v1": asking | {"red_team": {}}}, {"v1": asking, "v2": {"red_team": {}}}):
        with pytest.raises(ConfigError, match="v1.feedback.attacks has no effect: no red_team runs before v.*leave"):
            load(**schedule)


def test_what_the_rounds_began_with_answers_and_is_the_reference_where_that_is_asked_for():
    stages = {"world": world.STAGE} | TOYS | {"feedback": feedback.STAGE, "ppo": ppo.STAGE}
    later = {"feedback": {"start_answers": True}, "reward": {}, "ppo": {"reference": "start"}}
    plain = {"feedback": {}, "reward": {}, "ppo": {}}
    values = recipe({"v1": plain, "v2-v3": later}) | {"world": {}}
    plan = make_plan(config_from(values, "here", stages=stages), stages)
    parents = {step.name: step.parents for step in plan.steps}
    assert "start" not in parents["v1.ppo"] and "start" not in parents["v1.feedback"]
    for number in (2, 3):
        fed, improved = parents[f"v{number}.feedback"], parents[f"v{number}.ppo"]
        assert fed["start"] == improved["start"] == "sft"
        assert fed["policy"] == improved["policy"] == f"v{number - 1}.ppo"
        assert not fed.keys() & {"v1", "v2"}  # who write nothing

    def refused(**sections):
        values["rounds"]["schedule"] = {"v1": plain | sections}
        return pytest.raises(ConfigError, match="leave (it|reference) out")

    with refused(feedback={"start_answers": True}):  # it is the newest itself
        make_plan(config_from(values, "here", stages=stages), stages)
    without = {"v1": {"ppo": {"policy": "/", "reward": "/"}}, "v2": {"feedback": {"start_answers": True}}}
    with pytest.raises(ConfigError, match="is one of the newest, or none; leave it out"):
        begun = {name: value for name, value in values.items() if name not in ("sft", "evaluate")}
        make_plan(config_from(begun | {"rounds": {"schedule": without}}, "here", stages=stages), stages)
    with refused(ppo={"reference": "start"}):
        make_plan(config_from(values, "here", stages=stages), stages)
    del values["rounds"]
    with pytest.raises(ConfigError, match="reference = start"):
        make_plan(config_from(values | later | {"feedback": {}}, "here", stages=stages), stages)
