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
import sys
import tempfile
from pathlib import Path
from typing import Any

from turns import Turn, Turns, take_turns, with_path

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
        commands = {"ours": [sys.executable, __file__, *sys.argv[1:], "--worker", str(folder)]}
        if args.peers is not None:
            theirs = [str(args.peers), str(HERE / "trl_ppo_worker.py"), str(folder), *options]
            commands["trl"] = with_path(theirs, args.peers_path)
        turns = take_turns(commands, args.rounds)
    report(args, turns)


def report(args: argparse.Namespace, turns: Turns) -> None:
    figures: dict[str, Any] = {"benchmark": "ppo_against_trl", "size": args.size, "ending": args.ending}
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
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
    print(json.dumps(figures))


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
        microbatch_size=args.microbatch,
    )


if __name__ == "__main__":
    main()
