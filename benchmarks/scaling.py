"""Seconds of a PPO step against responses a step, tokens a response, numbers in the model and responses to a prompt.

    python benchmarks/scaling.py [--steps 2 --svg docs/scaling.svg]

Each panel starts from one size and changes one thing. A step is the stage's, an epoch of four minibatches, the median
of a few; responses have their full length. What to look for is a cliff: `growth` is how much more than its share a
point takes, at most, beside the point before it (twice the tokens in twice the time: 1).

The gate of each point: the stage stops where sampler and learner give the same tokens other log-probabilities, and
responses have their full length.

Draws the panels, log-log, into an SVG file, prints a table for people and, last, one JSON line for programs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from ppo_steps import run_ppo
from shapes import SHAPES, model_of, save
from turns import busy, core_seconds

from loopwright.evaluation.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, Scale, short

START = {"batch": 64, "response": 64, "minibatches": 4, "epochs": 1}
STYLE = (
    "text{font:11px sans-serif;fill:#57606a}.title{font-size:12px;font-weight:600}"
    ".axis{stroke:#8c959f;stroke-opacity:.35}.line{fill:none;stroke:#0969da;stroke-width:2}circle{fill:#0969da}"
    ".fair{stroke:#8c959f;stroke-dasharray:3 3}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.line{stroke:#4493f8}circle{fill:#4493f8}}"
)


class Panel(NamedTuple):
    title: str
    x: str  # what is changed
    points: list[Point]  # (it, seconds a step)
    work: list[float]  # what seconds should grow with, for each point


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="measured, after one to warm up")
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--responses", nargs="+", type=int, default=[16, 32, 64, 128, 256])
    parser.add_argument("--samples", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--svg", type=Path, default=Path(__file__).parents[1] / "docs" / "scaling.svg")
    args = parser.parse_args()
    if min(map(len, (args.batches, args.responses, args.samples, args.sizes))) < 2:
        parser.error("a panel needs at least two points")
    torch.set_num_threads(args.threads)
    before = core_seconds()
    found = list(panels(args))
    for panel in found:
        print(f"{panel.title}; growth at most {growth(panel):.2f}")
        for x, seconds in panel.points:
            print(f"  {panel.x} {x:<12,.0f} {seconds:8.3f} s")
    args.svg.write_text(drawing(found), encoding="utf-8")
    listed = {panel.x: {"points": panel.points, "growth": round(growth(panel), 3)} for panel in found}
    print(json.dumps({"benchmark": "scaling", "start": START, "busy": busy(before, core_seconds()), "panels": listed}))


def panels(args: argparse.Namespace) -> Iterator[Panel]:
    def seconds(size: str = "tiny", samples: int = 1, **changed: int) -> float:
        return measure(size, START | changed, samples, args.steps)

    batches = [(float(n), seconds(batch=n)) for n in args.batches]
    yield Panel("Responses a step (tiny model)", "responses", batches, [float(n) for n in args.batches])
    lengths = [(float(n), seconds(response=n, batch=32)) for n in args.responses]
    yield Panel("Tokens a response (tiny model, 32 responses)", "tokens", lengths, [float(n) for n in args.responses])
    numbers = [float(model_of(SHAPES[size]).num_parameters()) for size in args.sizes]
    sizes = [(n, seconds(size, batch=8)) for n, size in zip(numbers, args.sizes, strict=True)]
    yield Panel("Numbers in the model (8 responses)", "parameters", sizes, numbers)
    samples = [(float(n), seconds(samples=n)) for n in args.samples]
    yield Panel("Responses to a prompt (tiny model, 64 in all)", "samples", samples, [1.0] * len(samples))


def measure(size: str, changed: dict[str, int], samples: int, steps: int) -> float:
    """Median seconds of a step, after one that warms up."""
    shape = SHAPES[size]._replace(**changed)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, prompts = Path(temporary), shape.batch // samples
        save(folder, size, 0.0, prompts)
        run_ppo(folder, shape, steps + 1, lambda _: ends.append(time.perf_counter()), prompts=prompts)
    return statistics.median(end - begin for begin, end in pairwise(ends))


def growth(panel: Panel) -> float:
    """How much more a point takes, at most, than the point before it and the work of both let expect."""
    costs = [seconds / work for (_, seconds), work in zip(panel.points, panel.work, strict=True)]
    return max((after / before for before, after in pairwise(costs)), default=1.0)


def drawing(panels: Sequence[Panel]) -> str:
    """Two panels beside each other, two rows; dashed: what the first point lets expect."""
    size = f"{2 * WIDTH:g} {math.ceil(len(panels) / 2) * (HEIGHT + 20):g}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">', f"<style>{STYLE}</style>"]
    parts.append("<title>Seconds of a PPO step, log-log</title>")
    for i, panel in enumerate(panels):
        parts += [
            f'<g transform="translate({i % 2 * WIDTH:g} {i // 2 * (HEIGHT + 20) + 20:g})">',
            *_drawn(panel),
            "</g>",
        ]
    return "\n".join([*parts, "</svg>\n"])


def _drawn(panel: Panel) -> Iterator[str]:
    xs, seconds = zip(*panel.points, strict=True)
    fair = [seconds[0] * work / panel.work[0] for work in panel.work]
    ticks = _round_numbers(min(*seconds, *fair), max(*seconds, *fair))
    across = Scale(math.log(xs[0]), math.log(xs[-1]), LEFT, WIDTH - RIGHT)
    up = Scale(math.log(ticks[0]), math.log(ticks[-1]), HEIGHT - BOTTOM, TOP)

    def path(heights: Sequence[float]) -> str:
        places = zip(xs, heights, strict=True)
        return "M" + "L".join(f"{across(math.log(x)):g} {up(math.log(y)):g}" for x, y in places)

    yield f'<text class="title" x="{LEFT:g}" y="0">{panel.title}</text>'
    for tick in ticks:
        y = up(math.log(tick))
        yield f'<path class="axis" d="M{LEFT:g} {y:g}H{WIDTH - RIGHT:g}"/>'
        yield f'<text x="{LEFT - 6:g}" y="{y + 4:g}" text-anchor="end">{short(tick)}</text>'
    yield f'<path class="line fair" d="{path(fair)}"/><path class="line" d="{path(seconds)}"/>'
    for x, height in panel.points:
        at = across(math.log(x))
        yield f'<circle cx="{at:g}" cy="{up(math.log(height)):g}" r="3"/>'
        label = f"{x / 1e6:.2g}M" if x >= 1e5 else f"{x:g}"
        yield f'<text x="{at:g}" y="{HEIGHT - BOTTOM + 16:g}" text-anchor="middle">{label}</text>'


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last below the range to the first above it."""
    steps = [factor * 10.0**power for power in range(-4, 6) for factor in (1, 2, 5)]
    first = max(i for i, step in enumerate(steps) if step <= low)
    last = min(i for i, step in enumerate(steps) if step >= high)
    return steps[first : max(last, first + 1) + 1]


if __name__ == "__main__":
    main()
