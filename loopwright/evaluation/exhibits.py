"""What the report shows of the data: samples, cleaning, the annotators' habits, the reward model's calibration."""

import hashlib
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from loopwright.evaluation.charts import Scale
from loopwright.evaluation.figures import label_of, style_of
from loopwright.evaluation.run_files import RunFiles, is_number

SHOWN_PER_GROUP = 4
FAILURES_SHOWN = 4
LONGEST_TEXT = 1_200  # characters of a text that the page shows
EXAMPLES_PER_REASON = 1
SCORES = ("helpful", "honest", "harmless", "reward", "kl")
PLOT, PLOT_LEFT, PLOT_TOP = 240.0, 40.0, 10.0  # the calibration plot: side and offsets


def samples(run: RunFiles) -> list[dict[str, Any]]:
    """Answers of every version side by side: a group for each task and set of prompts, and the last version's failures.

    Chosen by a rule and never by hand: the first prompts by the SHA-256 of their id.
    """
    stage = run.newest_files("evaluate")
    by_prompt: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in stage.json_lines("samples.jsonl") if stage else ():
        by_prompt.setdefault((str(row.get("set")), str(row.get("prompt_id"))), {})[str(row.get("version"))] = row
    ordered = sorted(by_prompt.items(), key=lambda item: hashlib.sha256(item[0][1].encode()).digest())
    groups: dict[str, list[dict[str, Any]]] = {_group(*item): [] for item in by_prompt.items()}  # as in the file
    for key, rows in ordered:
        first = next(iter(rows.values()))
        groups[_group(key, rows)].append({"prompt": cut(first.get("prompt")), "answers": answers_of(rows)})
    shown = [
        {"title": title.replace("_", " ").capitalize(), "rule": _rule(len(cards)), "cards": cards[:SHOWN_PER_GROUP]}
        for title, cards in groups.items()
    ]
    return shown + _failures([rows for (name, _), rows in ordered if name == "held_out"])


def _group(key: tuple[str, str], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Held-out prompts go by their task, the others by their set."""
    task = next(iter(rows.values())).get("task")
    return str(task or "held-out") if key[0] == "held_out" else key[0]


def _rule(prompts: int) -> str:
    shown = min(prompts, SHOWN_PER_GROUP)
    return f"The first {shown} of {prompts} prompts, in the order of the SHA-256 of their id."


def _failures(prompts: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The held-out prompts on which the last version scores lowest; ties in the order given."""
    if not prompts:
        return []
    last = list(prompts[0])[-1]
    scored = [rows for rows in prompts if last in rows and is_number(rows[last].get("gold"))]
    worst = sorted(scored, key=lambda rows: rows[last]["gold"])[:FAILURES_SHOWN]
    below = sum(rows[last]["gold"] < 0.5 for rows in scored)
    if not worst:
        return []
    rule = (
        f"The {len(worst)} held-out prompts on which {label_of(last)} scores lowest, ties in the order of the "
        f"SHA-256 of their id. It scores below 0.5 on {below} of {len(scored)} held-out prompts."
    )
    cards = [{"prompt": cut(next(iter(rows.values())).get("prompt")), "answers": answers_of(rows)} for rows in worst]
    return [{"title": "Failures", "rule": rule, "cards": cards}]


def answers_of(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Version -> its row of samples.jsonl, as the page shows them."""
    return [
        {
            "version": version,
            "label": label_of(version),
            "style": style_of(version),
            "text": cut(row.get("response")),
            "finished": row.get("finished") is not False,
            "gold": row.get("gold"),
            "scores": [(name, row[name]) for name in SCORES if is_number(row.get(name))],
        }
        for version, row in rows.items()
    ]


def cleaning(run: RunFiles) -> dict[str, Any] | None:
    """What cleaning dropped or mended, why, and examples."""
    stage = run.stages.get("pretrain")
    report = stage.json("cleaning.json") if stage else None
    if not isinstance(report, dict) or not isinstance(report.get("rows"), list):
        return None
    rows = [
        {
            "action": str(row.get("action")),
            "reason": str(row.get("reason")),
            "documents": row.get("documents"),
            "examples": [_example(example) for example in list(row.get("examples") or [])[:EXAMPLES_PER_REASON]],
        }
        for row in report["rows"]
        if isinstance(row, dict) and row.get("documents")
    ]
    totals = {key: report.get(key) for key in ("documents_in", "documents_out", "characters_in", "characters_out")}
    return {"rows": rows, **totals}


def _example(example: Any) -> dict[str, str | None]:
    """A text before cleaning, and after it where it was kept."""
    before, after = (example.get(key) for key in ("before", "after")) if isinstance(example, dict) else (example, None)
    return {"before": cut(before, 220), "after": None if after is None else cut(after, 220)}


def annotators(run: RunFiles) -> dict[str, Any] | None:
    """Who judged how much, and which habits show: the first position, the longer answer."""
    stage = run.newest_files("feedback")
    if stage is None:
        return None
    by_annotator: dict[str, list[dict[str, Any]]] = {}
    for row in stage.json_lines("comparisons.jsonl"):
        by_annotator.setdefault(str(row.get("annotator") or "unknown"), []).append(row)
    known = stage.metrics.get("annotators")
    known = known if isinstance(known, dict) else {}
    names = sorted({*by_annotator, *known})
    if not names:
        return None
    agreement = stage.metrics.get("agreement")
    rows = [{"name": name, **_record(known.get(name)), **_habits(by_annotator.get(name, []))} for name in names]
    everyone = _habits(row for judged in by_annotator.values() for row in judged)
    totals = [
        (kind, sum(1 for _ in stage.json_lines(f"{kind}.jsonl"))) for kind in ("comparisons", "rankings", "ratings")
    ]
    return {
        "rows": rows,
        "all": everyone,
        "agreement": agreement if is_number(agreement) else None,
        "totals": [(kind, count) for kind, count in totals if count],
        "right_by": _right_by(run) if any(row["accuracy"] is not None for row in rows) else None,
    }


def _right_by(run: RunFiles) -> str:
    """Whose verdict simulated annotators are measured by."""
    return "the model that lends annotators its taste" if "annotator" in run.stages else "the exact judges"


def _record(known: Any) -> dict[str, Any]:
    """What the stage itself says of an annotator: pairs judged, and how often rightly."""
    known = known if isinstance(known, dict) else {}
    return {"pairs": known.get("pairs"), "accuracy": known.get("accuracy")}


def _habits(judged: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    rows = list(judged)
    decided = [row for row in rows if row.get("choice") in (0, 1)]
    first = [row["choice"] == row["order_shown"][0] for row in decided if row.get("order_shown")]
    sized = [(row["choice"], [len(text) for text in row["responses"]]) for row in decided if row.get("responses")]
    longer = [sizes[choice] > sizes[1 - choice] for choice, sizes in sized if sizes[0] != sizes[1]]
    seconds = [row["seconds"] for row in rows if is_number(row.get("seconds"))]
    return {
        "count": len(rows),
        "ties": 1 - len(decided) / len(rows) if rows else None,
        "first": sum(first) / len(first) if first else None,
        "longer": sum(longer) / len(longer) if longer else None,
        "seconds": median(seconds) if seconds else None,
    }


def calibration(run: RunFiles) -> dict[str, Any] | None:
    """Predicted against observed preference, a point a bin; its area follows the number of pairs."""
    stage = run.newest_files("reward")
    report = stage.json("calibration.json") if stage else None
    if not isinstance(report, dict) or not isinstance(report.get("bins"), list):
        return None
    used = [
        row
        for row in report["bins"]
        if is_number(row.get("predicted")) and is_number(row.get("observed")) and row.get("count")
    ]
    if not used:
        return None
    across = Scale(0.0, 1.0, PLOT_LEFT, PLOT_LEFT + PLOT)
    up = Scale(0.0, 1.0, PLOT_TOP + PLOT, PLOT_TOP)
    most = max(row["count"] for row in used)
    points = [
        {"x": across(row["predicted"]), "y": up(row["observed"]), "r": round(3 + 8 * (row["count"] / most) ** 0.5, 2)}
        for row in used
    ]
    ticks = [{"x": across(at), "y": up(at), "label": f"{at:g}"} for at in (0, 0.25, 0.5, 0.75, 1)]
    plot = {"points": points, "ticks": ticks, "side": PLOT, "left": PLOT_LEFT, "top": PLOT_TOP}
    return plot | {"ece": report.get("ece"), "pairs": report.get("pairs")}


def cut(text: Any, longest: int = LONGEST_TEXT) -> str:
    """A text, or its beginning."""
    whole = str(text if text is not None else "")
    return whole if len(whole) <= longest else whole[:longest] + " …"
