"""What cheap policies reach, on the prompts that the versions answer. Pure: no model is reached from here."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


def best_of_results(
    picked: Mapping[str, Any], copies: int, asked: Sequence[Prompt], held_out: Mapping[str, Sequence[Row]], seed: int
) -> dict[str, Any]:
    """Best of n on the prompts `asked`, and beside it one answer of every version to exactly these.

    Args:
        picked: the version it picks from, and of each answer picked its gold and its reward.
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
    }


def best_of_kl(copies: int) -> float:
    """An upper bound on KL(best of n || one), in nats: log n - (n - 1) / n (Beirami et al. 2024, arXiv:2401.01879)."""
    return math.log(copies) - (copies - 1) / copies
