"""dpo and kto in a recipe: what they learn from, and what comes after them starts from."""

import pytest

from loopwright.errors import ConfigError
from loopwright.loop import config_from
from loopwright.loop.plan import make_plan


def parents(**sections):
    plan = make_plan(config_from({"name": "x", "world": {}, "pretrain": {}, "sft": {}} | sections, "here"))
    return {step.name: step.parents for step in plan.steps}


def test_they_take_the_nearest_policy_and_what_people_said():
    found = parents(feedback={}, dpo={}, kto={"kinds": ["comparisons"]}, reward={}, ppo={})
    assert (found["dpo"]["policy"], found["dpo"]["feedback"]) == ("sft", "feedback")
    assert (found["kto"]["policy"], found["kto"]["feedback"]) == ("dpo", "feedback")
    assert found["ppo"]["policy"] == "kto" and found["reward"]["model"] == "sft"


def test_a_misspelt_setting_of_theirs_is_named():
    with pytest.raises(ConfigError, match=r"unknown key dpo.label_smooting; did you mean dpo.label_smoothing"):
        parents(feedback={}, dpo={"label_smooting": 0.1})


def test_thumbs_that_nobody_will_give_are_noticed_before_anything_runs():
    with pytest.raises(
        ConfigError,
        match="^feedback has no thumbs.jsonl, but comparisons, rankings, ratings; name what to .* kto.kinds, "
        r"or ask people at an annotation server, who alone give thumbs \(feedback.store\)$",
    ):
        parents(feedback={}, kto={})
    people = {"store": "http://127.0.0.1:8600", "project": "p", "wait": {"thumbs": 9}}
    assert "kto" in parents(feedback=people, kto={})
