"""People's minutes against a judge's: reward models from people alone, and from a judge with people here and there.

    python -m loopwright run recipes/rlaif.yaml --out RUN
    python benchmarks/people_where_it_matters.py RUN [--shares 0.1 0.2 0.4] [--seeds 0 1 2] [--judge JSON]

From RUN come the SFT model, which answers prompts and, where --judge names no other, judges every pair of its answers,
and the world's simulated people. A reward model learns from three kinds of labels: of people alone on a random share of
the pairs; of the judge with people on a random share; of the judge with people on as large a share, mostly where it is
unsure. Each is measured on pairs of answers to other prompts, whose order the exact judges know.

Minutes saved: what people alone take for the same accuracy, read off their curve (straight between its points, nothing
beyond its ends), less what they took. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from loopwright.data.readers import read_records
from loopwright.generation.answers import Item, mix_in_off_topic, sample_answers
from loopwright.responders.judge import JudgeConfig, compare
from loopwright.responders.judges import open_judge
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Prompt
from loopwright.stages import ai_feedback, ai_feedback_people, reward
from loopwright.stages.ai_feedback_people import PeopleConfig
from loopwright.worlds import WORLDS

JUDGES = WORLDS["front_desk"].judges
CONTROL = 0.05
JUDGE = """ai_feedback.judge in JSON, such as
    {"path": FOLDER, "reference": {"max_new_tokens": 40}, "reasoning": {"max_new_tokens": 40, "temperature": 0}}"""


class Point(NamedTuple):
    way: str
    share: float
    minutes: float
    accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run whose world teaches to judge")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4], help="of the pairs, for people")
    parser.add_argument("--alone", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.7, 1.0], help="for people alone")
    parser.add_argument("--prompts", type=int, default=1_500)
    parser.add_argument("--judge", type=JudgeConfig.model_validate_json, default=JudgeConfig(), help=JUDGE)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [one_seed(args, seed) for seed in args.seeds]
    means = [mean_of(points) for points in zip(*(row["points"] for row in rows), strict=True)]
    alone = [point for point in means if point.way == "people alone"]
    print(f"{'labels':<28}{'share':>7}{'minutes':>9}{'accuracy':>10}{'minutes saved':>15}")
    table = []
    for point in means:
        needed = None if point.way == "people alone" else minutes_for(point.accuracy, alone)
        saved = None if needed is None else needed - point.minutes
        shown = "-" if saved is None else f"{saved:.0f}"
        print(f"{point.way:<28}{point.share:>7.2f}{point.minutes:>9.0f}{point.accuracy:>10.3f}{shown:>15}")
        table.append(point._asdict() | {"minutes_saved": saved})
    judge = [row["judge"] for row in rows]
    print(json.dumps({"benchmark": "people_where_it_matters", "means": table, "judge": judge, "seeds": args.seeds}))


def one_seed(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Every way to label, and the reward model's accuracy after each."""
    sft, world = (next((args.run / "artifacts").glob(f"{stage}-*")) for stage in ("sft", "world"))
    with tempfile.TemporaryDirectory() as temporary:
        runtime = Runtime.temporary(Path(temporary), stage="ai_feedback", seed=seed)
        prompts = read_records(world / "prompts_train.jsonl", Prompt).records[: args.prompts + args.prompts // 3]
        judge = args.judge
        config = ai_feedback.AIFeedbackConfig(prompts=len(prompts), judge=judge)
        inputs = ai_feedback.AIFeedbackInputs({"sft": sft / "model"}, world / "prompts_train.jsonl", JUDGES)
        answers = sample_answers(prompts, config, list(inputs.policies.values()), runtime)
        items = [Item(i, prompt, tuple(answers[i])) for i, prompt in enumerate(prompts)]
        items = mix_in_off_topic(items, config.off_topic_share, random.Random(runtime.seed_for("off topic")))
        pairs, held_out = (
            [pair for item in part for pair in ai_feedback.pairs_of(item, (), runtime)]
            for part in (items[: args.prompts], items[args.prompts :])
        )
        chooser = open_judge(judge, judge.path or sft / "model", runtime.device, runtime.log)
        asked = [ai_feedback.as_asked(pair, judge, runtime) for pair in pairs]
        how = partial(compare, chooser, reasoning=judge.reasoning, reference=judge.reference)
        verdicts = ai_feedback.judge_all(how, asked, config.save_batches, answers, runtime)
        labels = [ai_feedback.label_of(*one, chooser, judge, inputs) for one in zip(pairs, verdicts, strict=True)]
        truth = [one for pair in held_out if (one := exact(pair)) is not None]

        def point(way: str, share: float, control: float, *, with_judge: bool) -> Point:
            people = PeopleConfig(share=share, control_share=control) if share else None
            said = ai_feedback_people.run(people, pairs, verdicts, inputs, runtime)
            kept = [label for i, label in enumerate(labels) if label and with_judge and i not in said.records]
            given = [*kept, *itertools.chain.from_iterable(said.records.values())]
            minutes = said.figures(pairs, labels)["minutes"]
            found = Point(way, share, minutes, accuracy_of(args.run, sft / "model", given, truth, seed))
            print(f"seed {seed}: {found}", flush=True)
            return found

        points = [point("people alone", share, share, with_judge=False) for share in args.alone]
        points.append(point("judge alone", 0.0, 0.0, with_judge=True))
        points += [point("judge, people at random", share, share, with_judge=True) for share in args.shares]
        points += [point("judge, people where unsure", share, CONTROL, with_judge=True) for share in args.shares]
    return {"points": points, "judge": ai_feedback.summarise(pairs, verdicts, labels, inputs)}


def exact(pair: ai_feedback.Pair) -> Comparison | None:
    """The pair as the exact judges order it; None where they see no difference."""
    gap = ai_feedback.gap_of(pair, JUDGES)
    if not gap:
        return None
    about = {"id": pair.id, "prompt": pair.prompt.messages, "responses": pair.responses}
    return Comparison(choice=0 if gap > 0 else 1, **about)


def accuracy_of(run: Path, sft: Path, given: Sequence[Comparison], truth: Sequence[Comparison], seed: int) -> float:
    """Of a reward model with the settings of RUN's recipe, or else the quickstart's."""
    written = yaml.safe_load((run / "config.yaml").read_text()).get("reward") or {}
    settings = {"optimizer": "muon", "muon_learning_rate": 0.01, "learning_rate": 1e-3, "batch_size_per_device": 8}
    settings |= {name: value for name, value in written.items() if name in settings or name == "epochs"}
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime.temporary(Path(folder), stage="reward", seed=seed)
        inputs = reward.RewardInputs(sft, list(given), held_out=list(truth))
        metrics = reward.run(reward.RewardConfig(**settings), inputs, runtime).metrics
    return float(metrics["accuracy"])


def mean_of(points: Sequence[Point]) -> Point:
    minutes, accuracy = (statistics.mean(getattr(one, name) for one in points) for name in ("minutes", "accuracy"))
    return points[0]._replace(minutes=minutes, accuracy=accuracy)


def minutes_for(accuracy: float, curve: Sequence[Point]) -> float | None:
    """Where the curve of people alone first reaches the accuracy; None where it never does."""
    before = None
    for point in sorted(curve, key=lambda one: one.minutes):
        if point.accuracy >= accuracy:
            if before is None or point.accuracy == before.accuracy:
                return point.minutes
            part = (accuracy - before.accuracy) / (point.accuracy - before.accuracy)
            return before.minutes + part * (point.minutes - before.minutes)
        before = point
    return None


if __name__ == "__main__":
    main()
