"""A PPO update against TRL 1.12's (the last release with PPO): one of ours, one of theirs, in turns, on one machine.

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 datasets==5.2.0
    python benchmarks/ppo_against_trl.py --peers PEERS/bin/python [--size tiny] [--ending]

Both load the same folders (policy, reward model; the critic starts from it), take the same prompts and the same number
of optimizer steps in float32. Responses have their full length; with --ending each ends with probability 1 / (0.4 R)
per token. Ours is the stage as a recipe runs it, its checks, figures and records included.

First the gate: of the same tokens, both sides' policy, critic and reward model give the same log-probabilities, values
and scores; then both have sampled full responses, or with --ending shorter ones. Where the realised mean lengths differ
by more than 5 %, the ratio compares different work: the script says so and ends with an error, after its figures.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Row, Turn, Turns, take_turns, with_path

HERE = Path(__file__).parent
WARM_UP = 1
MOST_APART = 0.05  # of the mean lengths of both sides' responses


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
    import gates  # noqa: PLC0415 -- the worker measures its own start
    import torch  # noqa: PLC0415
    from shapes import SHAPES, save  # noqa: PLC0415

    from loopwright.kernels.choice import choose  # noqa: PLC0415

    shape = SHAPES[args.size]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        updates = WARM_UP + args.rounds
        save(folder, args.size, 1 / (0.4 * shape.response) if args.ending else 0.0, shape.batch * updates)
        work = {"updates": updates, "batch": shape.batch, "response": shape.response, "epochs": shape.epochs}
        work |= {"minibatches": shape.minibatches, "threads": args.threads, "stops": int(args.ending)}
        options = [text for name, value in work.items() for text in (f"--{name}", str(value))]
        commands = {"ours": [sys.executable, __file__, *sys.argv[1:], "--worker", str(folder)]}
        gaps: dict[str, float] = {}
        if args.peers is not None:
            theirs = [str(args.peers), str(HERE / "trl_ppo_worker.py"), str(folder), *options]
            commands["trl"] = with_path(theirs, args.peers_path)
            torch.set_num_threads(args.threads)
            choose()
            gates.save_rows(folder)
            gaps = gates.check_same(gates.read(folder), read_by_trl([*commands["trl"], "--read", str(gates.PROMPT)]))
        turns = take_turns(commands, args.rounds, check=lengths_are(shape.response, args.ending))
    report(args, turns, gaps)


def read_by_trl(command: list[str]) -> dict[str, list[float]]:
    """The same figures as `gates.read`, of the same rows, by TRL's own functions."""
    quiet = os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"TRL could not read the rows of the gate: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def lengths_are(response: int, ending: bool) -> Callable[[dict[str, Row]], None]:
    """The gate on what the first, untimed update of each side sampled."""

    def check(first: dict[str, Row]) -> None:
        for name, row in first.items():
            if (row["tokens"] < response) != ending:
                wanted = f"fewer than {response}" if ending else str(response)
                raise SystemExit(f"{name}: its responses have {row['tokens']:g} tokens on average, not {wanted}")

    return check


def report(args: argparse.Namespace, turns: Turns, gaps: dict[str, float]) -> None:
    figures: dict[str, Any] = {"benchmark": "ppo_against_trl", "size": args.size, "ending": args.ending, "gate": gaps}
    for name, found in turns.rows.items():
        seconds = [row["seconds"] for row in found]
        figures |= {
            f"{name}_update_seconds": statistics.median(seconds),
            f"{name}_spread": [round(min(seconds), 3), round(max(seconds), 3)],
            f"{name}_first_update_seconds": turns.first_seconds[name],
            f"{name}_response_tokens": statistics.mean(row["tokens"] for row in found),
            f"{name}_busy": statistics.median(row["busy"] for row in found),
        }
    if "trl" in turns.rows:
        figures["ratio"] = figures["trl_update_seconds"] / figures["ours_update_seconds"]
        figures["first_update_ratio"] = figures["ours_first_update_seconds"] / figures["trl_first_update_seconds"]
        figures["length_ratio"] = figures["ours_response_tokens"] / figures["trl_response_tokens"]
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
    print(json.dumps(figures), flush=True)
    if abs(figures.get("length_ratio", 1.0) - 1) > MOST_APART:
        raise SystemExit(
            f"the mean lengths of both sides' responses differ by more than {MOST_APART:.0%} (ours / TRL's: "
            f"{figures['length_ratio']:.3f}), so the ratio compares different work; take more --rounds"
        )


def ours(args: argparse.Namespace) -> None:
    """The stage on those folders, an update each time a line comes in."""
    import torch  # noqa: PLC0415 -- and what follows: the other side of the benchmark has no need of it
    from ppo_steps import run_ppo  # noqa: PLC0415
    from shapes import SHAPES  # noqa: PLC0415

    torch.set_num_threads(args.threads)
    turn = Turn()
    run_ppo(
        args.worker,
        SHAPES[args.size],
        WARM_UP + args.rounds,
        lambda figures: turn.done(tokens=figures["length_tokens"]),
        ending=args.ending,
        microbatch_size=args.microbatch,
    )


if __name__ == "__main__":
    main()
