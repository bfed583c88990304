"""What a recipe lacks, or has to no effect, is said before its first stage runs, however late that of it is."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import pytest

from loopwright.errors import ArtifactError, ConfigError
from loopwright.loop import config_from
from loopwright.loop.plan import make_plan
from loopwright.loop.table import STAGES
from loopwright.training.judgement_files import RECORDS

SAMPLING = ("ppo", "rloo", "grpo", "reinforce_plus_plus", "rejection", "rest", "hindsight", "conditioned")
IMPROVING = SAMPLING[:4]
DIRECT = ("dpo", "kto")
WORLD = {"world": {}, "pretrain": {}, "sft": {}}
MINE = {"sft": {"model": "m", "demonstrations": "f.jsonl"}}
LABELS = {"feedback": {}, "reward": {}}
DATASET = {"dataset": {"format": "hh-rlhf", "files": ["f.jsonl"]}, "sft": {"model": "m"}}
PEOPLE = {"store": "http://127.0.0.1:8600", "project": "p"}
ALONE = {  # settings without which a section cannot be written
    "dataset": DATASET["dataset"],
    "demonstrations": PEOPLE | {"wait": {"demonstrations": 3}},
}


@pytest.fixture(autouse=True)
def some_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("f.jsonl").touch()
    Path("m").mkdir()


def plan(sections):
    return make_plan(config_from({"name": "x"} | sections, "here"))


@pytest.mark.parametrize("method", SAMPLING)
@pytest.mark.parametrize(
    ("before", "settings", "said"),
    [
        (WORLD, {}, "has no reward; add a reward section"),
        (WORLD | {"reward": {}}, {}, "^reward has no feedback; add a feedback section"),
        ({"world": {}}, {"reward": "m"}, "has no policy; add an sft section"),
        ({}, {"policy": "m", "reward": "m"}, "has no prompts; add a world, dataset or pretrain section"),
        (WORLD | LABELS, {"reward": "m"}, "reward = m contradicts the stage reward"),
        (WORLD | LABELS, {"policy": "m"}, "policy = m contradicts the stage sft"),
        (WORLD | LABELS, {"prompts": "f.jsonl"}, "prompts = f.jsonl contradicts the stage world"),
        (WORLD | LABELS, {"opening_tokens": 5}, "opening_tokens has no effect where prompts are given"),
    ],
)
def test_methods_that_sample(method, before, settings, said):
    with pytest.raises(ConfigError, match=said):
        plan(before | {method: settings})


@pytest.mark.parametrize("method", IMPROVING)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ptx_coef": 1}, "ptx_coef needs raw text"),
        ({"watch": {}}, "watch has no reward"),
        ({"merge": {"rule": "worst"}}, "merge has no effect on one reward model"),
    ],
)
def test_methods_that_follow_a_gradient(method, settings, said):
    labels = {"feedback": PEOPLE | {"wait": {"comparisons": 3}, "prompts_file": "f.jsonl"}, "reward": {}}
    with pytest.raises(ConfigError, match=f"{method}.{said}"):
        plan(MINE | labels | {method: {"prompts": "f.jsonl"} | settings})


@pytest.mark.parametrize("method", DIRECT)
@pytest.mark.parametrize(
    ("before", "settings", "said"),
    [
        (WORLD, {}, "has no feedback; add a feedback section"),
        (WORLD, {"feedback": "m"}, "^m has no .*, nor a file of other judgements; correct the path"),
        ({}, {"feedback": "m"}, "has no policy; add an sft section"),
        (WORLD | {"feedback": {}}, {"feedback": "m"}, "feedback = m contradicts the stage feedback"),
        (WORLD | {"feedback": {}}, {"kinds": ["corrections"]}, "^feedback has no corrections.jsonl, but comparisons"),
        (WORLD, {"eval_steps": 5, "held_out_share": 0}, "eval_steps has no effect with held_out_share = 0"),
    ],
)
def test_methods_that_learn_from_judgements(method, before, settings, said):
    with pytest.raises(ConfigError, match=said):
        plan(before | {method: settings})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"pretrain": {}}, "pretrain has no text"),
        (MINE | {"sft": MINE["sft"] | {"lm_loss_coef": 0.3}}, "sft.lm_loss_coef needs raw text"),
        (ALONE | MINE, "sft.demonstrations = f.jsonl contradicts the stage demonstrations"),
        (MINE | {"feedback": {}}, "feedback has nobody to ask"),
        (MINE | {"feedback": PEOPLE | {"wait": {"comparisons": 3}}}, "feedback has no prompts_file"),
        (WORLD | DATASET | {"annotator": {}, "feedback": {}}, "annotator has no effect beside a world"),
        ({"world": {}, "ai_feedback": {"policy": "m"}}, "ai_feedback has no judge; add an sft section"),
        (MINE | {"ai_feedback": {}}, "ai_feedback has no prompts_file; add a world or dataset section"),
        (WORLD | {"ai_feedback": {"constitution": "f.jsonl"}}, "f.jsonl: principles is missing"),
        (MINE | {"constitutional": {}}, "constitutional has no constitution; add a world section"),
        (WORLD | {"reward": {}}, "reward has no feedback"),
        ({"reward": {"comparisons": "f.jsonl"}}, "reward has no model"),
        (WORLD | {"feedback": {}, "reward": {"kinds": ["thumbs"]}}, "feedback has no thumbs.jsonl, but comparisons"),
        (WORLD | {"ai_feedback": {}, "reward": {"kinds": ["spans"]}}, "ai_feedback has no spans.jsonl"),
        (WORLD | {"feedback": {}, "reward": {"labelled": "f.jsonl"}}, "reward.labelled = f.jsonl contradicts"),
        (WORLD | {"feedback": {}, "reward": {"dropout": 0.1}}, "reward.dropout has an effect on encoders alone"),
        (WORLD | {"feedback": {}, "reward": {"held_out_share": 0, "eval_steps": 5}}, "eval_steps has no effect"),
        (WORLD | {"feedback": {}, "reward": {"judgements": {"ratings_as": "thumbs"}}}, "without ratings"),
        (
            WORLD | {"feedback": {}, "kto": {"kinds": ["comparisons"], "judgements": {"ratings_as": "pairs"}}},
            "kto.judgements.ratings_as = pairs has no effect without ratings, and kto learns from comparisons; leave",
        ),
        (WORLD | LABELS | {"hindsight": {"poor_by": "{criterion}!"}}, "hindsight.poor_by has no effect with one"),
        (WORLD | LABELS | {"reward_b": {}, "hindsight": {"poor": "Bad."}}, "hindsight.poor has no effect with 2"),
        ({"world": {}, "red_team": {"sources": ["templates"]}}, "red_team has no policy"),
        (MINE | {"world": {}, "red_team": {}}, "red_team has no attacker; add a pretrain section"),
        ({"world": {}, "evaluate": {}}, "there is no model to evaluate"),
        (MINE | {"evaluate": {}}, "evaluate: there are no prompts"),
        (WORLD | {"evaluate": {"prompts": "f.jsonl"}}, "evaluate.prompts has no effect beside a world"),
        (WORLD | {"evaluate": {"base": "m"}}, "evaluate.base = m contradicts"),
    ],
)
def test_each_stage(sections, said):
    with pytest.raises(ConfigError, match=said):
        plan(sections)


METHOD = {"rejection": {"reward": "m", "prompts": "f.jsonl"}, "evaluate": {"prompts": "f.jsonl"}}


def rounds(stop, **sections):
    return MINE | {"rounds": {"schedule": {"v1-v2": METHOD | sections}, "stop": stop}}


def test_stop_rules_that_nothing_could_meet():
    with pytest.raises(ConfigError, match="no_gain_in = 1 needs a judge that tells a gain, and v1.evaluate has none"):
        plan(rounds({"no_gain_in": 1}))
    plan(rounds({"no_gain_in": 1}, evaluate={"prompts": "f.jsonl", "judge": {"labelled": "f.jsonl"}}))
    with pytest.raises(ConfigError, match="stop.labels = 9 has no effect: no round asks people for labels"):
        plan(rounds({"labels": 9}, ai_feedback={"prompts_file": "f.jsonl"}))
    plan(rounds({"labels": 9}, ai_feedback={"prompts_file": "f.jsonl", "people": PEOPLE}))
    later = {"schedule": {"v1": METHOD, "v2": METHOD | {"feedback": PEOPLE | {"wait": {"thumbs": 3}}}}, "until": 1}
    plan(MINE | {"rounds": later | {"stop": {"labels": 9}}})  # as a rollback leaves it: they come with the later rounds


def test_any_stages_are_planned_or_refused_in_a_sentence():
    """No bind asks a promise for what it cannot know, or takes for granted what a recipe may lack."""
    drawn = random.Random(0).sample(list(combinations(STAGES, 2)), 60)
    planned = 0
    for names in [*combinations(STAGES, 1), *({**WORLD, **LABELS, **dict.fromkeys(names)} for names in drawn)]:
        try:
            plan({name: ALONE.get(name, {}) for name in names})
            planned += 1
        except ConfigError as refused:
            assert ";" in str(refused), refused
    assert planned > 10


def test_what_is_asked_of_a_promise():
    people = PEOPLE | {"wait": {"thumbs": 3}, "prompts_file": "f.jsonl"}
    for sections, kinds in (
        (WORLD | {"feedback": {}}, {"comparisons", "rankings", "ratings"}),
        (MINE | {"feedback": people}, {"comparisons", "rankings", "ratings", "thumbs"}),
    ):
        *_, model, feedback = (step.promise() for step in plan(sections).steps)
        assert {kind for kind in RECORDS if feedback.holds(f"{kind}.jsonl")} == kinds
        assert model.file("model") == Path("sft/model") and model.holds("anything")
        with pytest.raises(ArtifactError, match="feedback: holds no attacks.jsonl"):
            feedback.file("attacks.jsonl")
