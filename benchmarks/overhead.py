"""What a PPO step takes besides models, losses and optimizers: bookkeeping, checks, records, waiting.

    python benchmarks/overhead.py [--sizes tiny small --steps 4]

Counted as work is the time inside of: forward passes (a whole one, Python between its operations included), one
sampling step over all live rows and the draw from its logits, backward passes, the log-probabilities and losses, the
clipping of gradients, and the optimizers. Everything else is overhead, also what an algorithm needs: prompts and
rewards as tokens and text, bookkeeping of rows, weights arranged for sampling, advantages, adding up gradients,
figures. Where pieces run side by side on the cores, work counts with the share of the cores that it has, so a core
that waits for another is overhead, too. A step is the stage's, from one record to the next.

The gate: the stage stops where a step's sampler and learner give the same tokens other log-probabilities, and responses
have their full length; `sampler_drift` is the most that they parted, nats a token.

Prints a table for people and, last, one JSON line for programs.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ppo_steps import run_ppo
from shapes import SHAPES, save
from turns import busy, core_seconds

from loopwright.generation import fast_engine
from loopwright.generation.step import Step
from loopwright.models.decoder import Decoder
from loopwright.stages import ppo
from loopwright.training import ppo_critic, ppo_learner
from loopwright.training.optim import Optimizers

MOST = 0.05  # of a step
WORK: dict[str, list[tuple[Any, str]]] = {
    "forward": [(Decoder, "read"), (Decoder, "read_below"), (torch.nn.Module, "__call__")],
    "sampling": [(Step, "__call__"), (fast_engine, "draw")],
    "backward": [(torch.Tensor, "backward"), (torch.autograd, "grad")],
    "losses": [(ppo_learner, name) for name in ("summed_losses", "token_logprobs", "approximate_kl", "exact_kl")]
    + [(ppo_critic, "clipped_value_loss")],
    "optimizer": [(torch.nn.utils, "clip_grad_norm_"), (Optimizers, "step")],
}
PHASES = {
    "sample": (fast_engine.FastEngine, "generate"),
    "score": (ppo, "score"),
    "observe": (ppo_learner.PPOLearner, "observe"),
    "update": (ppo_learner.PPOLearner, "update"),
}
BETWEEN = "between"  # the phases


class Clock:
    """Seconds of each phase, and of each kind of work in it."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self.phase = BETWEEN
        self.wall: Counter[str] = Counter()
        self.work: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._here = threading.local()

    @contextmanager
    def in_phase(self, name: str) -> Iterator[None]:
        self.phase, start = name, time.perf_counter()
        yield
        self.wall[name] += time.perf_counter() - start
        self.phase = BETWEEN

    @contextmanager
    def working(self, kind: str) -> Iterator[None]:
        """Work inside of other work is part of that."""
        if getattr(self._here, "works", False):
            yield
            return
        self._here.works, start = True, time.perf_counter()
        try:
            yield
        finally:
            self._here.works = False
            share = torch.get_num_threads() / self.threads  # fewer where pieces run side by side
            with self._lock:
                self.work[self.phase, kind] += share * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["tiny", "small"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--microbatch", type=int, help="ppo.microbatch_size")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = Clock()
    for kind, functions in WORK.items():
        for owner, name in functions:
            _wrap(owner, name, functools.partial(clock.working, kind))
    for phase, (owner, name) in PHASES.items():
        _wrap(owner, name, functools.partial(clock.in_phase, phase))
    rows = {size: measure(size, clock, args) for size in args.sizes}
    for size, row in rows.items():
        show(size, row)
    print(json.dumps({"benchmark": "overhead", "threads": args.threads, "most": MOST, "sizes": rows}))


def measure(size: str, clock: Clock, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step: of phases, of the work in them, and of what remains."""
    before, start = core_seconds(), 0.0
    steps, drift = 0, 0.0

    def after_step(figures: dict[str, float]) -> None:
        nonlocal before, start, steps, drift
        steps, drift = steps + 1, max(drift, figures["sampler_drift"])
        if steps == 1:  # it warms up, and has checks that no other step has
            clock.wall.clear()
            clock.work.clear()
            before, start = core_seconds(), time.perf_counter()

    shape = SHAPES[size]
    with tempfile.TemporaryDirectory() as temporary:
        save(Path(temporary), size, 0.0, shape.batch * (args.steps + 1))
        run_ppo(Path(temporary), shape, args.steps + 1, after_step, microbatch_size=args.microbatch)
        step = (time.perf_counter() - start) / args.steps
    phases = {name: seconds / args.steps for name, seconds in clock.wall.items()}
    phases[BETWEEN] = step - sum(phases.values())
    work = {f"{phase} {kind}": seconds / args.steps for (phase, kind), seconds in sorted(clock.work.items())}
    overhead = {
        name: seconds - sum(part for phase, part in work.items() if phase.startswith(f"{name} "))
        for name, seconds in phases.items()
    }
    figures = {
        "sampler_drift": drift,
        "step_seconds": step,
        "overhead": sum(overhead.values()) / step,
        "busy": busy(before, core_seconds()),
    }
    return figures | {"phase_seconds": phases, "work_seconds": work, "overhead_seconds": overhead}


def show(size: str, row: dict[str, Any]) -> None:
    print(f"{size}: {row['step_seconds']:.3f} s a step, {row['overhead']:.1%} overhead (at most {MOST:.0%}), ", end="")
    print(f"busy {row['busy']}")
    for name, seconds in row["phase_seconds"].items():
        lost = row["overhead_seconds"][name]
        parts = {k.split()[1]: v for k, v in row["work_seconds"].items() if k.startswith(f"{name} ")}
        listed = ", ".join(f"{kind} {1e3 * part:.0f}" for kind, part in parts.items())
        print(
            f"  {name:8} {1e3 * seconds:8.0f} ms  overhead {1e3 * lost:6.1f} ms, {lost / row['step_seconds']:6.1%}",
            end="",
        )
        print(f"  ({listed})" if listed else "")


def _wrap(owner: Any, name: str, around: Any) -> None:
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def wrapped(*args: Any, **more: Any) -> Any:
        with around():
            return inner(*args, **more)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    main()
