"""Reward models against TRL 1.16's RewardTrainer: as good on real judgements, and how many pairs a second.

    python benchmarks/reward_against_trl.py --peers PEERS/bin/python accuracy --model MINILM [--data hh qa judged]
    python benchmarks/reward_against_trl.py --peers PEERS/bin/python speed [--size medium]

accuracy: both sides start from the same weights (a pre-trained encoder, MiniLM, under a head from the seed), see the
same token rows and pairs in as many steps of about 8 pairs at the same learning rate (judged pairs carry
probabilities, which TRL has no place for), and say what people will say of held-out pairs of other prompts: 0.3 of
`--prompts`, and `--further` ones, since some hundred pairs tell no two trainers apart. Ours learns beside its scores
what length does to labels (`covariates: [length]`) and goes by both; the table has its scores alone, too, and how
often the longer answer is the better one. The interval of the difference is of a paired bootstrap over prompts, all
seeds together. Real data from $LOOPWRIGHT_DATA.

speed: pairs a second of a random Llama on prompts of 16 to 64 tokens with some answers of 8 to 96 tokens (any length is
as likely), all pairs of them compared, 16 answers a step. Ours reads each prompt and answer once; TRL reads both rows
of each pair, padded to the longest of the batch. In turns, on one machine.

Prints a table for people and, last, one JSON line for programs. Bars: not worse (95 %) on any data set and better on
one; 1.8 times the pairs a second.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from turns import Turn, Turns, take_turns, with_path

HERE = Path(__file__).parent
DATA = {"hh": "hh_harmless.jsonl.gz", "qa": "qa_feedback.jsonl.gz", "judged": "judged_comparisons.jsonl.gz"}
HELD_OUT = 0.3  # of the prompts
PAIRS_A_STEP = 8  # of the accuracy test, about; ours takes whole prompts
ANSWERS_A_STEP, TURN = 16, 2  # of the speed test; steps a turn
Rows = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "speed"))
    parser.add_argument("--peers", type=Path, help="the Python of an environment with TRL 1.16")
    parser.add_argument("--peers-path", default="", help="PYTHONPATH of that environment")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", type=Path, help="accuracy: an encoder's folder")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=600, help="accuracy: at most so many prompts of each data set")
    parser.add_argument("--further", type=int, default=0, help="accuracy: at most so many more to hold out")
    parser.add_argument("--length", type=int, default=192, help="accuracy: tokens of a row; longer ones are left out")
    parser.add_argument("--rate", type=float, default=1e-4, help="accuracy: the learning rate; TRL's default")
    parser.add_argument("--size", choices=("tiny", "small", "medium"), default="medium", help="speed")
    parser.add_argument("--answers", type=int, default=4, help="speed: to each prompt")
    parser.add_argument("--rounds", type=int, default=5, help="speed")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        our_turns(args)
    elif args.what == "speed":
        speed(args)
    else:
        accuracy(args)


# How good


def accuracy(args: argparse.Namespace) -> None:
    import torch  # noqa: PLC0415 -- the worker measures its own start

    torch.set_num_threads(args.threads)
    found = {}
    for name in args.data:
        results = [one_training(args, name, seed) for seed in args.seeds]
        hits = [hit for result in results for hit in result]
        found[name] = accuracies(hits) | {
            "by_seed": [accuracies(result) for result in results],
            "pairs_held_out": len(hits),
        }
        for side in ("ours", "scores"):
            low, high = found[name][f"{side}_above_trl"] = bootstrap(
                [(hit.key, hit.right[side], hit.right["trl"]) for hit in hits]
            )
            difference = found[name][side] - found[name]["trl"]
            print(f"{name}: {side} {difference:+.3f} above TRL ({low:+.3f} to {high:+.3f})")
    print(json.dumps({"benchmark": "reward_against_trl", "what": "accuracy", "data": found}))


class Hit(NamedTuple):
    """A held-out pair, and who calls it right: ours, ours by its scores alone, TRL, whoever counts words."""

    key: str  # of its prompt
    right: dict[str, float]  # a draw: 0.5


def accuracies(hits: Sequence[Hit]) -> dict[str, Any]:
    return {side: statistics.mean(hit.right[side] for hit in hits) for side in hits[0].right}


def one_training(args: argparse.Namespace, name: str, seed: int) -> list[Hit]:
    """What both sides say of each held-out pair."""
    from loopwright.models.encoders import encoder_reward_model, load_encoder_tokenizer  # noqa: PLC0415
    from loopwright.models.loading import save_model  # noqa: PLC0415
    from loopwright.rewards.reward_model import score_rows  # noqa: PLC0415
    from loopwright.runtime.runtime import Runtime  # noqa: PLC0415
    from loopwright.stages import reward  # noqa: PLC0415

    judged = list(judgements(name))
    prompts = sorted({one.prompt[0].content for one in judged})
    random.Random(seed).shuffle(prompts)
    prompts, further = prompts[: args.prompts], prompts[args.prompts : args.prompts + args.further]
    aside = {*prompts[: int(HELD_OUT * len(prompts))], *further}
    train = [one for one in judged if one.prompt[0].content in set(prompts) - aside]
    held_out = [one for one in judged if one.prompt[0].content in aside]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer = load_encoder_tokenizer(args.model)
        save_model(encoder_reward_model(args.model, seed), tokenizer, folder / "start")
        runtime = Runtime.temporary(folder / "ours", stage="reward", seed=seed)
        config = reward.RewardConfig(
            learning_rate=args.rate, epochs=1, max_length=args.length,
            save_steps=10_000, held_out_share=0.0, normalise_on="responses", adam_betas=(0.9, 0.999),
            judgements={"weigh_by": "pair"}, covariates=("length",),
        )  # fmt: skip
        inputs = reward.RewardInputs(folder / "start", train)
        start, tokenizer = reward.load_start(inputs.model, runtime)
        data = reward.load_data(config, replace(inputs, held_out=held_out), start, tokenizer, runtime)
        pairs = [rows for one in data.train for *rows, _ in pairs_of(one)]
        prompts_a_step = max(1, round(PAIRS_A_STEP * len(data.train) / len(pairs)))
        config = config.model_copy(update={"batch_size_per_device": prompts_a_step})
        metrics = reward.run(config, inputs, runtime).metrics
        tests = [(one.key, *rows) for one in data.held_out for rows in pairs_of(one)]
        rows = [row for _, better, worse, _ in tests for row in (better, worse)]
        trained, _ = reward.load_start(runtime.output / "model", runtime)
        ours = score_rows(trained, rows, tokenizer.pad_token_id).tolist()

        random.Random(seed).shuffle(pairs)
        (folder / "pairs.json").write_text(json.dumps(pairs))
        (folder / "held_out.json").write_text(json.dumps(rows))
        command = worker(
            args, folder, max(1, round(len(pairs) / metrics["steps"])), metrics["steps"], args.length, seed
        )
        subprocess.run(with_path(command, args.peers_path), check=True, stdout=subprocess.DEVNULL)
        theirs = json.loads((folder / "trl_scores.json").read_text())

    def margins(scores: Sequence[float]) -> list[float]:
        return [better - worse for better, worse in zip(scores[::2], scores[1::2], strict=True)]

    words, alone = [float(test[-1]) for test in tests], margins(ours)
    scale, nats = metrics["normalisation"]["scale"], metrics["length_nats"] / metrics["length_words"]
    said = {
        "ours": [scale * margin + nats * more for margin, more in zip(alone, words, strict=True)],
        "scores": alone,
        "trl": margins(theirs),
        "longer": words,
    }
    right = [
        Hit(test[0], {side: 0.5 if not values[i] else float(values[i] > 0) for side, values in said.items()})
        for i, test in enumerate(tests)
    ]
    print(f"  {name} seed {seed}: {len(pairs)} pairs, {metrics['steps']} steps, held out {len(right)} pairs,", end=" ")
    print(*(f"{side} {value:.3f}" for side, value in accuracies(right).items()), flush=True)
    return right


def judgements(name: str) -> Iterator[Any]:
    """The comparisons of a data set; ties left out."""
    from loopwright.schemas import Comparison, Message  # noqa: PLC0415

    folder = Path(os.environ["LOOPWRIGHT_DATA"])
    with gzip.open(folder / DATA[name], "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]

    def compare(number: int, prompt: str, a: str, b: str, choice: int, chance: float | None = None) -> Comparison:
        asked = (Message(role="user", content=prompt),)
        return Comparison(id=str(number), prompt=asked, responses=(a, b), choice=choice, probability=chance)

    if name == "hh":
        for number, row in enumerate(rows):
            sides = [row[side].rpartition("\n\nAssistant:") for side in ("chosen", "rejected")]
            if sides[0][0] == sides[1][0] and sides[0][2] != sides[1][2]:
                yield compare(number, sides[0][0].strip(), sides[0][2].strip(), sides[1][2].strip(), 0)
    elif name == "qa":
        places = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        for number, row in enumerate(rows):
            for (a, b), vote in zip(places, row["preference"], strict=True):
                if vote and row["responses"][a] != row["responses"][b]:
                    yield compare(number, row["question"], row["responses"][a], row["responses"][b], vote - 1)
    else:
        with gzip.open(folder / "judged_reference.jsonl.gz", "rt", encoding="utf-8") as file:
            reference = {row["instruction"]: row["output"] for row in map(json.loads, file)}
        for number, row in enumerate(rows):
            first = reference.get(row["instruction"])
            if first and first != row["output_2"] and row["preference"] != 1.5:
                chance = min(1.0, max(0.0, 2 - row["preference"]))  # that the first is better
                yield compare(number, row["instruction"], first, row["output_2"], int(chance < 0.5), chance)


def pairs_of(group: Any) -> Iterator[tuple[list[int], list[int], int]]:
    """(better, worse) token rows, and how many words more the better one has."""
    for pair in group.pairs:
        better, worse = (pair.first, pair.second) if pair.choice == 0 else (pair.second, pair.first)
        words = len(group.responses[better].split()) - len(group.responses[worse].split())
        yield group.rows[better], group.rows[worse], words


def bootstrap(hits: Sequence[tuple[str, float, float]], draws: int = 2_000) -> tuple[float, float]:
    """95 % of the difference in accuracy, when prompts are drawn anew."""
    by_prompt: dict[str, list[float]] = {}
    for key, ours, theirs in hits:
        by_prompt.setdefault(key, []).append(ours - theirs)
    sums = [(sum(values), len(values)) for values in by_prompt.values()]
    rng = random.Random(0)
    differences = []
    for _ in range(draws):
        drawn = rng.choices(sums, k=len(sums))
        differences.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    differences.sort()
    return differences[int(0.025 * draws)], differences[int(0.975 * draws)]


# How fast


def speed(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        steps = prepare(folder, args)
        commands = {"ours": [sys.executable, __file__, *sys.argv[1:], "--worker", str(folder)]}
        if args.peers:
            command = [*worker(args, folder, pairs_a_step(args), steps, 512, 0), f"--turn={TURN}"]
            commands["trl"] = with_path(command, args.peers_path)
        report(args, take_turns(commands, args.rounds))


def prepare(folder: Path, args: argparse.Namespace) -> int:
    """A random reward model, prompts with ranked answers, and the pairs of them; gives the number of steps."""
    from shapes import FIRST_WORD, SHAPES, save  # noqa: PLC0415

    from loopwright.data.tokenizer import bos_prefix  # noqa: PLC0415
    from loopwright.models.loading import load_tokenizer  # noqa: PLC0415

    shape, rng, steps = SHAPES[args.size], random.Random(0), TURN * (args.rounds + 1)
    save(folder, args.size, 0.0, 1)
    (folder / "reward").rename(folder / "start")
    end = load_tokenizer(folder / "start").eos_token_id
    assert not bos_prefix(load_tokenizer(folder / "start"))

    def words(low: int, high: int) -> list[int]:
        return [rng.randrange(FIRST_WORD, shape.vocab) for _ in range(rng.randint(low, high))]

    asked = [
        (words(16, 64), [words(8, 96) for _ in range(args.answers)])
        for _ in range(ANSWERS_A_STEP // args.answers * steps)
    ]
    pairs = [
        (prompt + answers[a] + [end], prompt + answers[b] + [end])
        for prompt, answers in asked
        for a in range(args.answers)
        for b in range(a + 1, args.answers)
    ]
    (folder / "asked.json").write_text(json.dumps(asked))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return steps


def our_turns(args: argparse.Namespace) -> None:
    """The reward stage on the prompts as rankings, some steps a turn."""
    import torch  # noqa: PLC0415

    from loopwright.runtime.runtime import Runtime  # noqa: PLC0415
    from loopwright.schemas import Message, Ranking  # noqa: PLC0415
    from loopwright.stages import reward  # noqa: PLC0415

    torch.set_num_threads(args.threads)
    said = [
        Ranking(
            id=str(i),
            prompt=(Message(role="user", content=spelled(prompt)),),
            responses=tuple(spelled(answer) for answer in answers),
            ranks=tuple(range(1, args.answers + 1)),
        )
        for i, (prompt, answers) in enumerate(json.loads((args.worker / "asked.json").read_text()))
    ]
    config = reward.RewardConfig(
        learning_rate=2e-5, epochs=1, batch_size_per_device=ANSWERS_A_STEP // args.answers, max_length=512,
        normalise_on="responses", held_out_share=0.0, save_steps=10_000, log_steps=TURN,
    )  # fmt: skip
    turn = Turn()
    with tempfile.TemporaryDirectory() as temporary:
        runtime = Runtime.temporary(Path(temporary), stage="reward", seed=0)
        record = runtime.record

        def recorded(step: int, figures: Any) -> None:
            record(step, figures)
            turn.done(pairs=TURN * pairs_a_step(args))

        runtime.record = recorded  # type: ignore[method-assign]
        reward.run(config, reward.RewardInputs(args.worker / "policy", rankings=said), runtime)


def pairs_a_step(args: argparse.Namespace) -> int:
    return ANSWERS_A_STEP * (args.answers - 1) // 2


def spelled(tokens: Sequence[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def report(args: argparse.Namespace, turns: Turns) -> None:
    figures: dict[str, Any] = {
        "benchmark": "reward_against_trl",
        "what": "speed",
        "size": args.size,
        "answers": args.answers,
    }
    for name, rows in turns.rows.items():
        speeds = [row["pairs"] / row["seconds"] for row in rows]
        figures[f"{name}_pairs_per_second"] = statistics.median(speeds)
        figures[f"{name}_spread"] = [round(min(speeds), 2), round(max(speeds), 2)]
        figures[f"{name}_busy"] = statistics.median(row["busy"] for row in rows)
    if "trl" in turns.rows:
        figures["ratio"] = figures["ours_pairs_per_second"] / figures["trl_pairs_per_second"]
    for name, value in figures.items():
        print(f"{name:28} {value}")
    print(json.dumps(figures))


def worker(args: argparse.Namespace, folder: Path, batch: int, steps: int, length: int, seed: int) -> list[str]:
    rate = args.rate if args.what == "accuracy" else 2e-5
    command = [str(args.peers), str(HERE / "trl_reward_worker.py"), str(folder)]
    settings = {"batch": batch, "steps": steps, "length": length, "threads": args.threads, "seed": seed, "rate": rate}
    return command + [f"--{name}={value}" for name, value in settings.items()]


if __name__ == "__main__":
    main()
