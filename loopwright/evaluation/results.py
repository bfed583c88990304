"""From rows to figures: what `evaluation.json` and `summary.json` say of each version. Pure: no model is reached."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loopwright.evaluation.metrics import (
    Interval,
    distinct_answers,
    distinct_n,
    gain_interval,
    mean,
    mean_interval,
    ratio,
    spread_within,
    wilson_interval,
    win_rate,
)
from loopwright.schemas import Prompt

Row = dict[str, Any]  # one answer; JSON-able
COMPARISON = "sft_clean"  # a version beside the line from base on: measured as the cheap policies are, no further
STARTS = ("base", "sft", COMPARISON)  # versions that no feedback has improved, in the order of the report
IS_ROUND = re.compile(r"v\d+")  # what the version that a round leaves behind is called
JUDGES_OF_A_WORLD = ("helpful", "honest", "harmless")


class Measured(NamedTuple):
    """Everything that was measured of one version."""

    sets: Mapping[str, list[Row]]  # set of prompts -> a row an answer, the same prompts for every version
    greedy: Mapping[str, list[Row]]  # the same, answered with the likeliest token always
    perplexity: dict[str, float] | None


def version_results(measured: Mapping[str, Measured], judges: Sequence[str], seed: int) -> dict[str, dict[str, Any]]:
    """The figures of every version, and of each against SFT and base."""
    results = {name: _version(one, judges, seed) for name, one in measured.items()}
    for name, one in measured.items():
        results[name] |= _against(name, measured, results, seed)
        results[name]["perplexity"] = one.perplexity
    return results


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """A version's entry in `summary.json`."""
    held_out = result["sets"]["held_out"]
    adversarial = result["sets"].get("adversarial", {})
    judged, attacked = held_out["judges"], adversarial.get("judges", {})
    return {
        "gold": _mean_of(held_out["gold"]),
        **{judge: _mean_of(judged.get(judge)) for judge in JUDGES_OF_A_WORLD},
        "reward": held_out["reward"],
        "kl": held_out["kl"],
        "length_tokens": held_out["length_tokens"],
        "win_rate_vs_sft": result["win_rate_vs_sft"],
        "perplexity": result["perplexity"]["perplexity"] if result["perplexity"] else None,
        "adversarial": {"gold": _mean_of(adversarial.get("gold")), "harmless": _mean_of(attacked.get("harmless"))},
    }


def set_results(rows: Sequence[Row], judges: Sequence[str], seed: int) -> dict[str, Any]:
    """The figures of one version on one set of prompts."""
    texts = [row["response"] for row in rows]
    tasks = sorted({row["task"] for row in rows if row["task"] is not None})
    nonsense = [row["nonsense"] for row in rows if row["nonsense"] is not None]
    return {
        "count": len(rows),
        "gold": _dict(mean_interval(_column(rows, "gold"), seed=seed)),
        "judges": _by_judge(rows, judges, seed),
        **{name: mean(_column(rows, name)) for name in ("reward", "kl", "kl_exact", "length_tokens")},
        **({"kl_from_base": mean(_column(rows, "kl_from_base"))} if rows and "kl_from_base" in rows[0] else {}),
        "finished_share": mean([float(row["finished"]) for row in rows]),
        "distinct_answers": distinct_answers(texts),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "nonsense": _dict(wilson_interval(sum(nonsense) / len(nonsense), len(nonsense))) if nonsense else None,
        "by_task": {task: _part([row for row in rows if row["task"] == task], seed) for task in tasks},
        "by_flag": by_flag(rows, seed),
    }


def by_flag(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Gold where a yes-or-no tag of the prompts says yes, and where no. Tags that say one thing alone are left out."""
    parts = {
        name: {str(value).lower(): [row for row in rows if row["flags"].get(name) is value] for value in (True, False)}
        for name in sorted({name for row in rows for name in row["flags"]})
    }
    return {
        name: {answer: _part(part, seed) for answer, part in split.items()}
        for name, split in parts.items()
        if all(split.values())
    }


def flags_of(prompt: Prompt) -> dict[str, bool]:
    """The yes-or-no tags of a prompt."""
    return {name: value for name, value in prompt.tags.items() if isinstance(value, bool)}


def gold_results(scores: Sequence[float | None], seed: int) -> dict[str, float] | None:
    """Gold alone, for a cheap policy."""
    return _dict(mean_interval(scores, seed=seed))


def _version(measured: Measured, judges: Sequence[str], seed: int) -> dict[str, Any]:
    # Greedy answers: between sampled ones the noise of sampling would count as spread, even to one wording asked twice.
    wordings = [row for rows in measured.greedy.values() for row in rows]
    greedy = measured.greedy.get("held_out")
    return {
        "sets": {name: set_results(rows, judges, seed) for name, rows in measured.sets.items()},
        "greedy": {
            "gold": _dict(mean_interval(_column(greedy, "gold"), seed=seed)),
            "judges": _by_judge(greedy, judges, seed),
            "length_tokens": mean(_column(greedy, "length_tokens")),
            "distinct_answers": distinct_answers([row["response"] for row in greedy]),
        }
        if greedy is not None
        else None,
        "spread": spread_within(_column(wordings, "question_id"), _column(wordings, "gold")),
    }


def _against(name: str, measured: Mapping[str, Measured], results: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One version beside SFT (its answers to the same prompts) and beside base (its text)."""
    sft = measured["sft"].sets["held_out"] if "sft" in measured and name != "sft" else None
    golds = _column(measured[name].sets["held_out"], "gold")
    own, first = measured[name].perplexity, measured.get("base")
    base_perplexity = first.perplexity["perplexity"] if first is not None and first.perplexity else None
    return {
        "win_rate_vs_sft": None if sft is None else _dict(win_rate(golds, _column(sft, "gold"))),
        "gain_vs_sft": None if sft is None else _dict(gain_interval(golds, _column(sft, "gold"), seed=seed)),
        "distinct_answers_vs_sft": _ratio_to("sft", name, results, "distinct_answers"),
        "distinct_2_vs_base": _ratio_to("base", name, results, "distinct_2"),
        "perplexity_ratio": ratio(own["perplexity"] if own else None, base_perplexity),
    }


def _ratio_to(other: str, name: str, results: Mapping[str, Any], figure: str) -> float | None:
    if other not in results:
        return None
    return ratio(results[name]["sets"]["held_out"][figure], results[other]["sets"]["held_out"][figure])


def _part(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    return {"count": len(rows), "gold": _dict(mean_interval(_column(rows, "gold"), seed=seed))}


def _by_judge(rows: Sequence[Row], judges: Sequence[str], seed: int) -> dict[str, Any]:
    return {judge: _dict(mean_interval(_column(rows, judge), seed=seed)) for judge in judges}


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _dict(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.as_dict()


def _mean_of(interval: Mapping[str, float] | None) -> float | None:
    return None if interval is None else interval["mean"]
