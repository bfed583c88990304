"""What the report shows of several rewards that were merged: each one over training, and where they pulled apart."""

from itertools import combinations
from typing import Any, NamedTuple

from loopwright.evaluation import charts
from loopwright.evaluation.run_files import RunFiles

_STD = "std_of_"  # only of merged rewards there is such a figure
Points = list[tuple[float, float]]


class Share(NamedTuple):
    """What a rule says each reward had of the score."""

    metric: str  # before the reward's name
    title: str  # of the panel
    heading: str  # of the columns of the table
    note: str  # what the figure is, mean of a step


# One line for each name in loopwright/rewards/rules.py.
SHARES = (
    Share("contribution", "What each adds to the score", "Adds", "Weight times score; they add up to the score"),
    Share("decided_by", "Which reward decides", "Decides", "Share of the responses whose score is that reward's"),
    Share("factor", "Each factor of the score", "Factor", "Sigmoid of the score; the score is their product"),
)


def curves(run: RunFiles) -> list[charts.LineChart | None]:
    """Panels of each reward: its mean, what it had of the score, the pairs' conflict, and a constraint's multiplier."""
    names = _names(run)
    if not names:
        return []
    pairs = _pairs(names)
    limit = charts.line_chart("Price of the constraint", {"multiplier": run.curve(run.climbed, "multiplier")}, "Lambda")
    shares = [
        charts.line_chart(share.title, {_said(name): _curve(run, share, name) for name in names}, share.note)
        for share in SHARES
    ]
    return [
        charts.line_chart(
            "Each reward", {_said(name): run.curve(run.climbed, f"score_{name}") for name in names}, "Mean of a step"
        ),
        *shares,
        charts.line_chart(
            "Do the rewards agree?",
            {label: run.curve(run.climbed, f"correlation_{pair}") for label, pair in pairs.items()},
            "Correlation over the responses of a step",
            from_zero=True,
        ),
        charts.line_chart(
            "Conflict",
            {label: run.curve(run.climbed, f"disagreement_{pair}") for label, pair in pairs.items()},
            "Share of steps on which one rose and the other fell",
            from_zero=True,
        ),
        limit,
    ]


def table(run: RunFiles) -> dict[str, Any] | None:
    """Each reward at both ends of training, and each pair's conflict; None without several rewards."""
    names = _names(run)
    if not names:
        return None
    share = next((one for one in SHARES if any(_curve(run, one, name) for name in names)), None)
    parts = []
    for name in names:
        first, last = _ends(run.curve(run.climbed, f"score_{name}"))
        change = None if first is None or last is None else last - first
        had = (None, None) if share is None else _ends(_curve(run, share, name))
        parts.append({"name": _said(name), "first": first, "last": last, "change": change, "had": had})
    pairs = []
    for label, pair in _pairs(names).items():
        first, last = _ends(run.curve(run.climbed, f"correlation_{pair}"))
        opposed = run.curve(run.climbed, f"disagreement_{pair}")
        pairs.append({"name": label, "first": first, "last": last, "disagreement": opposed[-1][1] if opposed else None})
    return {"parts": parts, "pairs": pairs, "share": share}


def _curve(run: RunFiles, share: Share, name: str) -> Points:
    return run.curve(run.climbed, f"{share.metric}_{name}")


def _names(run: RunFiles) -> list[str]:
    found = (name for row in run.metrics.get(run.climbed, []) for name in row if name.startswith(_STD))
    return list(dict.fromkeys(name.removeprefix(_STD) for name in found))


def _pairs(names: list[str]) -> dict[str, str]:
    """Label -> what figures of the pair are called."""
    return {f"{_said(a)} and {_said(b)}": f"{a}_and_{b}" for a, b in combinations(names, 2)}


def _ends(points: Points) -> tuple[float | None, float | None]:
    """Means over the first and the last tenth of the points."""
    if not points:
        return None, None
    count = max(1, len(points) // 10)
    values = [value for _, value in points]
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _said(name: str) -> str:
    return name.replace("_", " ")
