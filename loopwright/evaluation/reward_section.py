"""The report's section on the reward model: the figures of `assessment.json`, and what it learned of its annotators."""

from statistics import fmean
from typing import Any

from loopwright.evaluation import charts
from loopwright.evaluation.figures import figure, percent
from loopwright.evaluation.run_files import RunFiles, is_number

MOST_ROWS = 12  # of a grouping: the groups of most pairs
TITLES = {
    "strength": "By how much better the answer was said to be",
    "margin": "By the stated margin",
    "agreement": "By what the annotators of a pair say",
    "chosen": "By the length of the answer chosen",
    "words": "By how far the lengths differ",
    "task": "By kind of prompt",
    "source": "By whether a person or a model judged",
    "annotator": "By annotator",
}


def reward_model(run: RunFiles) -> dict[str, Any] | None:
    """Accuracy by group, the learning curve, sensitivity, worthless answers, the data and who judged; None: nothing.

    Without held-out pairs there is no accuracy, and nothing that hangs on it.
    """
    stage = run.newest_files("reward")
    if stage is None:
        return None
    read = stage.json("assessment.json")
    found = read if isinstance(read, dict) else {}
    if not _is_cell(found.get("accuracy")):
        found = {"data": found.get("data")}
    shown = {
        "overall": found.get("accuracy"),
        "who": _who(found.get("by")),
        "groups": _groups(found.get("by")),
        "split": _best_possible(found.get("by")),
        "temperature": _temperature(_part(found, "calibration")),
        "curve": _curve(_part(found, "learning_curve")),
        "sensitivity": _rows(_part(found, "sensitivity").get("changes"), "change", "shift", "size", "flips"),
        "worthless": _rows(found.get("worthless"), "answer", "percentile", "beats"),
        "data": _data(_part(found, "data")),
        "annotators": _annotators(stage.metrics.get("annotators")),
    }
    return shown if any(value for name, value in shown.items() if name != "who") else None


def _who(by: Any) -> str:
    """Whose choices the accuracy is about: a model's are not called people's."""
    groups = {row.get("group") for row in _list(by, "source") if isinstance(row, dict)}
    if "models" not in groups:
        return "people"
    return "people or a model" if "people" in groups else "a model"


def _annotators(learned: Any) -> dict[str, Any] | None:
    """How reliable the annotators were found to be, those of most labels first."""
    rows = [
        {
            "name": "(no name)" if name == "None" else str(name),
            **{key: row[key] for key in ("accuracy", "low", "high", "labels")},
        }
        for name, row in (learned.items() if isinstance(learned, dict) else ())
        if isinstance(row, dict) and all(is_number(row.get(key)) for key in ("accuracy", "low", "high", "labels"))
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (-row["labels"], row["name"]))
    return {"rows": rows[:MOST_ROWS], "left_out": max(len(rows) - MOST_ROWS, 0)}


def _groups(by: Any) -> list[dict[str, Any]]:
    """The groupings with several groups; one group alone is all pairs."""
    shown = []
    for name, title in TITLES.items():
        rows = [row for row in _list(by, name) if _is_cell(row)]
        kept = {id(row) for row in sorted(rows, key=lambda row: -row["pairs"])[:MOST_ROWS]}
        if len(rows) > 1:
            lines = [
                {"label": _label(name, row), "count": row["pairs"], "style": "reward"}
                | {key: row[key] for key in ("mean", "low", "high")}
                for row in rows
                if id(row) in kept
            ]
            shown.append({"title": title, "rows": lines, "left_out": len(rows) - len(lines)})
    return shown


def _label(grouping: str, row: dict[str, Any]) -> str:
    """The group's name; people are called what they are called."""
    name = str(row.get("group"))
    return name if grouping == "annotator" else name[:1].upper() + name[1:]


def _best_possible(by: Any) -> float | None:
    rows = [row.get("best_possible") for row in _list(by, "agreement") if isinstance(row, dict)]
    return next((share for share in rows if is_number(share)), None)


def _temperature(report: dict[str, Any]) -> dict[str, Any] | None:
    if not is_number(report.get("temperature")):
        return None
    return {name: report.get(name) for name in ("temperature", "ece", "ece_after_temperature")}


def _curve(report: dict[str, Any]) -> dict[str, Any] | None:
    points = [
        (point["labels"], point["accuracy"])
        for point in _list(report, "points")
        if isinstance(point, dict) and is_number(point.get("labels")) and is_number(point.get("accuracy"))
    ]
    if not points:
        return None
    law, following = _part(report, "law"), _part(report, "next")
    by_size: dict[float, list[float]] = {}
    for labels, accuracy in points:
        by_size.setdefault(labels, []).append(accuracy)
    series: dict[str, list[charts.Point]] = {"measured": [(x, fmean(by_size[x])) for x in sorted(by_size)]}
    if law and following:
        first, last = min(by_size), following["total"]
        steps = [first * (last / first) ** (i / 40) for i in range(41)]
        series["power law"] = [(x, law["a"] + law["b"] * x ** -law["c"]) for x in steps]
    chart = charts.line_chart("Accuracy by labels", series, "Held-out pairs; nested subsets of the prompts")
    said = str(report.get("undefined") or "")
    if following:
        gain = following["gain"]
        said = (
            f"{figure(following['labels'])} more labels should bring {_points(gain['mean'])} points of accuracy "
            f"({_points(gain['low'])} to {_points(gain['high'])}), to {percent(following['accuracy'], 1)}."
        )
    return {"chart": chart, "said": said}


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _data(report: dict[str, Any]) -> dict[str, Any] | None:
    sentences = [str(one) for one in _list(_part(report, "consistency"), "sentences")]
    agreement = _part(report, "agreement")
    if not sentences and not agreement:
        return None
    alpha = _part(agreement, "alpha_ordinal")
    said = None
    if is_number(alpha.get("value")):
        shared, share = figure(agreement.get("pairs_judged_twice")), percent(_part(agreement, "percent").get("value"))
        said = (
            f"Two people agree on {share} of what both judged ({shared} pairs): "
            f"Krippendorff’s alpha is {figure(alpha['value'])}, where 0 is chance and 1 is always."
        )
    elif alpha.get("undefined"):
        said = f"How far people agree cannot be said: {alpha['undefined']}."
    return {"sentences": sentences, "agreement": said}


def _rows(rows: Any, *needed: str) -> list[dict[str, Any]]:
    found = rows if isinstance(rows, list) else []
    return [row for row in found if isinstance(row, dict) and all(key in row for key in needed)]


def _is_cell(row: Any) -> bool:
    return isinstance(row, dict) and all(is_number(row.get(key)) for key in ("mean", "low", "high", "pairs"))


def _part(report: dict[str, Any], name: str) -> dict[str, Any]:
    found = report.get(name)
    return found if isinstance(found, dict) else {}


def _list(report: Any, name: str) -> list[Any]:
    found = report.get(name) if isinstance(report, dict) else None
    return found if isinstance(found, list) else []
