import pytest

from loopwright.evaluation.best_of import best_of_kl
from loopwright.evaluation.cheap import baseline_results, best_of_results, picked_by_reward
from loopwright.schemas import Prompt

SEED = 0


def test_a_policy_is_scored_on_each_set_and_by_the_tags_that_split_it():
    prompts = [Prompt.user(f"p{i}", "?", right="a" if i < 3 else "b", hard=i == 3, adversarial=False) for i in range(4)]
    judges = {"right": lambda prompt, response: float(response == prompt.tags["right"])}
    got = baseline_results({"always_a": lambda prompt: "a"}, {"held_out": prompts}, judges, SEED)["always_a"]
    assert got["held_out"]["gold"]["mean"] == 0.75
    split = got["held_out"]["by_flag"]
    assert list(split) == ["hard"]  # all the prompts say the same of the other tag
    assert {answer: (part["count"], part["gold"]["mean"]) for answer, part in split["hard"].items()} == {
        "true": (1, 0.0),
        "false": (3, 1.0),
    }


def test_best_of_n_by_hand():
    asked = [Prompt.user(id, "?") for id in ("b", "d")]
    rows = [{"prompt_id": id, "gold": gold} for id, gold in (("a", 0.0), ("b", 1.0), ("c", 0.0), ("d", 0.5))]
    picked = {"version": "sft", "gold": [1.0, 1.0], "reward": [2.0, 4.0], "frontier": []}
    got = best_of_results(picked, 4, asked, {"sft": rows}, SEED)
    assert (got["prompts"], got["n"], got["gold"]["mean"], got["reward"]) == (2, 4, 1.0, 3.0)
    assert got["same_prompts"]["sft"]["mean"] == 0.75  # of b and d, not of all


def test_the_reward_picks_of_each_prompts_answers():
    """Three answers to each of two prompts. Of two drawn, each pair is as likely as another: gold is by hand."""
    scores, golds = [0.1, 0.9, 0.5, 3.0, 2.0, 1.0], [0.0, 0.2, 1.0, 0.6, 0.0, 0.3]
    got = picked_by_reward(scores, golds, 3)
    assert got["gold"] == [0.2, 0.6] and got["reward"] == [0.9, 3.0]
    expected = {1: (1.2 / 3 + 0.9 / 3) / 2, 2: ((0.2 + 0.2 + 1.0) / 3 + (0.6 + 0.6 + 0.0) / 3) / 2, 3: 0.4}
    assert {point["n"]: point["gold"] for point in got["frontier"]} == pytest.approx(expected)
    assert [point["kl"] for point in got["frontier"]] == [best_of_kl(n) for n in (1, 2, 3)]
    assert picked_by_reward(scores, [None, *golds[1:]], 3)["frontier"] == []


def test_best_of_one_is_no_change():
    assert best_of_kl(1) == 0.0
    assert best_of_kl(16) == pytest.approx(1.835, abs=1e-3)
