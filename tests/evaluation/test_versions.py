import random

import pytest

from loopwright.evaluation.results import Measured, version_results
from loopwright.evaluation.versions import (
    FEWEST_PROMPTS,
    are_compared,
    compare_versions,
    falls,
    helped,
    round_figures,
    win_rates,
    worst,
)
from loopwright.feedback.intervals import Interval

JUDGES = ["helpful", "harmless"]


def row(number: int, gold: float | None, task: str | None = None, **scores) -> dict:
    known = {"helpful": gold, "harmless": gold, "reward": None, "kl": None, "kl_exact": None} | scores
    about = {"prompt_id": f"p{number}", "task": task, "response": "x", "length_tokens": 1, "finished": True}
    return {**about, "nonsense": None, "flags": {}, "question_id": None, "gold": gold, **known}


def measured(golds: list[float], **sets: list[dict]) -> Measured:
    return Measured({"held_out": [row(i, gold) for i, gold in enumerate(golds)], **sets}, {}, None)


def test_which_runs_are_compared():
    assert not are_compared(["base", "sft", "sft_clean", "ppo"])
    assert are_compared(["base", "sft", "dpo", "ppo"]) and are_compared(["sft", "v1"])
    assert [are_compared(["sft", name]) for name in ("v12", "v", "vx", "3")] == [True, False, False, False]


def test_win_rates_by_hand():
    got = win_rates({"a": [1.0, 0.5, 0.2, None], "b": [0.0, 0.5, 0.9, 1.0]})
    assert got == {"a": {"a": None, "b": 0.5}, "b": {"a": 0.5, "b": None}}


def test_a_line_of_versions():
    """SFT scores 0.2 everywhere, v1 0.6, v2 the same as v1: the first round helps, the second does not."""
    line = {"base": [0.0] * 40, "sft": [0.2] * 40, "sft_clean": [0.9] * 40, "v1": [0.6] * 40, "v2": [0.6] * 40}
    found = {name: measured(golds) for name, golds in line.items()}
    got = compare_versions(found, JUDGES, seed=0)
    assert got["anchor"] == "sft" and list(got["elo"]) == ["base", "sft", "v1", "v2"]
    assert got["elo"]["v1"]["mean"] == pytest.approx(got["elo"]["v2"]["mean"])
    assert [(one["after"], one["version"], one["gained"]) for one in got["steps"]] == [
        ("sft", "v1", True),
        ("v1", "v2", False),
    ]
    assert got["steps"][0]["gain"] == {
        "mean": pytest.approx(0.4),
        "low": pytest.approx(0.4),
        "high": pytest.approx(0.4),
    }
    assert got["steps"][0]["win_rate"]["mean"] == 1.0 and not any(one["worse"] for one in got["steps"])


def test_without_judges_there_is_no_comparison():
    assert compare_versions({"sft": measured([None, None]), "v1": measured([None, None])}, [], seed=0) is None


def test_a_gain_needs_one_of_two_signs():
    sure, unsure = Interval(0.1, 0.05, 0.15), Interval(0.1, -0.02, 0.2)
    more, half = Interval(0.6, 0.55, 0.65), Interval(0.55, 0.45, 0.65)
    assert helped(sure, half) is True and helped(unsure, more) is True
    assert helped(unsure, half) is False and helped(None, None) is None


def test_one_task_that_got_worse_is_found_though_the_mean_rose():
    rng = random.Random(0)
    old = [row(i, 0.5 + rng.random() / 10, "known" if i % 2 else "harmful") for i in range(120)]
    new = [
        row(i, before["gold"] + (0.3 if before["task"] == "known" else -0.2) + rng.random() / 10, before["task"])
        for i, before in enumerate(old)
    ]
    looked_at, worse = falls({"held_out": old}, {"held_out": new}, ["gold"], seed=0)
    assert looked_at == 3  # the set, and its two tasks
    assert [(found["set"], found["task"], found["criterion"]) for found in worse] == [("held_out", "harmful", "gold")]
    change = worse[0]["change"]
    assert worse[0]["count"] == 60 and change["low"] < change["mean"] < change["high"] < 0
    assert change["mean"] == pytest.approx(worse[0]["new"] - worse[0]["old"])


def test_one_criterion_that_got_worse_is_found():
    old = [row(i, 0.5, harmless=0.9 + i % 3 / 100) for i in range(30)]
    new = [row(i, 0.5, harmless=0.7 + i % 2 / 100) for i in range(30)]
    _, worse = falls({"adversarial": old}, {"adversarial": new}, ["gold", *JUDGES], seed=0)
    assert [(found["set"], found["criterion"]) for found in worse] == [("adversarial", "harmless")]


def test_where_nothing_changed_nothing_seems_worse():
    """Twenty criteria of noise: intervals of 95 % each would find a fall in half of such steps."""
    found = 0
    for seed in range(16):
        rng = random.Random(seed)
        names = [f"judge{k}" for k in range(20)]
        rows = [[row(i, 0.5, **{name: rng.random() for name in names}) for i in range(60)] for _ in range(2)]
        found += bool(falls({"held_out": rows[0]}, {"held_out": rows[1]}, names, seed)[1])
    assert found <= 2


@pytest.mark.parametrize("tasks", [("known", "harmful"), ("known",)])
def test_one_judge_is_looked_at_once_by_its_own_name_and_one_task_not_at_all(tasks):
    rows = [[row(i, gold, tasks[i % len(tasks)]) for i in range(40)] for gold in (0.9, 0.1)]
    line = {name: Measured({"held_out": of}, {}, None) for name, of in zip(("sft", "v1"), rows, strict=True)}
    (step,) = compare_versions(line, ["helpful"], seed=0)["steps"]
    several = set(tasks) if len(tasks) > 1 else set()
    assert {(found["task"], found["criterion"]) for found in step["worse"]} == {
        (t, "helpful") for t in {None} | several
    }
    assert step["looked_at"] == len(step["worse"]) == 1 + len(several)


def test_small_parts_are_not_looked_at():
    rows = [[row(i, value) for i in range(FEWEST_PROMPTS - 1)] for value in (0.9, 0.1)]
    assert falls({"held_out": rows[0]}, {"held_out": rows[1]}, ["gold"], seed=0) == (0, [])


def test_scores_that_do_not_apply_are_left_out():
    old = [row(i, None if i < 5 else 0.8) for i in range(40)]
    new = [row(i, None if i >= 35 else 0.2) for i in range(40)]
    (found,) = falls({"held_out": old}, {"held_out": new}, ["gold"], seed=0)[1]
    assert found["count"] == 30 and found["change"]["mean"] == pytest.approx(-0.6)


def test_other_prompts_are_no_comparison():
    with pytest.raises(ValueError, match="same prompts"):
        falls({"held_out": [row(1, 0.5)]}, {"held_out": [row(2, 0.5)]}, ["gold"], seed=0)


def test_the_worst_examples_are_the_greatest_falls():
    old = [row(i, 0.9) for i in range(6)]
    new = [row(i, gold) for i, gold in enumerate([0.8, 0.1, 0.95, 0.5, 0.9, 0.0])]
    got = worst({"held_out": old}, {"held_out": new})
    assert [(found["prompt_id"], found["new"]) for found in got] == [("p5", 0.0), ("p1", 0.1), ("p3", 0.5)]


def test_the_summary_of_rounds():
    line = {"base": measured([0.0] * 30), "sft": measured([0.9] * 30), "v1": measured([0.1] * 30)}
    for one in line.values():
        for held_out in one.sets["held_out"]:
            held_out["kl_from_base"] = 2.5
    comparison = compare_versions(line, JUDGES, seed=0)
    got = round_figures(comparison, version_results(line, JUDGES, 0))
    assert got["gained"] == {"v1": False} and got["elo"]["sft"]["mean"] == 1000
    assert {(found["version"], found["after"], found["criterion"]) for found in got["worse"]} == {
        ("v1", "sft", name) for name in ("gold", *JUDGES)
    }
    assert got["kl_from_base"] == {"base": 2.5, "sft": 2.5, "v1": 2.5}


def test_greedy_answers_are_judged_by_every_judge_apart_from_the_sampled_ones():
    sampled, greedy = [row(i, gold) for i, gold in enumerate((0.0, 0.5))], [row(i, 1.0) for i in range(2)]
    of = version_results({"sft": Measured({"held_out": sampled}, {"held_out": greedy}, None)}, JUDGES, 0)["sft"]
    assert {judge: of["greedy"]["judges"][judge]["mean"] for judge in JUDGES} == dict.fromkeys(JUDGES, 1.0)
    assert of["sets"]["held_out"]["judges"][JUDGES[0]]["mean"] == 0.25
