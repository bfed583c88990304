"""What cheap policies reach, on the prompts that the versions answer. Pure: no model is reached from here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from loopwright.evaluation.best_of import BestOf, best_of_frontier, best_of_kl
from loopwright.evaluation.judging import judge
from loopwright.evaluation.results import Row, by_flag, flags_of, gold_results
from loopwright.schemas import Judge, Prompt


def baseline_results(
    policies: Mapping[str, Callable[[Prompt], str]],
    sets: Mapping[str, Sequence[Prompt]],
    judges: Mapping[str, Judge],
    seed: int,
) -> dict[str, Any]:
    """What the world's cheap policies score on each set."""

    def results(reply: Callable[[Prompt], str], prompts: Sequence[Prompt]) -> dict[str, Any]:
        rows: list[Row] = [{"gold": judge(judges, p, reply(p))["gold"], "flags": flags_of(p)} for p in prompts]
        return {"gold": gold_results([row["gold"] for row in rows], seed), "by_flag": by_flag(rows, seed)}

    return {
        policy: {name: results(reply, prompts) for name, prompts in sets.items()} for policy, reply in policies.items()
    }


def picked_by_reward(
    scores: Sequence[float | None], golds: Sequence[float | None], copies: int
) -> dict[str, list[Any]]:
    """Of every `copies` answers to a prompt, the one that scores highest: its gold and reward; and the way there.

    Args:
        scores, golds: of all answers, those to one prompt after each other.

    Returns "gold" and "reward", one a prompt, and "frontier": for n = 1, 2, 4, ... copies the expected gold of the best
    of n and its KL at most. It is empty where no judge applies to some answer.
    """
    groups = range(0, len(scores), copies)
    best = [max(range(i, i + copies), key=lambda j: scores[j] or 0.0) for i in groups]
    frontier: list[BestOf] = []
    if None not in golds and None not in scores:
        by, worth = (np.array(column, dtype=np.float64).reshape(-1, copies) for column in (scores, golds))
        powers = [2**k for k in range(copies.bit_length()) if 2**k < copies]
        frontier = best_of_frontier(by, worth, [*powers, copies])
    return {
        "gold": [golds[i] for i in best],
        "reward": [scores[i] for i in best],
        "frontier": [{"n": point.n, "kl": point.kl, "gold": point.value} for point in frontier],
    }


def best_of_results(
    picked: Mapping[str, Any], copies: int, asked: Sequence[Prompt], held_out: Mapping[str, Sequence[Row]], seed: int
) -> dict[str, Any]:
    """Best of n on the prompts `asked`, and beside it one answer of every version to exactly these.

    Args:
        picked: the version it picks from, and what `picked_by_reward` gives.
        held_out: version -> its rows on the held-out prompts, of which `asked` are some.
    """
    ids = {prompt.id for prompt in asked}
    return {
        "version": picked["version"],
        "n": copies,
        "prompts": len(asked),
        "gold": gold_results(picked["gold"], seed),
        "same_prompts": {
            version: gold_results([row["gold"] for row in rows if row["prompt_id"] in ids], seed)
            for version, rows in held_out.items()
        },
        "reward": sum(picked["reward"]) / len(picked["reward"]),
        "kl_at_most": best_of_kl(copies),
        "frontier": picked["frontier"],
    }
