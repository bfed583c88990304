"""Plots as SVG, made here: no script, no third party. Colours and type are the page's (classes of admin.css).

Each has a title and a description for those who do not see it, and stands beside a table of the same numbers.
"""

import math
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH = 480.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 20.0, 12.0, 28.0
ROW = 26.0  # height of a row of `intervals`
NAMES = 130.0  # width of their names
MOST_TICKS = 4

_ids = count()


class Bar(NamedTuple):
    label: str  # under the bar; empty: none
    value: float
    told: str  # on pointing at it


class Range(NamedTuple):
    """A value with its interval; none: `told` says why."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    told: str


def bars(data: Sequence[Bar], *, title: str, description: str, height: float = 170.0) -> Markup:
    """Bars from zero."""
    top = _round_up(max((bar.value for bar in data), default=0.0))
    inner, floor = WIDTH - LEFT - RIGHT, height - BOTTOM
    step = inner / max(len(data), 1)
    parts = [_line(LEFT, y, WIDTH - RIGHT, y, "grid") + _text(LEFT - 8, y + 4, _plain(tick), "end") for tick, y in (
        (top * n / 2, floor - (floor - TOP) * n / 2) for n in range(3)
    )]  # fmt: skip
    for place, bar in enumerate(data):
        tall = (floor - TOP) * bar.value / top
        x, width = LEFT + step * place + step * 0.12, step * 0.76
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{floor - tall:.1f}" width="{width:.1f}" height="{tall:.1f}" rx="1.5">'
            f"<title>{escape(bar.told)}</title></rect>"
        )
        if bar.label:
            parts.append(_text(x + width / 2, height - 8, bar.label, "middle"))
    return _svg(parts, title, description, height)


def intervals(
    data: Sequence[Range],
    *,
    title: str,
    description: str,
    low: float = 0.0,
    high: float = 1.0,
    mark: float | None = None,
) -> Markup:
    """A row for each value: a dot with its interval as a line; `mark` is a line through all, such as one half."""
    height = TOP + ROW * max(len(data), 1) + BOTTOM
    floor = height - BOTTOM

    def x(value: float) -> float:
        return NAMES + (WIDTH - NAMES - RIGHT - 8) * (min(max(value, low), high) - low) / (high - low)

    ticks = [low + (high - low) * n / MOST_TICKS for n in range(MOST_TICKS + 1)]
    parts = [
        _line(x(tick), TOP, x(tick), floor, "grid") + _text(x(tick), height - 8, f"{tick:g}", "middle")
        for tick in ticks
    ]
    if mark is not None:
        parts.append(_line(x(mark), TOP, x(mark), floor, "mark"))
    for place, one in enumerate(data):
        y = TOP + ROW * (place + 0.5)
        parts.append(_text(NAMES - 10, y + 4, _short(one.name), "end"))
        if one.value is None:
            parts.append(_text(x(low) + 6, y + 4, one.told, "start"))
            continue
        shown = _line(x(one.low), y, x(one.high), y, "range") if one.low is not None and one.high is not None else ""
        dot = f'<circle class="dot" cx="{x(one.value):.1f}" cy="{y:.1f}" r="5"/>'
        parts.append(f"<g><title>{escape(one.told)}</title>{shown}{dot}</g>")
    return _svg(parts, title, description, height)


def progress(share: float, title: str) -> Markup:
    """How much of a whole is done."""
    done = min(max(share, 0.0), 1.0) * 100
    return Markup(
        '<svg class="progress" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="track" width="100" height="8"/><rect class="bar" width="{}" height="8"/></svg>'
    ).format(title, f"{done:.1f}")


def _svg(parts: Sequence[str], title: str, description: str, height: float) -> Markup:
    id = f"plot{next(_ids)}"
    head = Markup('<title id="{0}t">{1}</title><desc id="{0}d">{2}</desc>').format(id, title, description)
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{id}t {id}d">'
        f"{head}{''.join(parts)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 10, 20, …: its half is easily read too."""
    if value <= 2:
        return 2.0
    size = 10.0 ** math.floor(math.log10(value))
    return next(size * step for step in (1, 2, 4, 5, 10) if size * step >= value)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
