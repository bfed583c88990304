"""Accuracy by group: by hand, and the same whichever answer was stored first."""

import math
import random

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from loopwright.evaluation.judged_pairs import JudgedPair, accuracy, accuracy_by_group, in_order, judged_pairs
from loopwright.evaluation.metrics import wilson_interval
from loopwright.evaluation.temperature import best_temperature, calibration_report, half
from loopwright.schemas import Comparison
from tests.feedback.judged import ask, prefer, rank, tie


def judged(record, margin, **tags):
    """The first answer ahead by `margin`."""
    return JudgedPair(record, margin, 0.0, tags)


def rows(table):
    return {row["group"]: (row["mean"], row["pairs"]) for row in table}


def random_pairs(count=120):
    rng = random.Random(0)
    pairs = []
    for i in range(count):
        words = [" ".join(rng.choices("uvwxyz", k=rng.randint(1, 30))) for _ in range(2)]
        about = {"margin": rng.random(), "strength": rng.choice(("better", "slightly", None))}
        choice = rng.choice((0, 1, 1, None))
        record = Comparison(
            id=str(i), prompt=ask(rng.choice("ABCDEFGH")), responses=words, choice=choice,
            annotator=rng.choice(("ann", "bob", None)), **about,
        )  # fmt: skip
        pairs.append(JudgedPair(record, rng.gauss(0, 1), rng.gauss(0, 1), {"task": rng.choice(("known", "unknown"))}))
        if i % 3 == 0:
            pairs.append(pairs[-1]._replace(record=record.model_copy(update={"annotator": "cy", "choice": 0})))
    return pairs


def test_one_pair_a_prompt_has_wilsons_interval():
    pairs = [judged(prefer(str(i), "a", "b", prompt=f"Q{i}"), 1.0 if i < 7 else -1.0) for i in range(10)]
    found = accuracy(pairs)
    assert {key: found[key] for key in ("mean", "low", "high")} == pytest.approx(wilson_interval(0.7, 10).as_dict())
    assert (found["pairs"], found["prompts"]) == (10, 10)


def test_pairs_of_one_prompt_that_stand_and_fall_together_count_once():
    copies = [
        judged(prefer(f"{i}/{k}", "a", f"b{k}", prompt=f"Q{i}"), 1.0 if i < 7 else -1.0)
        for i in range(10) for k in range(5)
    ]  # fmt: skip
    found, alone = accuracy(copies), wilson_interval(0.7, 10)
    assert found["pairs"] == 50
    assert found["low"] == pytest.approx(alone.low, abs=0.02) and found["high"] == pytest.approx(alone.high, abs=0.02)
    every = accuracy([pair._replace(first_score=1.0) for pair in copies])
    assert every["low"] == pytest.approx(wilson_interval(1.0, 10).low)  # all right: only the prompts are counted
    (one,) = {accuracy(copies[:n])["low"] for n in (1, 3, 5)}  # a single prompt is one trial, whatever its pairs
    assert one == pytest.approx(wilson_interval(1.0, 1).low)


def test_equal_scores_are_half_right_and_ties_are_not_counted():
    pairs = [judged(prefer("1", "a", "b"), 0.0), judged(tie("2", "a", "c"), 1.0)]
    assert accuracy(pairs)["mean"] == 0.5 and accuracy(pairs)["pairs"] == 1
    assert accuracy(pairs[1:]) is None


def test_groups_by_hand():
    pairs = [
        judged(prefer("1", "a b c", "a", prompt="P", strength="slightly", margin=1), -1.0, task="known"),
        judged(prefer("2", "a b c", "a", prompt="P", by="bob", strength="better", margin=1), -1.0, task="known"),
        judged(prefer("3", "b", "c", prompt="P", strength="better", margin=2), 1.0, task="known"),
        judged(prefer("4", "c", "b", prompt="P", by="bob", margin=10), -1.0, task="known"),
        judged(prefer("5", "c", "b", prompt="P", by="cy"), -1.0, task="known"),
        judged(prefer("6", "a", "b c d e f g h i", prompt="R"), 1.0, task="unknown"),
        judged(prefer("7", "x", "y", prompt="S", by=None), 1.0),
    ]
    by = accuracy_by_group(pairs)
    assert rows(by["strength"]) == {"better": (0.5, 2), "slightly": (0.0, 1)}
    assert list(rows(by["margin"])) == ["1", "2", "10"]
    assert rows(by["agreement"]) == {"unanimous": (0.0, 2), "split": (1 / 3, 3), "one annotator": (1.0, 1)}
    assert by["agreement"][1]["best_possible"] == pytest.approx(2 / 3)  # two of three prefer c
    assert rows(by["chosen"]) == {"longer": (0.0, 2), "shorter": (1.0, 1), "as long": (0.5, 4)}
    assert rows(by["words"]) == {"none": (0.5, 4), "1 to 5 words": (0.0, 2), "6 to 20 words": (1.0, 1)}
    assert rows(by["task"]) == {"known": (0.2, 5), "unknown": (1.0, 1)}
    assert rows(by["annotator"]) == {"ann": (2 / 3, 3), "bob": (0.0, 2), "cy": (0.0, 1)}


def test_what_models_say_is_no_persons_word():
    """People's accuracy is theirs alone; who has no name is in neither group."""
    pairs = [
        judged(prefer("1", "a", "b"), 1.0),
        judged(prefer("2", "a", "b", prompt="R", by="ai:judge"), -1.0),
        judged(prefer("3", "a", "b", prompt="S", by="ai:judge"), -1.0),
        judged(prefer("4", "a", "b", prompt="T", by=None), 1.0),
    ]
    by = accuracy_by_group(pairs)
    assert rows(by["source"]) == {"people": (1.0, 1), "models": (0.0, 2)}
    assert rows(by["agreement"]) == {"one annotator": (1.0, 1)}


def test_many_margins_are_cut_into_quarters():
    pairs = [judged(prefer(str(i), "a", "b", prompt=str(i), margin=i / 10), i - 7.5) for i in range(16)]
    table = accuracy_by_group(pairs)["margin"]
    assert [row["pairs"] for row in table] == [4, 4, 4, 4]
    assert [row["mean"] for row in table] == [0, 0, 1, 1]


def test_neither_the_order_of_a_pair_nor_of_the_pairs_matters():
    pairs = random_pairs()
    turned = [JudgedPair(p.record.swap(), p.second_score, p.first_score, p.tags) for p in reversed(pairs)]
    assert in_order(turned) == in_order(pairs)
    for one, other in ((accuracy, accuracy), (accuracy_by_group, accuracy_by_group)):
        assert one(in_order(pairs)) == other(in_order(turned))
    plain = accuracy(pairs)
    assert accuracy(turned) == pytest.approx(plain)


def test_a_ranking_counts_as_its_pairs_and_a_response_without_a_score_is_left_out():
    scores = {(ask("Q"), text): score for text, score in (("x", 2.0), ("y", 1.0), ("z", 3.0))}
    said = [rank("r", "x", "y", "z", "long"), prefer("c", "y", "long"), prefer("d", "y", "y")]
    found = judged_pairs(said, scores, {ask("Q"): {"task": 1}})
    assert [(pair.record.responses, pair.right) for pair in found] == [
        (("x", "y"), 1.0), (("x", "z"), 0.0), (("y", "z"), 0.0),
    ]  # fmt: skip
    assert accuracy_by_group(found)["task"][0]["group"] == "1"


def test_the_best_temperature_has_the_least_loss():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, size=4_000)
    margins = np.where(rng.random(4_000) < 1 / (1 + np.exp(-np.abs(logits) / 2)), 1, -1) * np.abs(logits)
    found = best_temperature(margins)
    oracle = minimize_scalar(lambda t: np.logaddexp(0, -margins / t).mean(), bounds=(0.1, 20), method="bounded")
    assert found == pytest.approx(oracle.x, rel=1e-3)
    assert found == pytest.approx(2.0, rel=0.15)
    assert best_temperature(3 * margins) == pytest.approx(3 * found)


def test_there_is_no_best_temperature_where_the_surer_is_the_better_or_the_worse():
    assert best_temperature(np.array([0.0, 1.0, 2.0])) is None
    assert best_temperature(np.array([-3.0, 1.0])) is None
    assert best_temperature(np.array([])) is None


def test_scaling_mends_what_is_too_sure_and_the_report_is_the_same_for_swapped_pairs():
    rng = random.Random(1)
    pairs = []
    for i in range(2_000):
        ahead = rng.gauss(0, 6)
        first = rng.random() < 1 / (1 + np.exp(-ahead / 4))  # four times as sure as it should be
        pairs.append(judged(prefer(str(i), "a", "b", prompt=f"Q{i}"), ahead))
        if not first:
            record = pairs[-1].record.model_copy(update={"choice": 1})
            pairs[-1] = pairs[-1]._replace(record=record)
    report = calibration_report(in_order(pairs), 1.0)
    assert report["temperature"] == pytest.approx(4, rel=0.15)
    assert report["ece_after_temperature"] < 0.5 * report["ece"]
    turned = [JudgedPair(p.record.swap(), p.second_score, p.first_score, p.tags) for p in reversed(pairs)]
    assert calibration_report(in_order(turned), 1.0) == report
    assert calibration_report([], 1.0) is None


def test_each_half_is_scaled_by_the_temperature_of_the_other():
    pairs = []
    for i in range(400):  # 3 of 4 right everywhere, said surely in one half of the prompts and rightly in the other
        record = prefer(str(i), "a", "b", prompt=f"Q{i}")
        ahead = math.log(3) * (1 if half(judged(record, 0.0)) else 10)
        pairs.append(judged(record, ahead))
    right = {0: 0, 1: 0}
    for i, pair in enumerate(pairs):
        own = half(pair)
        right[own] += 1
        if right[own] % 4 == 0:
            pairs[i] = pair._replace(record=pair.record.model_copy(update={"choice": 1}))
    report = calibration_report(in_order(pairs), 1.0)
    # the halves' own temperatures, 10 and 1, would mend all; each other's make the one timid and leave the other sure
    assert report["ece_after_temperature"] > 0.15
