"""Versions of a model beside each other: their ratings, what each step gained, and what it made worse. Pure numpy."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from loopwright.evaluation.elo import Array, counts, elo, won
from loopwright.evaluation.metrics import gain_interval, win_rate
from loopwright.evaluation.results import COMPARISON, IS_ROUND, STARTS, Measured, Row
from loopwright.feedback.intervals import CONFIDENCE, Interval

RESAMPLES = 4_000  # of the search for what got worse, whose intervals reach far into the tails
FEWEST_PROMPTS = 20  # of a part that is looked at: fewer cannot tell a fall from chance
EXAMPLES = 3  # a step
BEFORE_ROUNDS = ("sft", "base")  # the first of these that there is, is what the first improved version came from


class Part(NamedTuple):
    """A group of prompts, and what is asked about the answers to it."""

    set: str
    task: str | None  # None: the whole set
    criterion: str  # gold or a judge


def are_compared(versions: Sequence[str]) -> bool:
    """Whether there is more to say than base, SFT and one policy need: several improved versions, or a round."""
    improved = [name for name in versions if name not in STARTS]
    return len(improved) > 1 or any(IS_ROUND.fullmatch(name) for name in improved)


def compare_versions(measured: Mapping[str, Measured], judges: Sequence[str], seed: int) -> dict[str, Any] | None:
    """Everything about the line of versions; None where no judge scored their answers.

    Each version is compared with the one before it in the order given, the first improved one with SFT. What only
    compares (`COMPARISON`) is no part of the line.
    """
    line = {name: one for name, one in measured.items() if name != COMPARISON}
    golds = {name: _column(one.sets["held_out"], "gold") for name, one in line.items()}
    if all(score is None for column in golds.values() for score in column):
        return None
    anchor = next((name for name in BEFORE_ROUNDS if name in line), next(iter(line)))
    names = list(line)
    from_anchor = names[names.index(anchor) :]
    criteria = list(judges) if len(judges) == 1 else ["gold", *judges]
    return {
        "anchor": anchor,
        "elo": {name: found.as_dict() for name, found in elo(golds, anchor=anchor, seed=seed).items()},
        "win_rates": win_rates(golds),
        "steps": [
            step(old, new, line[old], line[new], criteria, seed)
            for old, new in zip(from_anchor, from_anchor[1:], strict=False)
        ],
    }


def win_rates(scores: Mapping[str, Sequence[float | None]]) -> dict[str, dict[str, float | None]]:
    """Version -> other version -> how often the first is better on the same prompt, ties half."""
    table = np.array([[math.nan if x is None else x for x in column] for column in scores.values()], dtype=np.float64)
    wins = won(table).sum(axis=0)
    played = wins + wins.T
    names = list(scores)
    return {
        name: {other: float(wins[i, j] / played[i, j]) if played[i, j] else None for j, other in enumerate(names)}
        for i, name in enumerate(names)
    }


def step(old: str, new: str, before: Measured, after: Measured, criteria: Sequence[str], seed: int) -> dict[str, Any]:
    """What one version has over the one before, by gold on held-out prompts, and what got worse anywhere."""
    golds = [_column(one.sets["held_out"], "gold") for one in (after, before)]
    gain, wins = gain_interval(*golds, seed=seed), win_rate(*golds)
    looked_at, worse = falls(before.sets, after.sets, criteria, seed)
    return {
        "version": new,
        "after": old,
        "gain": _dict(gain),
        "win_rate": _dict(wins),
        "gained": helped(gain, wins),
        "looked_at": looked_at,
        "worse": worse,
        "examples": worst(before.sets, after.sets),
    }


def helped(gain: Interval | None, wins: Interval | None) -> bool | None:
    """Whether gold rose significantly, or the new version wins more than half significantly; None: no judge."""
    if gain is None or wins is None:
        return None
    return gain.low > 0.0 or wins.low > 0.5


def falls(
    before: Mapping[str, Sequence[Row]], after: Mapping[str, Sequence[Row]], criteria: Sequence[str], seed: int
) -> tuple[int, list[dict[str, Any]]]:
    """How many parts were looked at, and those whose mean fell significantly, the greatest fall first.

    A paired bootstrap over the prompts of each set (Efron & Tibshirani 1993, sec. 13.3): a part has fallen where the
    whole interval of its change is below 0. The interval is so wide that all parts looked at hold at once with 95 %
    (Bonferroni), or else a version that changed nothing would seem to get worse somewhere.

    Args:
        before, after: set -> rows of the two versions, the same prompts in the same order.
    """
    parts = {part: found for part, found in _parts(before, after, criteria) if len(found.places) >= FEWEST_PROMPTS}
    if not parts:
        return 0, []
    tail = (1.0 - CONFIDENCE) / 2.0 / len(parts)
    drawn = {name: counts(len(rows), seed, RESAMPLES) for name, rows in after.items() if rows}
    worse = []
    for part, (places, old, new) in parts.items():
        often = drawn[part.set][:, places]
        kept = often[often.sum(axis=1) > 0]
        low, high = np.quantile(kept @ (new - old) / kept.sum(axis=1), [tail, 1.0 - tail])
        if high < 0.0:
            change = Interval(float((new - old).mean()), float(low), float(high))
            sizes = {"count": len(places), "old": float(old.mean()), "new": float(new.mean())}
            worse.append({**part._asdict(), **sizes, "change": change.as_dict()})
    return len(parts), sorted(worse, key=lambda found: found["change"]["mean"])


def worst(before: Mapping[str, Sequence[Row]], after: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """The prompts whose gold fell furthest; ties in the order of the SHA-256 of their id, so that nobody picks them."""
    fallen = [
        {"set": name, "prompt_id": new["prompt_id"], "old": old["gold"], "new": new["gold"]}
        for name, rows in after.items()
        for old, new in zip(before.get(name, ()), rows, strict=False)
        if old["gold"] is not None and new["gold"] is not None and new["gold"] < old["gold"]
    ]
    fallen.sort(key=lambda row: (row["new"] - row["old"], hashlib.sha256(str(row["prompt_id"]).encode()).digest()))
    return fallen[:EXAMPLES]


def round_figures(comparison: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """What `summary.json` says of the line of versions.

    Args:
        results: version -> its figures, as `version_results` gives them.
    """
    steps = comparison["steps"]
    held_out = {name: results[name]["sets"]["held_out"] for name in comparison["elo"]}
    return {
        "elo": comparison["elo"],
        "gained": {one["version"]: one["gained"] for one in steps},
        "gain": {one["version"]: one["gain"] for one in steps},
        "worse": [
            {"version": one["version"], "after": one["after"], **found} for one in steps for found in one["worse"]
        ],
        "kl_from_base": {name: found["kl_from_base"] for name, found in held_out.items() if "kl_from_base" in found},
    }


class _Change(NamedTuple):
    places: list[int]  # of the prompts in their set
    old: Array  # their scores
    new: Array


def _parts(
    before: Mapping[str, Sequence[Row]], after: Mapping[str, Sequence[Row]], criteria: Sequence[str]
) -> Iterator[tuple[Part, _Change]]:
    """Each set by every criterion, and by gold (or the only judge) each task of a set that has several."""
    for name in (name for name in after if name in before):
        old, new = before[name], after[name]
        if [row["prompt_id"] for row in old] != [row["prompt_id"] for row in new]:
            raise ValueError(f"versions are compared on the same prompts; those of {name} differ")
        everywhere = list(range(len(new)))
        for criterion in criteria:
            yield Part(name, None, criterion), _change(old, new, criterion, everywhere)
        tasks = {task: [i for i in everywhere if new[i]["task"] == task] for task in sorted(_tasks(new))}
        for task, places in tasks.items() if len(tasks) > 1 else ():
            yield Part(name, task, criteria[0]), _change(old, new, criteria[0], places)


def _tasks(rows: Sequence[Row]) -> set[str]:
    return {row["task"] for row in rows if row["task"] is not None}


def _change(old: Sequence[Row], new: Sequence[Row], criterion: str, among: Sequence[int]) -> _Change:
    """How the rows at the places `among` changed, where the criterion applies to both."""
    applies = [i for i in among if old[i].get(criterion) is not None and new[i].get(criterion) is not None]
    before, after = (np.array([rows[i][criterion] for i in applies], dtype=np.float64) for rows in (old, new))
    return _Change(applies, before, after)


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _dict(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.as_dict()
