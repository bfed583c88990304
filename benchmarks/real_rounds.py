"""Rounds on real comparisons, from a base that is pre-trained first: recipes/base.yaml, then hh.yaml and judged.yaml.

    python benchmarks/real_rounds.py --data FOLDER [--size large] [--encoder FOLDER] [--out runs/real]

`small` takes the recipes as they are, for a CPU; `large` a base of 60 million parameters with a context of 1,024 tokens
and more of everything, for a GPU. Interrupted, the same command goes on. `--encoder` names the folder of an
encoder, such as MiniLM, to make evaluation's judge of. Prints what the judge says of each version, how often each
reward model orders held-out comparisons as the file does, and one JSON line last. The reports stay in --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from loopwright.cli.display import on_stderr
from loopwright.evaluation.metrics import wilson_interval
from loopwright.loop import load_config, run
from loopwright.tracking.artifacts import current_artifacts

RECIPES = Path(__file__).parents[1] / "recipes"
ROUNDS = ("v1", "v2-v3")
SHAPE = "{hidden_size: 640, layers: 10, heads: 10, kv_heads: 10, intermediate_size: 1728, max_positions: 1024}"
LARGE_BASE = (
    "pretrain.vocab_size=16384",
    f"pretrain.shape={SHAPE}",
    "pretrain.epochs=5",
    "pretrain.max_length=1024",
    "pretrain.batch_size_per_device=16",
)
OF_AN_ENCODER = (
    "epochs: 3, max_length: 512, cut: prompt, batch_size_per_device: 8, learning_rate: 1.0e-4, warmup_steps: 10"
)
LONG = tuple(f"{section}.max_length=1024" for section in ("sft", "annotator", "judge"))
LARGE = {
    "hh": (
        *(f"rounds.schedule.{one}.reward.max_length=1024" for one in ROUNDS),
        *(f"rounds.schedule.{one}.ppo.{key}" for one in ROUNDS for key in ("steps=40", "rollouts_per_step=128")),
        "rounds.schedule.v2-v3.feedback.prompts=300",
    ),
    "judged": (
        *(f"rounds.schedule.{one}.reward.max_length=1024" for one in ROUNDS),
        *(f"rounds.schedule.{one}.rejection.max_new_tokens=256" for one in ROUNDS),
        *(f"rounds.schedule.{one}.rejection.max_length=1024" for one in ROUNDS),
        *(f"rounds.schedule.{one}.rejection.max_prompts=300" for one in ROUNDS),
        "rounds.schedule.v2-v3.feedback.sampling.max_new_tokens=256",
        *(f"rounds.schedule.{one}.evaluate.sampling.max_new_tokens=256" for one in ROUNDS),
        "evaluate.sampling.max_new_tokens=256",
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--base", type=Path, help="a folder to begin from, in the place of pre-training one")
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--recipes", nargs="+", choices=tuple(LARGE), default=list(LARGE))
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    args = parser.parse_args()
    large, found = args.size == "large", {}
    base = args.base or pretrained(args.data, large, args.out / "base")
    for name in args.recipes:
        settings = [f"data_dir={args.data}", f"sft.model={base}", *((*LONG, *LARGE[name]) if large else ())]
        if args.encoder is not None:
            settings.append(f"judge={{model: {args.encoder}, {OF_AN_ENCODER}}}")
        found[name] = figures_of(made(name, settings, args.out / name))
        print("\n".join(table(name, found[name])))
    print(json.dumps({"benchmark": "real_rounds", "size": args.size, "recipes": found}))
    return 0


def pretrained(data: Path, large: bool, out: Path) -> Path:
    """The folder of a new base."""
    made("base", [f"data_dir={data}", *(LARGE_BASE if large else ())], out)
    return current_artifacts(out)["pretrain"].file("model").absolute()


def made(recipe: str, settings: list[str], out: Path) -> dict[str, Any]:
    """The summary of a recipe's run."""
    with on_stderr() as shown:
        return run(load_config(RECIPES / f"{recipe}.yaml", settings), out, display=shown)


def figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    """What is compared: versions by the judge, reward models on held-out comparisons."""
    stages = summary["stages"]
    looked = stages["evaluate"]
    versions = {
        name: {"preferred": looked["gold_interval"][name], "gain_vs_sft": looked["gain_vs_sft"][name]}
        | {key: one[key] for key in ("win_rate_vs_sft", "reward", "kl", "length_tokens")}
        for name, one in summary["versions"].items()
    }
    models = {
        name: right_on(one["accuracy"], one["pairs_held_out"]) | {"pairs": one["pairs"]}
        for name, one in stages.items()
        if name in ("annotator", "judge") or name.endswith(".reward")
    }
    return {"versions": versions, "reward_models": models, "seconds": summary["seconds"]}


def right_on(share: float, pairs: int) -> dict[str, float]:
    return {**wilson_interval(share, pairs).as_dict(), "pairs_held_out": pairs}


def table(name: str, found: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {found['seconds']:.0f} s"]
    for version, one in found["versions"].items():
        gold, gain = one["preferred"], one["gain_vs_sft"]
        beside = f", {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] beside sft" if gain else ""
        kl = "" if one["kl"] is None else f", KL {one['kl']:.2f} nats"
        preferred = f"preferred {gold['mean']:.3f} [{gold['low']:.3f}, {gold['high']:.3f}]"
        lines.append(
            f"  {version:5s} {preferred}{beside}, reward {one['reward']:+.2f}{kl}, {one['length_tokens']:.0f} tokens"
        )
    for model, one in found["reward_models"].items():
        right = f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        lines.append(f"  {model:10s} right on {right} of {one['pairs_held_out']} held-out pairs, after {one['pairs']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
