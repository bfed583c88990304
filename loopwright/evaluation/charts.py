"""The geometry of the report's charts: numbers in, coordinates and SVG path data out.

Colours and strokes are left to the style sheet, so that one drawing serves light, dark and print.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loopwright.schemas.steps import stage_of

Point = tuple[float, float]

WIDTH, HEIGHT = 360.0, 190.0  # of a line chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 12.0, 26.0
NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y = 124.0, 54.0, 32.0, 22.0


class Tick(NamedTuple):
    at: float  # coordinate
    label: str


class Line(NamedTuple):
    label: str
    style: str  # a class of the style sheet
    raw: str  # path data as recorded, drawn faint
    smooth: str  # path data of the moving average
    end: Point
    last: str  # the last value, as text


class LineChart(NamedTuple):
    title: str
    note: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: tuple[Tick, ...] = ()  # upright lines


class Node(NamedTuple):
    title: str
    id: str
    style: str
    x: float
    y: float


class Edge(NamedTuple):
    path: str
    end: Point


class Graph(NamedTuple):
    width: float
    height: float
    nodes: list[Node]
    edges: list[Edge]


@dataclass(frozen=True)
class Scale:
    """A linear map from [low, high] onto [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    note: str = "",
    *,
    from_zero: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> LineChart | None:
    """One panel. `series` maps a label to its (step, value) points; None when there is nothing to draw.

    `from_zero` shows zero on the upright axis, for figures whose size matters and not only their movement.
    `marks` are labelled upright lines, each at its x.
    """
    drawn: dict[str, Sequence[Point]] = {}
    for label, points in series.items():
        if len(points) > 1 and points not in drawn.values():  # a figure under two names is drawn once
            drawn[label] = points
    if not drawn:
        return None
    every = [point for points in drawn.values() for point in points]
    heights = [y for _, y in every] + ([0.0] if from_zero else [])
    if from_zero and not any(heights):
        heights.append(1.0)
    y_ticks = nice_ticks(min(heights), max(heights))
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    across = Scale(x_low, x_high if x_high > x_low else x_low + 1, LEFT, WIDTH - RIGHT)
    up = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    lines = []
    for index, (label, points) in enumerate(drawn.items()):
        smooth = moving_average(points)
        end = (across(smooth[-1][0]), up(smooth[-1][1]))
        raw, calm = _path(points, across, up), _path(smooth, across, up)
        lines.append(Line(label, f"series-{index}", raw, calm, end, short(smooth[-1][1])))
    return LineChart(
        title,
        note,
        lines,
        [Tick(across(x), f"{x:g}") for x in _steps(x_low, x_high)],
        [Tick(up(y), short(y)) for y in y_ticks],
        tuple(Tick(across(x), label) for x, label in marks if x_low <= x <= x_high),
    )


def moving_average(points: Sequence[Point], share: float = 0.06) -> list[Point]:
    """A centred mean over about `share` of the points; the ends use what they have."""
    half = int(len(points) * share / 2)
    values = [y for _, y in points]
    means = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        window = values[i - reach : i + reach + 1]
        means.append((x, sum(window) / len(window)))
    return means


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover [low, high], about `wanted` of them."""
    if high - low < 1e-12:
        pad = abs(high) * 0.5 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis or a label: three significant digits, of small ones two, as steps of 2.5e-4 need."""
    if value and abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    if abs(value) >= 1_000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def lineage(parents: Mapping[str, Sequence[str]], ids: Mapping[str, str], titles: Mapping[str, str]) -> Graph | None:
    """Stages as boxes, left to right by the longest way from a start, with a line from each parent.

    A line that passes over stages is an arc: above the boxes, or below them when it comes from the first column.

    Args:
        parents: stage -> the stages it was made from.
        ids: stage -> its artifact's id.
        titles: stage -> what a person calls it; by default its name.
    """
    if not parents:
        return None
    column = _columns(parents)
    rows: dict[int, list[str]] = {}
    for name in parents:
        rows.setdefault(column[name], []).append(name)
    arcs = [(column[before], column[name]) for name in parents for before in parents[name]]
    above = max((_bow(start, end) for start, end in arcs if start > 0), default=0.0)
    below = max((_bow(start, end) for start, end in arcs if start == 0), default=0.0)
    tallest = max(len(names) for names in rows.values()) * (NODE_HEIGHT + GAP_Y) - GAP_Y
    nodes: dict[str, Node] = {}
    for at, names in rows.items():
        top = above + 2 + (tallest - len(names) * (NODE_HEIGHT + GAP_Y) + GAP_Y) / 2
        for row, name in enumerate(names):
            x, y = 1 + at * (NODE_WIDTH + GAP_X), top + row * (NODE_HEIGHT + GAP_Y)
            nodes[name] = Node(titles.get(name, name), ids.get(name, "")[:12], f"stage-{stage_of(name)}", x, y)
    edges = [
        _edge(nodes[before], nodes[name], column[before], column[name]) for name in parents for before in parents[name]
    ]
    width = (max(rows) + 1) * (NODE_WIDTH + GAP_X) - GAP_X + 2
    return Graph(width, above + tallest + below + 4, list(nodes.values()), edges)


def _columns(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The longest way to each stage from one without parents."""
    column: dict[str, int] = {}
    for _ in parents:  # as many rounds as stages are enough for the longest chain
        for name, before in parents.items():
            column[name] = 1 + max((column.get(parent, 0) for parent in before), default=-1)
    return column


def _bow(start: int, end: int) -> float:
    """How far an arc between two columns leaves the boxes; 0 for neighbours."""
    return 0.0 if end - start < 2 else 9.0 + 11.0 * (end - start - 1)


def _edge(start: Node, end: Node, from_column: int, to_column: int) -> Edge:
    bow = _bow(from_column, to_column)
    if not bow:
        x0, y0, x1, y1 = start.x + NODE_WIDTH, start.y + NODE_HEIGHT / 2, end.x, end.y + NODE_HEIGHT / 2
        middle = (x0 + x1) / 2
        return Edge(f"M{x0:g} {y0:g}C{middle:g} {y0:g} {middle:g} {y1:g} {x1:g} {y1:g}", (x1, y1))
    # Arcs leave to the right of the middle and arrive to its left; a Bézier curve reaches 3/4 of its control points.
    side = 1.0 if from_column == 0 else -1.0
    lift = side * bow / 0.75
    x0, x1 = start.x + NODE_WIDTH * 0.62, end.x + NODE_WIDTH * (0.5 - 0.05 * (to_column - from_column))
    y0, y1 = (node.y + (NODE_HEIGHT if side > 0 else 0.0) for node in (start, end))
    lean = 0.25 * (x1 - x0)
    return Edge(f"M{x0:g} {y0:g}C{x0 + lean:g} {y0 + lift:g} {x1 - lean:g} {y1 + lift:g} {x1:g} {y1:g}", (x1, y1))


def _path(points: Sequence[Point], across: Scale, up: Scale) -> str:
    return "M" + "L".join(f"{across(x):g} {up(y):g}" for x, y in points)


def _steps(low: float, high: float) -> list[float]:
    """Between whole numbers, such as steps of training, only whole ones."""
    inside = [tick for tick in nice_ticks(low, high, 5) if low <= tick <= high]
    if float(low).is_integer() and float(high).is_integer():
        inside = [tick for tick in inside if tick.is_integer()]
    return inside or [low]
