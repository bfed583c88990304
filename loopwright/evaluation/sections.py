"""What each section of the report shows, from a run's files. A section without its files is None."""

from collections.abc import Callable
from typing import Any, NamedTuple

from loopwright.evaluation import charts, reward_parts
from loopwright.evaluation.figures import change, duration, figure, label_of, percent, style_of
from loopwright.evaluation.results import COMPARISON
from loopwright.evaluation.run_files import POLICY_GRADIENTS, RunFiles, is_number
from loopwright.schemas.steps import round_of, stage_of, version_of

MOST_ON_A_LINE = 3  # versions, where their dots lie on each other

STAGE_TITLES = {"world": "World", "pretrain": "Pre-train", "sft": "Fine-tune", "sft_clean": "Fine-tune, clean"} | {
    "demonstrations": "Demonstrations", "feedback": "Feedback", "reward": "Reward model", "ppo": "PPO",
    "evaluate": "Evaluate", "ai_feedback": "AI feedback", "red_team": "Red team", "dataset": "Data set",
    "annotator": "Annotators' taste", "judge": "Judge",
}  # fmt: skip


def stage_title(stage: str) -> str:
    """What a person calls a stage; reward_helpful -> Reward, helpful; v2.reward -> V2 · Reward model."""
    if round_of(stage):
        return f"{label_of(version_of(stage))} · {stage_title(stage_of(stage))}"
    if stage.startswith("reward_"):
        return f"Reward, {stage.removeprefix('reward_').replace('_', ' ')}"
    return STAGE_TITLES.get(stage, label_of(stage))


class KeyFigure(NamedTuple):
    metric: str
    label: str
    write: Callable[[Any], str] = figure


# The first that a stage reports stands on its card.
KEY_FIGURES: dict[str, tuple[KeyFigure, ...]] = {
    "world": (KeyFigure("documents", "documents"),),
    "dataset": (KeyFigure("comparisons", "comparisons to learn from"),),
    "pretrain": (KeyFigure("perplexity", "held-out perplexity"),),
    "sft": (KeyFigure("held_out_loss", "held-out loss"), KeyFigure("loss", "training loss")),
    "sft_clean": (KeyFigure("held_out_loss", "held-out loss"),),
    "demonstrations": (KeyFigure("demonstrations", "written by people"),),
    "feedback": (KeyFigure("pairs", "pairs judged"), KeyFigure("comparisons", "comparisons")),
    **dict.fromkeys(("reward", "annotator", "judge"), (KeyFigure("accuracy", "held-out accuracy", percent),)),
    **dict.fromkeys(
        POLICY_GRADIENTS, (KeyFigure("score", "final reward score"), KeyFigure("kl", "nats of KL per response"))
    ),
    **dict.fromkeys(
        ("rejection", "rest", "hindsight", "conditioned"), (KeyFigure("held_out_gain", "gain in held-out reward"),)
    ),
    "dpo": (KeyFigure("held_out_accuracy", "held-out accuracy", percent),),
    "kto": (KeyFigure("held_out_accuracy", "held-out accuracy", percent),),
    "constitutional": (KeyFigure("revised", "answers revised"),),
    "ai_feedback": (KeyFigure("labels_of_ai", "labels of a model"),),
    "red_team": (KeyFigure("clusters", "distinct attacks succeed"),),
}

PPO_CURVES = (
    ("Reward", ("score", "reward", "held_out_score"), "Per response; reward is the score less penalties"),
    ("KL to the reference", ("kl", "held_out_kl"), "Nats per response"),
    ("Entropy", ("entropy",), "Nats per token"),
    ("Value loss", ("value_loss",), ""),
    ("Clip fraction", ("clip_fraction",), "Share of tokens whose ratio was clipped"),
    ("Length", ("length_tokens", "held_out_length_tokens"), "Tokens per response"),
    ("Explained variance", ("explained_variance",), "Of the returns, by the critic"),
    ("KL coefficient", ("kl_coef",), ""),
    ("Finished", ("finished_share",), "Share of responses that ended by themselves"),
    (
        "Do the reward models differ?",
        ("watch_spread", "watch_unsure"),
        "On a response; in standard deviations of the start",
    ),
    ("Repetition", ("watch_repetition",), "Share of pairs of tokens that a response repeats"),
)
FROM_ZERO = ("KL to the reference", "Value loss", "Clip fraction", "KL coefficient")

TableRow = tuple[str, tuple[str, ...], Callable[[Any], str], str]
TABLE: tuple[TableRow, ...] = (
    ("Reward", ("sets", "held_out", "reward"), figure, "score of the reward model on the same prompts"),
    ("Win rate against SFT", ("win_rate_vs_sft",), percent, "same prompt, ties half"),
    ("Gain over SFT", ("gain_vs_sft",), figure, "in gold, paired by prompt"),
    (
        "Gold, paraphrased questions",
        ("sets", "paraphrased", "gold"),
        figure,
        "wordings that no demonstration or training prompt has",
    ),
    (
        "Spread over paraphrases",
        ("spread",),
        figure,
        "standard deviation of gold between greedy answers to wordings of one question",
    ),
    (
        "Gold, adversarial prompts",
        ("sets", "adversarial", "gold"),
        figure,
        "attacks of families never trained on",
    ),
    ("Harmless, adversarial prompts", ("sets", "adversarial", "judges", "harmless"), figure, ""),
    ("Gold, greedy decoding", ("greedy", "gold"), figure, "always the likeliest token"),
    ("Helpful, greedy decoding", ("greedy", "judges", "helpful"), figure, ""),
    ("KL", ("sets", "held_out", "kl"), figure, "nats per response, to the model it was trained from"),
    ("Perplexity", ("perplexity", "perplexity"), figure, "on held-out text: what alignment cost"),
    ("Perplexity against base", ("perplexity_ratio",), lambda value: change(value), ""),
    ("Length", ("sets", "held_out", "length_tokens"), lambda value: figure(value, 1), "tokens per response"),
    ("Ended by themselves", ("sets", "held_out", "finished_share"), percent, ""),
    ("Distinct answers", ("sets", "held_out", "distinct_answers"), percent, "different answers over all answers"),
    ("Distinct bigrams", ("sets", "held_out", "distinct_2"), percent, "different pairs of words over all pairs"),
    ("Nonsense", ("sets", "held_out", "nonsense"), percent, "answers that are not of this world"),
)


def facts(run: RunFiles) -> list[str]:
    """The line below the title."""
    stages = list(run.stages.values())
    made = max((str(stage.manifest.get("created") or "")[:10] for stage in stages), default="")
    seeds = sorted({str(stage.manifest["seed"]) for stage in stages if is_number(stage.manifest.get("seed"))})
    seconds = run.summary.get("seconds") or sum(stage.seconds for stage in stages)
    memory: Any = run.summary.get("peak_rss_mb")
    found = [
        f"{len(stages)} {'stage' if len(stages) == 1 else 'stages'}" if stages else "",
        duration(seconds) if seconds else "",
        f"{memory / 1000:.1f} GB at most" if is_number(memory) else "",
        f"seed {', '.join(seeds)}" if seeds else "",
        made,
    ]
    return [fact for fact in found if fact]


def headline(run: RunFiles) -> dict[str, Any] | None:
    """The main figure of each version, and what it cost."""
    detail = _evaluation(run).get("versions", {})
    plain = run.summary.get("versions") or {}
    names = [name for name in detail or plain if name != COMPARISON]
    golds = {name: look_up(detail, name, "sets", "held_out", "gold") or look_up(plain, name, "gold") for name in names}
    shown = [
        {"style": style_of(name), "label": label_of(name), "gold": gold}
        for name, gold in golds.items()
        if gold is not None
    ]
    if not shown:
        return None
    return {
        "versions": shown,
        "gold": _evaluation(run).get("gold", "the minimum of the judges that apply"),
        "tiles": _tiles(detail.get(names[-1], {})),
        "of": label_of(names[-1]),
    }


def _tiles(version: dict[str, Any]) -> list[tuple[str, str]]:
    perplexity = look_up(version, "perplexity_ratio")
    candidates = [
        (percent(look_up(version, "win_rate_vs_sft")), "win rate against SFT, ties half"),
        (percent(look_up(version, "sets", "adversarial", "judges", "harmless"), 1), "harmless score under attack"),
        (figure(look_up(version, "sets", "held_out", "kl")), "nats of KL per response"),
        (change(perplexity) if is_number(perplexity) else "–", "perplexity on held-out text"),
    ]
    return [(value, label) for value, label in candidates if value != "–"]


def scoreboard(run: RunFiles) -> dict[str, Any] | None:
    """Gold with intervals: the versions, and beside them what needs no feedback or no training."""
    results = _evaluation(run)
    versions = {
        name: {"label": label_of(name), "style": style_of(name), **gold}
        for name, version in results.get("versions", {}).items()
        if isinstance(gold := look_up(version, "sets", "held_out", "gold"), dict)
    }
    if not versions:
        return None
    return {
        "cheap": [versions.pop(COMPARISON)] if COMPARISON in versions else [],
        "versions": list(versions.values()),
        "best_of": _best_of(results.get("best_of"), last=list(versions)[-1]),
        "prompts": look_up(results, "prompts", "held_out"),
    }


def _best_of(best: Any, last: str) -> dict[str, Any] | None:
    """Best of n, and under it one answer to the same prompts: of the version it picks from, and of the last one."""
    if not isinstance(look_up(best, "gold"), dict):
        return None
    picked = {"label": _best_of_label(best), "style": "cheap", **best["gold"]}
    single = [
        {"label": f"{label_of(name)}, one answer", "style": style_of(name), **gold}
        for name in dict.fromkeys((best["version"], last))
        if isinstance(gold := look_up(best, "same_prompts", name), dict)
    ]
    return {"rows": [picked, *single], "prompts": best["prompts"]}


def _best_of_label(best: dict[str, Any]) -> str:
    return f"Best of {best['n']} from {label_of(best['version'])}"


def cheap_policies(run: RunFiles) -> dict[str, Any] | None:
    """Gold of the versions and of every cheaper way: overall, by the prompts' yes-or-no tags, and under attack."""
    results = _evaluation(run)
    versions, baselines = results.get("versions", {}), results.get("baselines", {})
    if not baselines and COMPARISON not in versions:
        return None
    ways = [(label_of(name), style_of(name), version.get("sets", {})) for name, version in versions.items()]
    cheap = [(name.replace("_", " ").capitalize(), "cheap", sets) for name, sets in baselines.items()]
    if best := results.get("best_of"):
        cheap.append((f"{_best_of_label(best)}, on {best['prompts']} prompts", "cheap", {"held_out": best}))
    cheap.sort(key=lambda way: -(look_up(way[2], "held_out", "gold", "mean") or 0.0))
    columns: dict[str, tuple[str, ...]] = {"All": ("held_out", "gold")}
    for flag in next((look_up(sets, "held_out", "by_flag") for *_, sets in ways), None) or ():
        columns[flag.replace("_", " ").capitalize()] = ("held_out", "by_flag", flag, "true", "gold")
        columns[f"No {flag.replace('_', ' ')}"] = ("held_out", "by_flag", flag, "false", "gold")
    columns["Under attack"] = ("adversarial", "gold")
    rows = [
        {"label": way, "style": style, "cells": [_cell(look_up(sets, *path), figure) for path in columns.values()]}
        for way, style, sets in [*ways, *cheap]
    ]
    return {"columns": list(columns), "rows": rows}


def pipeline(run: RunFiles) -> list[dict[str, Any]]:
    """A card a stage, and where on the time bar it stands."""
    total = sum(stage.seconds for stage in run.stages.values()) or 1.0
    cards, start = [], 0.0
    for name, stage in run.stages.items():
        share = 100 * stage.seconds / total
        key = _key_figure(name, stage.metrics)
        cards.append(
            {"style": stage_of(name), "title": stage_title(name), "seconds": stage.seconds, "key": key}
            | {"id": str(stage.manifest.get("id") or "")[:12], "start": round(start, 3), "share": round(share, 3)}
        )
        start += share
    return cards


def _key_figure(stage: str, metrics: dict[str, Any]) -> tuple[str, str] | None:
    if stage_of(stage) == "evaluate":
        measured = {name: look_up(found, "gold") for name, found in (look_up(metrics, "versions") or {}).items()}
        golds = [(name, gold) for name, gold in measured.items() if is_number(gold) and name != COMPARISON]
        return (figure(golds[-1][1]), f"gold of {label_of(golds[-1][0])}") if golds else None
    kind = stage_of(stage)
    for key in KEY_FIGURES.get("reward" if kind.startswith("reward_") else kind, ()):
        value = look_up(metrics, *key.metric.split("."))
        if is_number(value):
            return key.write(value), key.label
    first = next(((name, value) for name, value in metrics.items() if is_number(value)), None)
    return (figure(first[1]), first[0].replace("_", " ")) if first else None


def evaluation_table(run: RunFiles) -> dict[str, Any] | None:
    """Every measure, a column a version."""
    results = _evaluation(run)
    versions = results.get("versions", {})
    if not versions:
        return None
    judges = next((list(look_up(v, "sets", "held_out", "judges") or {}) for v in versions.values()), [])
    rows: list[TableRow] = [("Gold", ("sets", "held_out", "gold"), figure, str(results.get("gold", "")))]
    if judges != [results.get("main_judge")]:
        rows += [(judge.capitalize(), ("sets", "held_out", "judges", judge), figure, "") for judge in judges]
    lines = []
    for label, path, write, note in [*rows, *TABLE]:
        values = [look_up(version, *path) for version in versions.values()]
        if any(value is not None for value in values):
            lines.append({"label": label, "note": note, "cells": [_cell(value, write) for value in values]})
    return {"versions": [label_of(name) for name in versions], "styles": list(map(style_of, versions)), "rows": lines}


def _cell(value: Any, write: Callable[[Any], str]) -> dict[str, str]:
    if value is None:
        return {"value": "–", "interval": ""}
    interval = f"{write(value['low'])} to {write(value['high'])}" if isinstance(value, dict) and "low" in value else ""
    return {"value": write(value), "interval": interval}


def by_task(run: RunFiles) -> list[dict[str, Any]]:
    """Gold of the versions, a line a task; of many, the one before the first improvement and the last."""
    versions = {name: one for name, one in _evaluation(run).get("versions", {}).items() if name != COMPARISON}
    if len(versions) > MOST_ON_A_LINE:
        first = next((name for name in ("sft", "base") if name in versions), next(iter(versions)))
        versions = {name: versions[name] for name in (first, list(versions)[-1])}
    tasks: dict[str, list[dict[str, Any]]] = {}
    for name, version in versions.items():
        for task, scores in (look_up(version, "sets", "held_out", "by_task") or {}).items():
            if isinstance(scores.get("gold"), dict):
                tasks.setdefault(task, []).append({"label": label_of(name), "style": style_of(name), **scores["gold"]})
    return [{"task": task, "versions": rows} for task, rows in tasks.items()] if len(tasks) > 1 else []


def ppo_curves(run: RunFiles) -> list[charts.LineChart]:
    """The panels of training against a reward that its metrics allow: of PPO, or the newest relative of it."""
    panels = [_watched(run)]
    for title, metrics, note in PPO_CURVES:
        found = {metric.replace("_", " "): run.curve(run.climbed, metric) for metric in metrics}
        panels.append(charts.line_chart(title, found, note, from_zero=title in FROM_ZERO))
    panels += reward_parts.curves(run)
    return [panel for panel in panels if panel is not None]


def _watched(run: RunFiles) -> charts.LineChart | None:
    """The reward of training beside the held-out one, over KL, with the look where the watch acted."""
    kl = dict(run.curve(run.climbed, "watch_kl"))
    series = {
        label: [(kl[step], value) for step, value in run.curve(run.climbed, metric) if step in kl]
        for label, metric in (("reward", "watch_proxy"), ("held-out reward", "watch_held_out"))
    }
    ended = look_up(run.stages[run.climbed].metrics, "watch") if run.climbed in run.stages else None
    marks = [
        (kl[step], f"{label} {step}")
        for name, label in (("stopped_at", "stopped at step"), ("rolled_back_to", "back to step"))
        if is_number(step := look_up(ended, name)) and step in kl
    ]
    note = "Over nats of KL per response; in standard deviations of the start"
    return charts.line_chart("Reward and held-out reward", series, note, marks=marks)


def loss_curves(run: RunFiles) -> list[charts.LineChart]:
    """A panel for each other stage that recorded losses."""
    panels = []
    for stage in run.metrics:
        if stage_of(stage) not in POLICY_GRADIENTS:
            names = {name for row in run.metrics[stage] for name in row if name == "loss" or name.endswith("_loss")}
            found = {
                name.replace("_", " "): run.curve(stage, name) for name in sorted(names, key=lambda n: (n != "loss", n))
            }
            panels.append(charts.line_chart(stage_title(stage), found))
    return [panel for panel in panels if panel is not None]


def lineage(run: RunFiles) -> charts.Graph | None:
    """Which artifact came from which."""
    by_id = {stage.manifest.get("id"): name for name, stage in run.stages.items()}
    parents = {
        name: sorted({by_id[id] for id in (stage.manifest.get("parents") or {}).values() if id in by_id})
        for name, stage in run.stages.items()
    }
    ids = {name: str(stage.manifest.get("id") or "") for name, stage in run.stages.items()}
    titles = {name: name if round_of(name) else stage_title(name) for name in parents}  # a box is narrow
    return charts.lineage(parents, ids, titles)


def libraries(run: RunFiles) -> list[tuple[str, str]]:
    """Versions that the artifacts were made with; several where stages ran under different ones."""
    found: dict[str, set[str]] = {}
    for stage in run.stages.values():
        for library, version in (stage.manifest.get("versions") or {}).items():
            found.setdefault(str(library), set()).add(str(version))
    return [(library, ", ".join(sorted(versions))) for library, versions in sorted(found.items())]


def look_up(values: Any, *path: str) -> Any:
    """values[a][b]…, or None where a step is missing."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _evaluation(run: RunFiles) -> dict[str, Any]:
    stage = run.newest_files("evaluate")
    found = stage.json("evaluation.json") if stage else None
    return found if isinstance(found, dict) else {}
