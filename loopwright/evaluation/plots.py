"""The geometry of charts whose points have intervals: figures over versions, and rewards over KL.

As in charts.py: numbers in, coordinates and SVG path data out; colours and strokes are left to the style sheet.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from loopwright.evaluation.charts import Point, Scale, Tick, nice_ticks, short
from loopwright.evaluation.templating import environment, source

LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 12.0, 40.0
SMALL = (360.0, 214.0)  # width and height of a panel, in its own units
WIDE = (640.0, 360.0)
LETTER, LINE = 5.7, 12.0  # about how much room a letter and a line of a label take
SERIES = 6  # styles of the style sheet: series-0, series-1, ...


class Measure(NamedTuple):
    """A figure with its interval, at some KL."""

    label: str
    kl: float  # nats per response
    mean: float
    low: float
    high: float
    style: str = "series-0"  # a class of the style sheet


class Dot(NamedTuple):
    style: str
    at: Point
    low: float  # coordinate of the interval's lower end
    high: float
    said: str  # what a person reads when pointing at it
    label: str  # written beside it; may be empty
    label_at: Point
    anchor: str  # of the label: start, middle or end


class Curve(NamedTuple):
    label: str
    style: str
    path: str
    dashed: bool


class Plot(NamedTuple):
    title: str
    note: str
    width: float
    height: float
    dots: list[Dot]
    curves: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    legend: list[tuple[str, str]]  # label, style
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM


def over_versions(
    title: str, series: Mapping[str, Sequence[Any]], versions: Sequence[str], note: str = ""
) -> Plot | None:
    """A line a series over the versions, each point with its interval; None when no line has two points.

    Args:
        series: label -> one {"mean", "low", "high"} a version, or None where it was not measured.
        versions: what they are called, from left to right.
    """
    drawn = {
        label: [(i, found) for i, found in enumerate(values) if found is not None]
        for label, values in list(series.items())[:SERIES]
    }
    drawn = {label: points for label, points in drawn.items() if len(points) > 1}
    if not drawn:
        return None
    ends = [found[end] for points in drawn.values() for _, found in points for end in ("low", "high")]
    width, height = SMALL
    y_ticks = nice_ticks(min(ends), max(ends))
    across = Scale(-0.3, len(versions) - 0.7, LEFT, width - RIGHT)
    up = Scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP)
    dots, curves = [], []
    for number, (label, points) in enumerate(drawn.items()):
        # Series stand a little beside each other, so that their intervals do not hide one another.
        aside = (number - (len(drawn) - 1) / 2) * 0.09
        places = [(across(i + aside), up(found["mean"])) for i, found in points]
        curves.append(Curve(label, f"series-{number}", _path(places), dashed=False))
        for (i, found), at in zip(points, places, strict=True):
            said = f"{label}, {versions[i]}: {short(found['mean'])}"
            dots.append(Dot(f"series-{number}", at, up(found["low"]), up(found["high"]), said, "", at, "start"))
    legend = [(curve.label, curve.style) for curve in curves] if len(curves) > 1 else []
    x_ticks = [Tick(across(i), label) for i, label in enumerate(_fitting(versions, width - LEFT - RIGHT))]
    heights = [Tick(up(y), short(y)) for y in y_ticks]
    return Plot(title, note, width, height, dots, curves, x_ticks, heights, "", legend)


def frontier(
    measures: Sequence[Measure], best_of: Sequence[Point], *, title: str, note: str = "", size: Point = WIDE
) -> Plot | None:
    """A point with its interval for each way to improve a policy, over its KL; best of n as the curve to beat.

    What lies above the curve got more for its nats than picking from several answers does.

    Args:
        best_of: (KL, value) for rising n: see `best_of_frontier`. May be empty.
    """
    measures = [one for one in measures if all(map(math.isfinite, one[1:5]))]
    if not measures:
        return None
    width, height = size
    right = max([one.kl for one in measures] + [0.0])
    curve = _until(best_of, max(right, best_of[1][0] if len(best_of) > 1 else 0.0))
    heights = [value for one in measures for value in one[2:5]] + [y for _, y in curve]
    lefts = [one.kl for one in measures] + [x for x, _ in curve]
    y_ticks, x_ticks = nice_ticks(min(heights), max(heights)), nice_ticks(min(0.0, *lefts), max(lefts), 6)
    across = Scale(x_ticks[0], x_ticks[-1], LEFT, width - RIGHT)
    up = Scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP)
    places = [(across(one.kl), up(one.mean)) for one in measures]
    labels = _labels([one.label for one in measures], places, width)
    dots = [
        Dot(one.style, at, up(one.low), up(one.high), f"{one.label}: {short(one.mean)} at KL {short(one.kl)}", *label)
        for one, at, label in zip(measures, places, labels, strict=True)
    ]
    curves = []
    if len(curve) > 1:
        curves = [Curve("best of n", "best-of", _path([(across(x), up(y)) for x, y in curve]), dashed=True)]
    return Plot(
        title,
        note,
        width,
        height,
        dots,
        curves,
        [Tick(across(x), f"{x:g}") for x in x_ticks],
        [Tick(up(y), short(y)) for y in y_ticks],
        "nats of KL per response",
        [(one.label, one.style) for one in curves],
    )


def as_svg(plot: Plot) -> str:
    """The chart as an SVG file of its own, for pages that are not the report. Labels are escaped."""
    return environment().get_template("plot.svg").render(plot=plot, style=Markup(source("plot.css")))


def _until(points: Sequence[Point], right: float) -> list[Point]:
    """The curve as far as `right`, its last piece cut there."""
    kept = [point for point in points if point[0] <= right]
    if len(kept) < len(points) and kept:
        (x0, y0), (x1, y1) = kept[-1], points[len(kept)]
        kept.append((right, y0 + (y1 - y0) * (right - x0) / (x1 - x0)))
    return kept


def _labels(labels: Sequence[str], places: Sequence[Point], width: float) -> Iterator[tuple[str, Point, str]]:
    """Each label beside its dot, where it covers the fewest others."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for label, (x, y) in zip(labels, places, strict=True):
        room = LETTER * len(label)
        candidates = [
            ((x + 9, y + 4), "start", x + 9),
            ((x - 9, y + 4), "end", x - 9 - room),
            ((x + 7, y - 8), "start", x + 7),
            ((x + 7, y + 16), "start", x + 7),
            ((x - 7, y - 8), "end", x - 7 - room),
            ((x - 7, y + 16), "end", x - 7 - room),
        ]
        boxes = [(start, at[1] - 9, start + room, at[1] + 3) for at, _, start in candidates]
        costs = [
            sum(_overlap(box, other) for other in taken) + 1e4 * (box[0] < LEFT or box[2] > width) for box in boxes
        ]
        best = min(range(len(candidates)), key=lambda i: costs[i])
        taken.append(boxes[best])
        yield label, candidates[best][0], candidates[best][1]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The area that two boxes (left, top, right, bottom) share."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across * down if across > 0 and down > 0 else 0.0


def _fitting(labels: Sequence[str], room: float) -> list[str]:
    """The labels under an axis, cut where they would run into each other."""
    letters = max(2, int(room / len(labels) / LETTER) - 1)
    return [label if len(label) <= letters else label[: letters - 1] + "…" for label in labels]


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
