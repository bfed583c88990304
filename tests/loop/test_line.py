"""The line of versions over rounds, as the artifacts of a run tell it."""

from __future__ import annotations

from dataclasses import replace

from loopwright.loop import config_from, run, versions
from loopwright.loop.line import Labels
from loopwright.stages.base import POLICIES, StageOutput
from tests.loop.test_rounds import TOYS, go, recipe, toy, work
from tests.loop.toys import no_report


def table(**stages):
    """The toys of rounds with others among them, those that end a round last."""
    judged = {"judged.*": ("dataset", "feedback", "ai_feedback")}
    toys = TOYS | {
        "dataset": toy("dataset"),
        "ai_feedback": toy("ai_feedback", policy=POLICIES, judge_model=("sft",)),
        "reward": toy("reward", **judged),
        "dpo": toy("dpo", policy=POLICIES, **judged),
    }
    order = ("dataset", "sft", "feedback", "ai_feedback", "reward", "reward_safe", "dpo", "ppo", "evaluate")
    return {name: toys[name] for name in order} | stages


def counting(figures):
    """A toy that leaves these figures, by its step, in the place of its own."""

    def counts(config, inputs, runtime):
        own = work(config, inputs, runtime)
        return StageOutput(figures[runtime.stage]) if runtime.stage in figures else own

    counts.__module__ = work.__module__
    return counts


def test_each_version_with_what_it_came_from_and_learned_from(tmp_path):
    everything = {"feedback": {"labels": 7}, "reward": {}, "dpo": {}, "ppo": {}, "evaluate": {}}
    stages, out = table(), tmp_path / "run"
    schedule = {
        "v1": {"feedback": {}, "reward": {}, "ppo": {}, "evaluate": {}},
        "v2": everything | {"evaluate": {"gain": 0}},
    }
    run(config_from(recipe(schedule), "here", stages=stages), out, stages=stages, render=no_report)
    first, second = versions(out, stages)
    assert (first.name, first.after, first.methods, first.gained) == ("v1", "sft", ("ppo",), True)
    assert (second.name, second.after, second.methods, second.gained) == ("v2", "v1", ("dpo", "ppo"), False)
    assert first.labels == (Labels(step="v1.feedback", count=10, written_by=("sft",)),)
    assert second.labels == (*first.labels, Labels(step="v2.feedback", count=7, written_by=("v1",)))


def test_labels_of_a_file_and_of_models_are_counted_as_they_are_called(tmp_path):
    counted = {
        "dataset": {"comparisons": 400, "thumbs": 20, "comparisons_held_out": 50, "demonstrations": 400},
        "v2.ai_feedback": {"labels_of_ai": 90, "labels_of_people": 10, "pairs": 300},
    }
    stages = table()
    for name in ("dataset", "ai_feedback"):
        stages[name] = replace(stages[name], run=counting(counted))
    schedule = {"v1": {"reward": {}, "ppo": {}}, "v2": {"ai_feedback": {}, "reward": {}, "ppo": {}}}
    values, out = recipe(schedule) | {"dataset": {}}, tmp_path / "run"
    run(config_from(values, "here", stages=stages), out, stages=stages, render=no_report)
    first, second = versions(out, stages)
    assert first.labels == (Labels(step="dataset", count=420, written_by=()),)
    assert second.labels == (*first.labels, Labels(step="v2.ai_feedback", count=100, written_by=("v1",)))


def test_the_last_evaluation_of_a_version_tells_how_good_it_is(tmp_path):
    """That of all versions; before it is there that of its round, not that of the next."""

    def measured(gold):
        ends = {"mean": gold, "low": gold - 0.1, "high": gold + 0.1}
        return {"versions": {"v1": {}, "v2": {}}, "gold_interval": {"v1": ends}, "rounds": {"gain": {"v1": ends}}}

    rounds = {"v1-v2": {"ppo": {}, "evaluate": {}}}
    figures = {
        "v1.evaluate": measured(0.5),
        "v2.evaluate": {"versions": {"v1": {}}} | measured(0.9),
        "evaluate": measured(0.75),
    }
    stages = table(evaluate=replace(TOYS["evaluate"], run=counting(figures)))
    for values, gold in ((recipe(rounds), 0.75), ({**recipe(rounds), "evaluate": None}, 0.5)):
        values = {name: value for name, value in values.items() if value is not None}
        run(config_from(values, "here", stages=stages), tmp_path / "run", stages=stages, render=no_report)
        first, second = versions(tmp_path / "run", stages)
        assert first.gold == first.gain == measured(gold)["gold_interval"]["v1"]
        assert (first.gained, second.gold, second.gain) == (None, None, None)


def test_a_run_without_rounds_or_without_anything_has_no_versions(tmp_path):
    go(tmp_path, {"name": "x", "tensorboard": False, "sft": {}, "ppo": {}})
    assert versions(tmp_path / "run", TOYS) == []
    (tmp_path / "run" / "summary.json").unlink()
    assert versions(tmp_path / "run", TOYS) == []
