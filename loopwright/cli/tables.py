"""Tables for the terminal."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from loopwright.loop import StageStatus, Version

if TYPE_CHECKING:
    from loopwright.feedback.figures import Figures

_COLORS = {"done": "green", "stale": "yellow", "damaged": "red", "started": "cyan", "not run": "dim"}

PIPED = 200  # columns of a table that goes to no terminal: a file or a pager has no edge to fold at


def print_table(table: Table | Tree) -> None:
    """On standard output, as wide as the terminal or as $COLUMNS says."""
    as_wide_as_it_is = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if as_wide_as_it_is else PIPED).print(table)


def lineage_table(run: Path, stages: Sequence[StageStatus]) -> Table:
    """What ran, from what, and why anything will run again."""
    table = Table(title=str(run), title_justify="left")
    for column in ("stage", "state", "artifact", "from", "seconds", "why it will run"):
        table.add_column(column, overflow="fold")
    for stage in stages:
        state = stage.state if stage.checkpoint_step is None else f"{stage.state}, step {stage.checkpoint_step}"
        table.add_row(
            stage.stage,
            f"[{_COLORS[stage.state]}]{state}[/]",
            (stage.artifact or "").removeprefix("artifacts/"),
            "\n".join(f"{role}: {_parent(parent)}" for role, parent in stage.parents.items()),
            "" if stage.seconds is None else f"{stage.seconds:.1f}",
            "\n".join(stage.reasons).replace("[", "\\["),
        )
    return table


def _parent(folder_or_id: str) -> str:
    """The name of its folder, whole, so that it can be found; of one that was deleted the start of its id."""
    folder = folder_or_id.removeprefix("artifacts/")
    return folder if folder != folder_or_id else folder[:12]


def versions_tree(versions: Sequence[Version]) -> Tree:
    """The line of versions, each under the one it went on from."""
    first = versions[0].after or "a model from outside"
    tree = Tree(f"{first}, where the rounds began", guide_style="dim")
    branches = {first: tree}
    for one in versions:
        known = branches.get(one.after or first, tree)
        branches[one.name] = known.add("\n".join(_of_version(one)))
    return tree


def _of_version(one: Version) -> Iterator[str]:
    helped = {True: ", gained", False: ", [yellow]no sure gain[/]", None: ""}[one.gained]
    gold = "" if one.gold is None else f": gold {one.gold['mean']:.3f}"
    gain = "" if one.gain is None else " ({mean:+.3f}, {low:+.3f} to {high:+.3f})".format(**one.gain)
    yield f"[bold]{one.name}[/] by {', then '.join(one.methods)}{gold}{gain}{helped}"
    own = f"{one.name}."
    for labels in (labels for labels in one.labels if labels.step.startswith(own)):
        by = f", on answers of {' and '.join(labels.written_by)}" if labels.written_by else ""
        yield f"{labels.count:,} labels of {labels.step}{by}"
    if earlier := [labels for labels in one.labels if not labels.step.startswith(own)]:
        yield f"{sum(labels.count for labels in earlier):,} labels of {', '.join(labels.step for labels in earlier)}"


def seeds_table(
    run: Path, seeds: Mapping[int, Sequence[StageStatus]], versions: Mapping[int, Mapping[str, Any]]
) -> Table:
    """A line a seed: how far it is, and the gold of its models once they were measured."""
    table = Table(title=str(run), title_justify="left")
    names = list(dict.fromkeys(name for found in versions.values() for name in found))
    for column in ("seed", "state", *(f"{name} gold" for name in names)):
        table.add_column(column)
    for seed, stages in seeds.items():
        waiting = next((stage for stage in stages if stage.state != "done"), None)
        state = f"[{_COLORS[waiting.state]}]{waiting.stage} {waiting.state}[/]" if waiting else "[green]done[/]"
        golds = (versions.get(seed, {}).get(name, {}).get("gold") for name in names)
        table.add_row(str(seed), state, *map(_number, golds))
    return table


def versions_table(versions: Mapping[str, Mapping[str, Any]]) -> Table:
    """The models of a run side by side; a dash where a figure does not apply, no line where it applies to none."""
    table = Table(title="held-out prompts", title_justify="left")
    table.add_column("figure")
    for version in versions:
        table.add_column(version, justify="right")
    rows: dict[str, dict[str, Any]] = {}
    for version, figures in versions.items():
        for name, value in _flat(figures):
            rows.setdefault(name, {})[version] = value
    for name, values in rows.items():
        if any(value is not None for value in values.values()):
            table.add_row(name, *(_number(values.get(version)) for version in versions))
    return table


def figures_table(figures: "Figures") -> Table:
    """A line an annotator: how much, how fast, how often right."""
    table = Table(title="annotators", title_justify="left")
    for column in ("name", "labels", "seconds each", "labels an hour", "right, judged by all", "right on gold"):
        table.add_column(column, overflow="fold")
    for one in figures.annotators:
        numbers = (one.labels, one.median_seconds, one.labels_an_hour, one.reliability.value, one.gold.value)
        table.add_row(one.name.replace("[", "\\["), *map(_number, numbers))
    return table


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for name, value in figures.items():
        if isinstance(value, Mapping) and {"mean", "low", "high"} <= value.keys():
            rows.append((prefix + name, f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"))
        elif isinstance(value, Mapping) and value.keys() == {"mean", "std"}:  # over several seeds
            rows.append((prefix + name, f"{_number(value['mean'])} ± {_number(value['std'])}"))
        elif isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name} ")
        else:
            rows.append((prefix + name, value))
    return rows


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("[", "\\[")
