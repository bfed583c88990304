"""The report's section about a line of versions: which step helped, what it cost, what got worse."""

from collections.abc import Mapping, Sequence
from typing import Any

from loopwright.evaluation import plots
from loopwright.evaluation.exhibits import answers_of, cut
from loopwright.evaluation.figures import figure, label_of, percent, style_of
from loopwright.evaluation.results import COMPARISON
from loopwright.evaluation.run_files import RunFiles, StageFiles, is_number

SHOWN_FALLS = 30


def versions(run: RunFiles) -> dict[str, Any] | None:
    """Everything the section shows; None unless several improved versions, or rounds, were compared."""
    stage = run.newest_files("evaluate")
    results = stage.json("evaluation.json") if stage else None
    comparison = results.get("comparison") if isinstance(results, dict) else None
    if stage is None or not isinstance(results, dict) or not isinstance(comparison, dict):
        return None
    detail = {name: found for name, found in results["versions"].items() if name != COMPARISON}
    falls = [fall | {"step": step} for step in comparison["steps"] for fall in step["worse"]]
    return {
        "anchor": label_of(comparison["anchor"]),
        "rows": _table(detail, comparison),
        "findings": [*findings(comparison["steps"]), *_ended_early(run.summary.get("stopped"))],
        "charts": _charts(detail, comparison, results.get("best_of")),
        "matrix": _matrix(comparison["win_rates"]),
        "falls": [_fall(fall) for fall in falls[:SHOWN_FALLS]],
        "falls_left_out": max(0, len(falls) - SHOWN_FALLS),
        "examples": _examples(stage, comparison["steps"]),
    }


def findings(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """In plain sentences: the steps that did not help, and those that made something worse."""
    found = []
    for step in steps:
        name, before = label_of(step["version"]), label_of(step["after"])
        if step["gained"] is False:
            said = (
                f"against {before} its gold changed by {_between(step['gain'])}, and it is better on "
                f"{percent(step['win_rate'])} of the prompts, ties half."
            )
            harmed = step["gain"]["high"] < 0
            found.append(
                f"{name} did harm: {said}" if harmed else f"{name} did not help: {said} Neither is a sure gain."
            )
        if step["worse"]:
            worst = step["worse"][0]
            found.append(
                f"{name} got worse than {before} in {len(step['worse'])} of the {step['looked_at']} parts looked at, "
                f"most in {part_in_words(worst)}: {_between(worst['change'])}."
            )
    if not found and steps and all(step["gained"] for step in steps):
        found.append("Every step helped, and none made a part of the prompts or a judge's score significantly worse.")
    return found


def _ended_early(why: Any) -> list[str]:
    """Why not all rounds were made, as the loop said it."""
    return [f"Rounds ended early: {why}."] if isinstance(why, str) else []


def part_in_words(part: Mapping[str, Any]) -> str:
    """harmless on adversarial prompts; gold on held-out prompts, task known."""
    where = f"{part['criterion']} on {str(part['set']).replace('_', '-')} prompts"
    return f"{where}, task {part['task']}" if part.get("task") else where


def _between(interval: Mapping[str, float]) -> str:
    return f"{figure(interval)} ({figure(interval['low'])} to {figure(interval['high'])})"


def _table(detail: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line a version."""
    steps = {step["version"]: step for step in comparison["steps"]}
    rows = []
    for name, rating in comparison["elo"].items():
        held_out, step = detail[name]["sets"]["held_out"], steps.get(name, {})
        rows.append(
            {
                "label": label_of(name),
                "style": style_of(name),
                "elo": _whole(rating),
                "gold": _cell(held_out["gold"], figure),
                "gain": _cell(step.get("gain"), figure),
                "wins": _cell(step.get("win_rate"), percent),
                "helped": {True: "yes", False: "no"}.get(step.get("gained"), "–"),
                "kl": figure(None if name == comparison["anchor"] else held_out["kl"]),  # its own is that from base
                "kl_from_base": figure(held_out.get("kl_from_base")),
                "length": figure(held_out["length_tokens"], 1),
                "worse": len(step["worse"]) if step else None,
            }
        )
    return rows


def _whole(rating: Mapping[str, float]) -> dict[str, str]:
    """A rating without decimals; the anchor's is not estimated and has no interval."""
    value, low, high = (figure(round(rating[end])) for end in ("mean", "low", "high"))
    return {"value": value, "interval": "" if low == high else f"{low} to {high}"}


def _cell(interval: Any, write: Any) -> dict[str, str]:
    if interval is None:
        return {"value": "–", "interval": ""}
    return {"value": write(interval), "interval": f"{write(interval['low'])} to {write(interval['high'])}"}


def _charts(detail: Mapping[str, Any], comparison: Mapping[str, Any], best_of: Any) -> list[plots.Plot]:
    """Ratings and criteria over the versions, and gold over KL with best of n as the curve to beat."""
    names = list(comparison["elo"])
    labels = [label_of(name) for name in names]
    held_out = {name: detail[name]["sets"]["held_out"] for name in names}
    judges = list(next(iter(held_out.values()))["judges"])
    scores = {"gold": [held_out[name]["gold"] for name in names]}
    if len(judges) > 1:
        scores |= {judge: [held_out[name]["judges"].get(judge) for name in names] for judge in judges}
    attacked = [(detail[name]["sets"].get("adversarial") or {}).get("judges", {}).get("harmless") for name in names]
    lengths = [_point(held_out[name]["length_tokens"]) for name in names]
    found = [
        plots.over_versions("Elo", {"Elo": list(comparison["elo"].values())}, labels, "By gold on the same prompts"),
        plots.over_versions("Scores on held-out prompts", scores, labels, "Means with 95 % intervals"),
        plots.over_versions("Harmless under attack", {"harmless": attacked}, labels, "Adversarial prompts"),
        plots.over_versions("Length", {"tokens": lengths}, labels, "Tokens per response"),
        _frontier(held_out, comparison["anchor"], best_of),
    ]
    return [chart for chart in found if chart is not None]


def _frontier(held_out: Mapping[str, Any], anchor: str, best_of: Any) -> plots.Plot | None:
    """Gold over KL to the anchor, of the anchor itself and all that came from it."""
    after = list(held_out)[list(held_out).index(anchor) + 1 :]
    kls = {anchor: 0.0} | {name: held_out[name]["kl"] for name in after}
    measures = [
        plots.Measure(label_of(name), kl, *(held_out[name]["gold"][end] for end in ("mean", "low", "high")))
        for name, kl in kls.items()
        if is_number(kl) and held_out[name]["gold"]
    ]
    curve: list[tuple[float, float]] = []
    if isinstance(best_of, dict) and best_of.get("version") == anchor:
        curve = [(point["kl"], point["gold"]) for point in best_of.get("frontier") or ()]
    note = f"To {label_of(anchor)}."
    if curve:
        note += f" Dashed: the reward model picks from up to {best_of['n']} answers, on {best_of['prompts']} prompts."
    return plots.frontier(measures, curve, title="Gold over KL", note=note)


def _point(value: Any) -> dict[str, float] | None:
    return {"mean": value, "low": value, "high": value} if is_number(value) else None


def _matrix(rates: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How often the version of a line beats that of a column."""
    return {
        "labels": [label_of(name) for name in rates],
        "rows": [
            {"label": label_of(name), "style": style_of(name), "cells": [percent(value) for value in row.values()]}
            for name, row in rates.items()
        ],
    }


def _fall(fall: Mapping[str, Any]) -> dict[str, Any]:
    step = fall["step"]
    return {
        "step": f"{label_of(step['version'])} after {label_of(step['after'])}",
        "part": part_in_words(fall),
        "count": fall["count"],
        "old": figure(fall["old"]),
        "new": figure(fall["new"]),
        "change": _cell(fall["change"], figure),
    }


def _examples(stage: StageFiles, steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each step the prompts whose gold fell furthest, with both answers."""
    wanted = {
        (str(found["set"]), str(found["prompt_id"]), version)
        for step in steps
        for found in step["examples"]
        for version in (step["after"], step["version"])
    }
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in stage.json_lines("samples.jsonl"):
        key = (str(row.get("set")), str(row.get("prompt_id")), str(row.get("version")))
        if key in wanted:
            rows[key] = row
    groups = []
    for step in steps:
        cards = []
        for found in step["examples"]:
            pair = {
                version: rows.get((str(found["set"]), str(found["prompt_id"]), version))
                for version in (step["after"], step["version"])
            }
            answered = {version: row for version, row in pair.items() if row is not None}
            if len(answered) == 2:
                cards.append({"prompt": cut(answered[step["version"]].get("prompt")), "answers": answers_of(answered)})
        if cards:
            groups.append({"title": f"{label_of(step['version'])} after {label_of(step['after'])}", "cards": cards})
    return groups
