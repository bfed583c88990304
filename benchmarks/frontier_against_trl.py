"""How much reward a nat of KL buys, against TRL 1.12's PPO (the last release with PPO), on the embedded front desk.

    python -m loopwright quickstart --out RUN
    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 datasets==5.2.0
    python benchmarks/frontier_against_trl.py RUN --peers PEERS/bin/python [--seeds 0 1 2] [--out runs/frontier]

Both sides start from RUN's SFT model and maximise RUN's reward model, from which their critics start, on the same
prompts, token for token, with the settings below: all of them TRL has. First TRL must give answers of the SFT model
the scores that we give them.

Every few steps a side leaves its policy, and one program judges all of them: answers to prompts that nobody trained on,
with fixed seeds; their mean score by the reward model; their mean KL to the SFT model in nats per response; and the
world's gold score, which no side knows. A side's curve is score over KL: its policies, the SFT model among them (KL 0),
in the order of their KL, without those that score less than one with less KL; straight lines between them, and flat
after the last. Compared is the area under it from KL 1 to the smaller of the two final KLs, divided by that interval:
the mean score there.

A side whose curve lies in OUT is not trained again. Prints a table for people and, last, one JSON line for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from loopwright.data.chat import render_prompts
from loopwright.data.readers import read_records
from loopwright.evaluation.answering import Bench, LanguageModel, answer, measure, reward_scores
from loopwright.generation.base import SamplingConfig
from loopwright.kernels.choice import choose
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.rewards import RewardModel
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages import ppo
from loopwright.worlds import WORLDS

WORKER = Path(__file__).parent / "trl_frontier_worker.py"
FIRST_KL = 1.0  # nats per response: where the area begins
ANSWERS = 2  # to each held-out prompt
SCORE_TOLERANCE = 1e-3

# Of both sides. AdamW without weight decay, one learning rate for policy and critic, linear to 0; no gradient clipping.
SETTINGS: dict[str, Any] = {
    "steps": 60,
    "save_steps": 4,
    "responses": 96,  # a step
    "minibatches": 4,
    "epochs": 2,
    "max_new_tokens": 40,
    "learning_rate": 3e-4,
    "adam_eps": 1e-5,
    "kl_coef": 0.01,
    "missing_eos_penalty": 1.0,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "value_coef": 0.1,
    "gamma": 1.0,
    "lam": 0.95,
}


class Given(NamedTuple):
    """What both sides start from."""

    policy: Path
    reward: Path
    prompts: Path
    held_out: list[Prompt]

    @classmethod
    def of_run(cls, run: Path) -> Given:
        sft, reward, world = (next((run / "artifacts").glob(f"{stage}-*")) for stage in ("sft", "reward", "world"))
        held_out = read_records(world / "prompts_held_out.jsonl", Prompt).records
        return cls(sft / "model", reward / "model", world / "prompts_train.jsonl", held_out)


class Point(NamedTuple):
    """A policy on its way: means over its answers to the held-out prompts."""

    step: int
    kl: float
    score: float
    gold: float
    finished: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished quickstart")
    parser.add_argument("--peers", type=Path, required=True, help="the Python of an environment with TRL 1.12")
    parser.add_argument("--peers-path", default="", help="PYTHONPATH of that environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="other settings, of both sides")
    args = parser.parse_args()
    SETTINGS.update(args.set)
    args.out.mkdir(parents=True, exist_ok=True)
    choose(args.out)
    given = Given.of_run(args.run)
    judge = Judge(given)
    task = task_of(given, judge)

    print(f"{'seed':>4} {'to KL':>6} {'ours':>7} {'TRL':>7} {'difference':>10}   final KL, score, gold: ours | TRL")
    rows: dict[int, dict[str, Any]] = {}
    for seed in args.seeds:
        curves = {
            "ours": curve_of(args.out / f"ours-{seed}", judge, partial(train_ours, given, seed)),
            "trl": curve_of(args.out / f"trl-{seed}", judge, partial(train_trl, task | {"seed": seed}, args)),
        }
        rows[seed] = row = compare(curves)
        numbers = f"{row['to_kl']:6.2f} {row['ours']:7.3f} {row['trl']:7.3f} {row['difference']:+10.3f}"
        finals = " | ".join(f"{p.kl:.2f} {p.score:.3f} {p.gold:.3f}" for p in (curve[-1] for curve in curves.values()))
        print(f"{seed:4d} {numbers}   {finals}", flush=True)
    differences = [row["difference"] for row in rows.values()]
    figures = {"benchmark": "frontier_against_trl", "settings": SETTINGS, "seeds": rows}
    print(json.dumps(figures | {"difference": statistics.mean(differences), "never_below": min(differences) >= 0}))


def curve_of(folder: Path, judge: Judge, train: Callable[[dict[int, Path]], None]) -> list[Point]:
    """The curve that lies in the folder, or that of a new training.

    Args:
        train: leaves a policy in each of these files; the key is the steps before it.
    """
    path = folder / "curve.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] != SETTINGS:
            raise SystemExit(f"{path} was made with other settings; choose another --out")
        return [Point(*point) for point in found["points"]]
    folder.mkdir(exist_ok=True)
    steps = range(SETTINGS["save_steps"], SETTINGS["steps"] + 1, SETTINGS["save_steps"])
    policies = {step: folder / f"{step}.pt" for step in steps}
    train(policies)
    points = judge.curve(policies)
    path.write_text(json.dumps({"settings": SETTINGS, "points": points}), encoding="utf-8")
    return points


def compare(curves: dict[str, list[Point]]) -> dict[str, Any]:
    """The mean score of each side over one interval of KL."""
    end = min(curve[-1].kl for curve in curves.values())
    if end <= FIRST_KL:
        raise SystemExit(f"the smaller final KL is {end:.2f}, not above {FIRST_KL}; train longer or lower kl_coef")
    means = {side: mean_score(curve, end) for side, curve in curves.items()}
    return {"to_kl": end, **means, "difference": means["ours"] - means["trl"], "curves": curves}


def mean_score(curve: Sequence[Point], end: float) -> float:
    """The area under score over KL from `FIRST_KL` to `end`, by trapezoids, divided by the interval."""
    points = frontier(curve)
    kls, scores = [point.kl for point in points], [point.score for point in points]
    knots = [FIRST_KL, *(kl for kl in kls if FIRST_KL < kl < end), end]
    return float(np.trapezoid(np.interp(knots, kls, scores), knots)) / (end - FIRST_KL)


def frontier(curve: Sequence[Point]) -> list[Point]:
    """The policies that no other beats with less KL, in the order of their KL: score rises from each to the next."""
    found: list[Point] = []
    for point in sorted(curve, key=lambda point: point.kl):
        if not found or point.score > found[-1].score:
            found.append(point)
    return found


class Judge:
    """One program for every policy, whoever trained it."""

    def __init__(self, given: Given) -> None:
        tokenizer = load_tokenizer(given.policy)
        self.start, self.policy = (LanguageModel(load_causal_lm(given.policy), tokenizer) for _ in range(2))
        self.reward = RewardModel(given.reward)
        self.bench = Bench(WORLDS["front_desk"].judges, None, self.reward)
        self.prompts = given.held_out * ANSWERS
        self.sampling = SamplingConfig(max_new_tokens=SETTINGS["max_new_tokens"])

    def curve(self, policies: dict[int, Path]) -> list[Point]:
        """The SFT model, and what a side made of it, in the order of the steps."""
        first = self.point(0, self.start.model.state_dict())
        return [first, *(self.point(step, torch.load(path)) for step, path in policies.items())]

    def point(self, step: int, weights: dict[str, torch.Tensor]) -> Point:
        found = self.policy.model.load_state_dict(weights, strict=False)  # a head tied to the embeddings is not left
        if found.unexpected_keys or set(found.missing_keys) - {"lm_head.weight"}:
            raise SystemExit(f"step {step} left other weights than the policy's: {found}")
        answers = answer(self.policy, self.prompts, self.sampling, range(len(self.prompts)))
        rows = measure(self.bench, self.policy, self.start, self.prompts, answers, self.sampling.temperature)
        names = ("kl_exact", "reward", "gold", "finished")
        return Point(step, *(statistics.mean(float(row[name]) for row in rows) for name in names))

    def scored_answers(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Answers of the SFT model and our scores of them, for TRL to compare with its own."""
        answers = answer(self.start, prompts, self.sampling, range(len(prompts)))
        tokens = [(answers.rollouts.prompt_tokens(i), answers.rollouts.response_tokens(i)) for i in range(len(prompts))]
        return {
            "rows": [prompt + response for prompt, response in tokens],
            "prompt_lengths": [len(prompt) for prompt, _ in tokens],
            "scores": reward_scores(self.reward, self.start.tokenizer, prompts, answers),
            "tolerance": SCORE_TOLERANCE,
        }


def train_ours(given: Given, seed: int, policies: dict[int, Path]) -> None:
    """The stage as a recipe runs it."""
    same = ("steps", "save_steps", "max_new_tokens", "learning_rate", "adam_eps", "kl_coef", "missing_eos_penalty")
    same += ("clip_range", "value_clip_range", "value_coef", "gamma", "lam")
    config = ppo.PPOConfig(
        **{name: SETTINGS[name] for name in same},
        rollouts_per_step=SETTINGS["responses"],
        minibatch_size=SETTINGS["responses"] // SETTINGS["minibatches"],
        epochs_per_batch=SETTINGS["epochs"],
        critic_learning_rate=SETTINGS["learning_rate"],
        max_grad_norm=None,
    )
    runtime = Runtime.temporary(policies[SETTINGS["steps"]].parent / "stage", stage="ppo", seed=seed)
    runtime.checkpoint = lambda step, state: torch.save(state["learner"]["policy"], policies[step])
    ppo.run(config, ppo.PPOInputs(given.policy, given.reward, given.prompts), runtime)


def task_of(given: Given, judge: Judge) -> dict[str, Any]:
    """What TRL is given."""
    prompts = read_records(given.prompts, Prompt).records
    return {
        "settings": SETTINGS,
        "policy": str(given.policy.resolve()),
        "reward": str(given.reward.resolve()),
        "prompts": render_prompts(judge.start.tokenizer, [prompt.messages for prompt in prompts]),
        "scored": judge.scored_answers(given.held_out),
    }


def train_trl(task: dict[str, Any], args: argparse.Namespace, policies: dict[int, Path]) -> None:
    path = policies[SETTINGS["steps"]].parent / "task.json"
    left = {step: str(policy.resolve()) for step, policy in policies.items()}
    path.write_text(json.dumps(task | {"policies": left}), encoding="utf-8")
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    found = {"PYTHONPATH": args.peers_path} if args.peers_path else {}
    with (path.parent / "trl.log").open("w", encoding="utf-8") as log:
        command = [str(args.peers), str(WORKER), str(path)]
        done = subprocess.run(command, env=os.environ | quiet | found, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"TRL failed: see {log.name}")


if __name__ == "__main__":
    main()
