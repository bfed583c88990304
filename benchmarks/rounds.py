"""Five rounds against one big one: the same labels, the same samples, the same steps of the policy.

    python benchmarks/rounds.py [--seeds 0] [--recipe recipes/rounds.yaml] [--out runs/rounds-benchmark]

Both are runs in one directory a seed, so that world, pre-training and fine-tuning are made once, and a command that was
interrupted goes on where it was. The big round asks about the answers of the fine-tuned model alone: as many prompts as
all rounds together, one reward model, then each method with the work of all rounds. Its reward model is trained once,
those of the rounds on all labels so far each time: that compute it does not need.
Prints the versions of both, and one JSON line last.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

from loopwright.cli.display import on_stderr
from loopwright.config import read_yaml
from loopwright.loop import config_from, run
from loopwright.loop.rounds import RoundsConfig
from loopwright.loop.seeds import seed_folder
from loopwright.schemas.steps import round_of

ROOT = Path(__file__).parents[1]
AMOUNTS = {
    "feedback": ("prompts", "labels"),
    "rejection": ("max_prompts",),
    "ppo": ("steps",),
}  # that add up over rounds
OF_ROUNDS = {
    "feedback": ("versions", "start_answers"),
    "reward": ("earlier_rounds_weight",),
    "ppo": ("reference",),
}  # that one round has no use for
FIGURES = ("gold", "helpful", "harmless", "honest", "kl")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "rounds.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "rounds-benchmark")
    args = parser.parse_args()
    found = {seed: both(read_yaml(args.recipe), seed, args.out) for seed in args.seeds}
    for seed, runs in found.items():
        print(f"seed {seed}")
        for name, one in runs.items():
            print(f"  {name}: {one['labels']} labels, {one['seconds']:.0f} s")
            for version, figures in one["versions"].items():
                known = (f"{key} {figures[key]:6.3f}  " for key in FIGURES if figures[key] is not None)
                print(f"    {version:8s}" + "".join(known))
    print(json.dumps({"benchmark": "rounds", "seeds": found}))
    return 0


def both(values: dict[str, Any], seed: int, out: Path) -> dict[str, Any]:
    """The figures of the rounds, and of one round of their size."""
    rounds = figures_of(copy.deepcopy(values) | {"seed": seed}, seed_folder(out, seed))
    big = one_big_round(copy.deepcopy(values), rounds["made"]) | {"seed": seed}
    return {"rounds": rounds, "one big round": figures_of(big, seed_folder(out, seed))}


def one_big_round(values: dict[str, Any], made: int | None = None) -> dict[str, Any]:
    """The recipe with all labels given in one round, and each method's work of all rounds done on them.

    Args:
        made: rounds, where a rule stopped them before the last: then the big one has the size of these.
    """
    config = config_from(copy.deepcopy(values), "the recipe").rounds
    assert isinstance(config, RoundsConfig)
    rounds = [one.sections for number, one in config.rounds() if made is None or number <= made]
    named = {name for one in rounds for name in one}
    schedule = values["rounds"]["schedule"].values()
    big = {name: dict(section or {}) for one in schedule for name, section in one.items() if name in named}
    for name, amounts in AMOUNTS.items():
        for amount in set(amounts) & big.get(name, {}).keys():
            big[name][amount] = sum(getattr(one[name], amount) for one in rounds if name in one)
    for name in OF_ROUNDS.keys() & big.keys():
        big[name] = {setting: value for setting, value in big[name].items() if setting not in OF_ROUNDS[name]}
    return values | {"rounds": {"schedule": {"v1": big}}}


def figures_of(values: dict[str, Any], out: Path) -> dict[str, Any]:
    """Run it, and take what is compared from its summary."""
    with on_stderr() as shown:
        summary = run(config_from(values, "the recipe"), out, display=shown, render=lambda _: None)
    stages = summary["stages"]
    return {
        "labels": sum(stages[name].get("labels", 0) for name in stages if name.endswith(".feedback")),
        "seconds": summary["seconds"],
        "stopped": summary["stopped"],
        "made": max(map(round_of, stages)),
        "versions": {name: {key: one[key] for key in FIGURES} for name, one in summary["versions"].items()},
        "rounds": stages["evaluate"]["rounds"],
    }


if __name__ == "__main__":
    sys.exit(main())
