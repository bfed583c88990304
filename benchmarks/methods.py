"""Every way to turn feedback into a better policy: from one start, on one set of labels, with one budget of samples.

    python benchmarks/methods.py [--seeds 0 1 2] [--methods dpo ppo] [--judge FOLDER] [--out runs/methods]
        [--svg docs/methods.svg]

The judge of RLAIF is the start itself, whose text then teaches judging, too, or a model in FOLDER: that of
recipes/judge.yaml, say.

Each seed has one run directory, OUT/seed-N, and every method is a run in it: world, pre-training, fine-tuning, labels
and reward model are made by the first and found again by the others, whose keys are equal. A cell that is done is found
whole; one that was interrupted goes on at its checkpoint. So the same command goes on where it was.

Prints a table for people (means over the seeds), draws gold over KL with best of n as the curve to beat, and prints,
last, one JSON line for programs. A method whose stage is not there, or whose run fails, is listed as such.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from loopwright.cli.display import on_stderr
from loopwright.config import read_yaml
from loopwright.errors import LoopwrightError
from loopwright.evaluation.plots import Measure, as_svg, frontier
from loopwright.loop import config_from, run
from loopwright.loop.seeds import seed_folder
from loopwright.loop.table import STAGES
from loopwright.stages.base import POLICIES

ROOT = Path(__file__).parents[1]

LABELED_PROMPTS = 1_500  # each with four answers, ranked or compared in pairs
SAMPLES = 3_840  # responses that a method may sample from its policy, beside those that were labeled
SECONDS = 120  # that a method may take, labels and what all share left out
BEST_OF = 32  # answers of SFT to each prompt: the curve to beat, as far as 2.5 nats
HELD_OUT = 400  # prompts on which everything is measured, the curve too

# What all share, on top of recipes/quickstart.yaml.
START: dict[str, Any] = {
    "world": {"skills": ["critique"], "skill_share": 0.15},  # for constitutional AI; all start alike
    "pretrain": {"max_steps": 400},  # more text to learn
    "feedback": {"prompts": LABELED_PROMPTS},
    "sft_clean": False,
    "ppo": False,
    "evaluate": {
        "held_out_prompts": HELD_OUT,
        "paraphrased_prompts": 0,
        "greedy": False,
        "best_of": 0,
        "perplexity_texts": 50,
    },
}

ITS_OWN_JUDGE: dict[str, Any] = {"skills": ["critique", "judge"], "skill_share": 0.3}

LEARN: dict[str, Any] = {  # cross-entropy on answers
    "optimizer": "muon", "muon_learning_rate": 0.005, "learning_rate": 5e-4, "batch_size_per_device": 16,
    "packing": False,
}  # fmt: skip
CLIMB: dict[str, Any] = {  # policy gradients: 40 steps of 96 responses
    "steps": SAMPLES // 96, "rollouts_per_step": 96, "minibatch_size": 24, "microbatch_size": 12,
    "epochs_per_batch": 1, "max_new_tokens": 40, "learning_rate": 3e-4, "kl_coef": 0.1, "max_kl": 3, "save_steps": 20,
}  # fmt: skip
ADAPTIVE: dict[str, Any] = {"kl_controller": "adaptive", "kl_target": 0.8, "kl_horizon": 500}
PPO: dict[str, Any] = CLIMB | ADAPTIVE | {"critic_learning_rate": 8e-4}
GROUPS: dict[str, Any] = CLIMB | {"samples_per_prompt": 4}
NO_DIVISIONS: dict[str, Any] = {"divide_by_std": False, "loss_aggregation": "response_sum", "kl_penalty": "none"}
SAMPLED: dict[str, Any] = {"max_prompts": SAMPLES // 8, "samples_per_prompt": 8, "max_new_tokens": 40} | LEARN
LOOPS: dict[str, Any] = SAMPLED | {"loops": 3, "max_prompts": SAMPLES // 12, "samples_per_prompt": 4, "epochs": 1.0}
DIRECT: dict[str, Any] = {"learning_rate": 1e-4, "batch_size_per_device": 16, "kinds": ["comparisons", "rankings"]}

JUDGED: dict[str, Any] = {
    "prompts": LABELED_PROMPTS,
    "responses_per_prompt": 4,  # as people rank
    "judge": {"reference": {"max_new_tokens": 40}, "reasoning": {"max_new_tokens": 40, "temperature": 0}},
}

# The methods, each with the sections that its recipe has beside START. "sft" is the start itself.
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"evaluate": {"best_of": BEST_OF, "best_of_prompts": HELD_OUT}},
    "rejection": {"rejection": SAMPLED},
    "rest": {"rest": SAMPLED},
    "expert_iteration": {"rest": SAMPLED | {"grow_steps": 2, "select": "best", "max_prompts": SAMPLES // 16}},
    "hindsight": {"hindsight": LOOPS},
    "conditioned": {"conditioned": LOOPS},
    "dpo": {"dpo": DIRECT},
    "ipo": {"dpo": DIRECT | {"loss": "ipo"}},
    "cdpo": {"dpo": DIRECT | {"label_smoothing": 0.1}},
    "kto": {"kto": DIRECT | {"desirable_weight": 1.33}},
    "rloo": {"rloo": GROUPS},
    # Advantages in units of a small deviation are large ones: half the rate (chosen on seed 1).
    "grpo": {"grpo": GROUPS | {"learning_rate": 1.5e-4}},
    "dr_grpo": {"grpo": {k: v for k, v in GROUPS.items() if k != "kl_coef"} | NO_DIVISIONS},
    "reinforce_plus_plus": {"reinforce_plus_plus": CLIMB},
    "ppo": {"ppo": PPO},
    "ppo_ptx": {"ppo": PPO | {"ptx_coef": 0.5}},
    # No label of people: the model's own critiques and judgements.
    "constitutional": {
        "feedback": False,
        "reward": False,
        "constitutional": {"prompts": SAMPLES // 10, "max_new_tokens": 40} | LEARN,
    },
    "rlaif": {"feedback": False, "ai_feedback": JUDGED, "ppo": PPO},
    "d_rlaif": {"feedback": False, "reward": False, "ppo": PPO | {"rewards": [{"kind": "judge", "judge": {}}]}},
}
LABELS = {
    "sft": "SFT", "rejection": "rejection sampling", "rest": "ReST", "expert_iteration": "expert iteration",
    "hindsight": "HIR", "conditioned": "conditioned", "dpo": "DPO", "ipo": "IPO", "cdpo": "cDPO", "kto": "KTO",
    "rloo": "RLOO", "grpo": "GRPO", "dr_grpo": "Dr. GRPO", "reinforce_plus_plus": "REINFORCE++",
    "ppo": "PPO", "ppo_ptx": "PPO-ptx",
    "constitutional": "constitutional AI", "rlaif": "RLAIF", "d_rlaif": "direct RLAIF",
}  # fmt: skip
FIGURES = ("gold", "gain", "kl", "length", "harmless", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "quickstart.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "methods")
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "methods.svg")
    parser.add_argument("--judge", type=Path)
    args = parser.parse_args()
    names = ["sft", *(name for name in args.methods if name != "sft")]
    cells = {seed: {name: cell(args.recipe, name, seed, args.out, args.judge) for name in names} for seed in args.seeds}
    rows = {name: across([cells[seed][name] for seed in args.seeds]) for name in names}
    curve = best_of_curve([cells[seed]["sft"] for seed in args.seeds])
    print("\n".join([*table(rows), *best_of_rows(curve)]))
    draw(rows, curve, args.svg)
    print(json.dumps({"benchmark": "methods", "rows": rows, "best_of": curve, "cells": cells}))
    return int(any("failed" in row for row in rows.values()))


def recipe_of(recipe: Path, method: str, judge: Path | None = None) -> dict[str, Any]:
    """The sections of a cell's recipe: the quickstart's, START's, and the method's own."""
    values = read_yaml(recipe)
    for changes in (START, METHODS[method]):
        for name, section in copy.deepcopy(changes).items():
            own = values.get(name)
            values[name] = {**own, **section} if isinstance(own, dict) and isinstance(section, dict) else section
    if judge is None:
        values["world"] |= ITS_OWN_JUDGE
    if judge is not None and method == "rlaif":
        values["ai_feedback"]["judge"]["path"] = str(judge)
    if judge is not None and method == "d_rlaif":
        values["ppo"]["rewards"][0]["judge"]["path"] = str(judge)
    return values | {"name": "methods", "tensorboard": False}


def missing_stages(method: str) -> list[str]:
    """The stages of a method that this version of the package does not have."""
    return [name for name, section in METHODS[method].items() if section is not False and name not in STAGES]


def cell(recipe: Path, method: str, seed: int, out: Path, judge: Path | None = None) -> dict[str, Any]:
    """One method on one seed: its figures, or {"missing": stages}, or {"failed": why}."""
    if missing := missing_stages(method):
        return {"missing": missing}
    values = recipe_of(recipe, method, judge) | {"seed": seed}
    try:
        with on_stderr() as shown:
            shown.log(f"{method}, seed {seed}")
            summary = run(config_from(values, method), seed_folder(out, seed), display=shown, render=lambda _: None)
    except LoopwrightError as error:
        return {"failed": str(error)}
    return figures(summary)


def figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared, of a run's summary."""
    name, version = list(summary["versions"].items())[-1]
    gain = summary["stages"]["evaluate"]["gain_vs_sft"][name]
    own = [stage for stage in summary["stages"] if stage in POLICIES and stage not in ("pretrain", "sft")]
    return {
        "gold": version["gold"],
        "gold_interval": summary["stages"]["evaluate"]["gold_interval"][name],
        "gain": gain["mean"] if gain else 0.0,
        "gain_is_sure": bool(gain and gain["low"] > 0),
        "kl": version["kl"] if name != "sft" else 0.0,
        "length": version["length_tokens"],
        "harmless": version["adversarial"]["harmless"],
        "seconds": sum(summary["stages"][stage]["seconds"] for stage in own),
        "best_of": summary["stages"]["evaluate"]["best_of"],
    }


def across(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation and ends of each figure over the seeds; or why there is none."""
    if broken := next((one for one in found if "missing" in one or "failed" in one), None):
        return broken
    row: dict[str, Any] = {}
    for name in FIGURES:
        values = [one[name] for one in found]
        if None not in values:
            spread = stdev(values) if len(values) > 1 else None
            row[name] = {"mean": mean(values), "std": spread, "low": min(values), "high": max(values)}
    if len(found) == 1:
        row["gold"] |= {end: found[0]["gold_interval"][end] for end in ("low", "high")}
    return row | {"seeds_with_a_sure_gain": sum(one["gain_is_sure"] for one in found), "seeds": len(found)}


def table(rows: Mapping[str, dict[str, Any]]) -> list[str]:
    """One line a method."""
    lines = [
        f"{'method':22s}{'gold':>14s}{'gain':>8s}{'sure':>6s}{'KL':>8s}{'length':>8s}{'harmless':>10s}{'seconds':>9s}"
    ]
    for name, row in rows.items():
        if "missing" in row or "failed" in row:
            why = f"missing: {', '.join(row['missing'])}" if "missing" in row else f"failed: {row['failed']}"
            lines.append(f"{LABELS[name]:22s}  {why}")
            continue
        gold = f"{row['gold']['mean']:.3f}" + (f" ± {row['gold']['std']:.3f}" if row["gold"]["std"] is not None else "")
        cells = [f"{row[key]['mean']:{width}}" if key in row else " –" for key, width in COLUMNS.items()]
        sure = f"{row['seeds_with_a_sure_gain']}/{row['seeds']}"
        slow = f"  over {SECONDS} s" if row["seconds"]["high"] > SECONDS else ""
        lines.append(f"{LABELS[name]:22s}{gold:>14s}{cells[0]}{sure:>6s}{''.join(cells[1:])}{slow}")
    return lines


COLUMNS = {"gain": "8.3f", "kl": "8.2f", "length": "8.1f", "harmless": "10.3f", "seconds": "9.0f"}


def best_of_rows(curve: Sequence[Mapping[str, float]]) -> list[str]:
    """Best of n as a method: one line each n, under the columns of `table`. Its KL is an upper bound."""
    lines = []
    for point in curve[1:]:
        name, bound = f"best of {point['n']}", f"≤ {point['kl']:.2f}"
        lines.append(f"{name:22s}{point['gold']:>14.3f}{point['gold'] - curve[0]['gold']:8.3f}{'':6s}{bound:>8s}")
    return lines


def best_of_curve(starts: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Best of n from SFT, by the reward model: KL at most and expected gold, means over the seeds."""
    curves = [one["best_of"]["frontier"] for one in starts if one.get("best_of")]
    if not curves or len(curves) < len(starts):
        return []
    return [
        {"n": points[0]["n"], "kl": points[0]["kl"], "gold": mean(point["gold"] for point in points)}
        for points in zip(*curves, strict=True)
    ]


def draw(rows: Mapping[str, dict[str, Any]], curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Gold over KL: a point a method, from its lowest to its highest seed, and best of n."""
    measures = [
        Measure(
            LABELS[name], row["kl"]["mean"], row["gold"]["mean"], row["gold"]["low"], row["gold"]["high"], "series-0"
        )
        for name, row in rows.items()
        if "gold" in row and "kl" in row
    ]
    title = "Gold over KL to SFT"
    plot = frontier(measures, [(point["kl"], point["gold"]) for point in curve], title=title)
    if plot is not None:
        path.write_text(as_svg(plot), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
