"""A PPO update against TRL 1.12's (the last release with PPO): one of ours, one of theirs, in turns, on one machine.

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 datasets==5.2.0
    python benchmarks/ppo_against_trl.py --peers PEERS/bin/python [--size tiny] [--ending]

Both load the same folders (policy, reward model; the critic starts from it), take the same prompts and the same number
of optimizer steps in float32. Responses have their full length; with --ending each ends with probability 1 / (0.4 R)
per token. Ours is the stage as a recipe runs it, its checks, figures and records included.

Prints a table for people and, last, one JSON line for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WARM_UP = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the Python of an environment with TRL 1.12")
    parser.add_argument("--peers-path", default="", help="PYTHONPATH of that environment")
    parser.add_argument("--size", choices=("tiny", "small", "medium"), default="tiny")
    parser.add_argument("--ending", action="store_true", help="responses of realistic, different lengths")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--microbatch", type=int, help="ppo.microbatch_size")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        ours(args)
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    from shapes import SHAPES, save  # noqa: PLC0415 -- the worker measures its own start

    shape = SHAPES[args.size]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        updates = WARM_UP + args.rounds
        save(folder, args.size, 1 / (0.4 * shape.response) if args.ending else 0.0, shape.batch * updates)
        work = {"updates": updates, "batch": shape.batch, "response": shape.response, "epochs": shape.epochs}
        work |= {"minibatches": shape.minibatches, "threads": args.threads, "stops": int(args.ending)}
        options = [text for name, value in work.items() for text in (f"--{name}", str(value))]
        commands = {
            "ours": [sys.executable, __file__, *sys.argv[1:], "--worker", str(folder)],
            "trl": [str(args.peers), str(HERE / "trl_ppo_worker.py"), str(folder), *options],
        }
        if args.peers is None:
            del commands["trl"]
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        first = {}
        with _started(commands, args.peers_path) as workers:
            for name, begin in workers.items():
                started = time.perf_counter()
                process = begin()
                rows[name].append(_next_row(process))
                first[name] = time.perf_counter() - started
            for _ in range(args.rounds):
                for name, begin in workers.items():
                    time.sleep(0.3)  # the other's threads stop spinning
                    process = begin()
                    before = _times(process.pid)
                    process.stdin.write("\n")
                    process.stdin.flush()
                    row = _next_row(process)
                    rows[name].append(row | {"busy": _busy(before, _times(process.pid))})
    report(args, rows, first)


def report(args: argparse.Namespace, rows: dict[str, list[dict[str, float]]], first: dict[str, float]) -> None:
    figures: dict[str, Any] = {"benchmark": "ppo_against_trl", "size": args.size, "ending": args.ending}
    for name, found in rows.items():
        seconds = [row["seconds"] for row in found[WARM_UP:]]
        figures |= {
            f"{name}_update_seconds": statistics.median(seconds),
            f"{name}_spread": [round(min(seconds), 3), round(max(seconds), 3)],
            f"{name}_first_update_seconds": first[name],
            f"{name}_response_tokens": statistics.mean(row["tokens"] for row in found[WARM_UP:]),
            f"{name}_busy": statistics.median(row["busy"] for row in found[WARM_UP:]),
        }
    if "trl" in rows:
        figures["ratio"] = figures["trl_update_seconds"] / figures["ours_update_seconds"]
        figures["first_update_ratio"] = figures["ours_first_update_seconds"] / figures["trl_first_update_seconds"]
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
    print(json.dumps(figures))


def ours(args: argparse.Namespace) -> None:
    """The stage on those folders, an update each time a line comes in."""
    import torch  # noqa: PLC0415 -- and what follows: the other side of the benchmark has no need of it
    from shapes import SHAPES  # noqa: PLC0415

    from loopwright.kernels.choice import choose  # noqa: PLC0415
    from loopwright.runtime.runtime import Runtime  # noqa: PLC0415
    from loopwright.schemas import Prompt  # noqa: PLC0415
    from loopwright.stages import ppo  # noqa: PLC0415

    torch.set_num_threads(args.threads)
    shape, updates = SHAPES[args.size], WARM_UP + args.rounds
    config = ppo.PPOConfig(
        steps=updates,
        rollouts_per_step=shape.batch,
        minibatch_size=shape.batch // shape.minibatches,
        microbatch_size=args.microbatch,
        epochs_per_batch=shape.epochs,
        max_new_tokens=shape.response,
        learning_rate=3e-6,
        critic_learning_rate=3e-6,
        save_steps=1_000,
    )
    ids = torch.load(args.worker / "prompts.pt").tolist()
    prompts = [Prompt.user(str(i), " ".join(f"w{token}" for token in row)) for i, row in enumerate(ids)]
    inputs = ppo.PPOInputs(args.worker / "policy", args.worker / "reward", prompts)
    runtime = Runtime.temporary(args.worker / "run", stage="ppo")
    lengths: list[float] = []
    record = runtime.record
    runtime.record = lambda step, figures: (lengths.append(figures["length_tokens"]), record(step, figures))[1]
    runtime.progress = lambda *_: _turns(lengths)
    choose(args.worker)
    ppo.run(config, inputs, runtime)


@contextmanager
def _turns(lengths: list[float]) -> Iterator[Any]:
    class Turns:
        def advance(self, *_args: Any, **_figures: Any) -> None:
            print(json.dumps({"seconds": time.perf_counter() - self.start, "tokens": lengths[-1]}), flush=True)
            sys.stdin.readline()
            self.start = time.perf_counter()

    turns = Turns()
    turns.start = time.perf_counter()
    yield turns


@contextmanager
def _started(commands: dict[str, list[str]], peers_path: str) -> Iterator[dict[str, Any]]:
    """Each command as a function that starts it the first time and gives the process back."""
    running: dict[str, subprocess.Popen[str]] = {}

    def begin(name: str) -> subprocess.Popen[str]:
        if name not in running:
            path = {"PYTHONPATH": peers_path} if name == "trl" and peers_path else {}
            environment = os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"} | path
            running[name] = subprocess.Popen(
                commands[name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if os.environ.get("SHOW") else subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        return running[name]

    try:
        yield {name: (lambda name=name: begin(name)) for name in commands}
    finally:
        for process in running.values():
            process.stdin.close()
            process.terminate()
            process.wait()


def _next_row(process: subprocess.Popen[str]) -> dict[str, float]:
    """The next update's figures; trainers print other lines, too."""
    for line in process.stdout:
        if line.startswith('{"seconds"'):
            return json.loads(line)
    raise SystemExit(f"a worker ended early ({' '.join(process.args)}); run it with SHOW=1 to see why")


def _times(process: int) -> tuple[float, float, float]:
    """(wall seconds, core seconds of everything, core seconds of the process)."""
    tick = os.sysconf("SC_CLK_TCK")
    columns = [int(x) for x in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]]
    own = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    used = sum(columns[:8]) - columns[3] - columns[4]
    return time.perf_counter(), used / tick, (int(own[11]) + int(own[12])) / tick


def _busy(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Cores that other processes used in between."""
    wall, everything, own = (b - a for a, b in zip(before, after, strict=True))
    return round(max(0.0, (everything - own) / wall), 2)


if __name__ == "__main__":
    main()
