"""SFT against TRL 1.16's SFTTrainer, padded and packed: some steps of ours, some of theirs, in turns, on one machine.

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0 datasets==5.2.0
    python benchmarks/sft_against_trl.py --peers PEERS/bin/python [--size tiny]

All three load the same folder, see the same examples of 32 to 256 tokens (any length is as likely), learn the same
tokens of them in float32 with AdamW and clipped gradients, and take 16 examples an optimizer step; TRL's packing fixes
the rows of a step, so there it is 16 on average. No side recomputes activations. Ours is the stage as a recipe runs
it, packed. What counts are real tokens a second, padding left out.

First the gate: the loss of the first step is that of TRL's padded rows. Prints a table for people and, last, one JSON
line for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turns import Row, Turn, Turns, take_turns, with_path

if TYPE_CHECKING:
    from shapes import Shape

    from loopwright.stages.sft import SFTConfig

HERE = Path(__file__).parent
EXAMPLES, LENGTH, PROMPT = 16, 256, 8  # examples a step; most tokens of one, and of its prompt
STEPS = {"tiny": 10, "small": 2, "medium": 1}  # a turn
TOLERANCE = 1e-3  # of the first loss, nats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the Python of an environment with TRL 1.16")
    parser.add_argument("--peers-path", default="", help="PYTHONPATH of that environment")
    parser.add_argument("--size", choices=STEPS, default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--accumulation", type=int, default=1, help="sft.accumulation: microbatches a step")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        ours(args)
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    from shapes import SHAPES  # noqa: PLC0415 -- the worker measures its own start

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, SHAPES[args.size], args)
        commands = {"ours": [sys.executable, __file__, *sys.argv[1:], "--worker", str(folder)]}
        for name in ("trl_padded", "trl_packed") if args.peers else ():
            command = [str(args.peers), str(HERE / "trl_sft_worker.py"), str(folder), f"--packing={name[4:]}"]
            command += [f"--turn={STEPS[args.size]}", f"--examples={EXAMPLES}"]
            command += [f"--length={LENGTH}", f"--threads={args.threads}"]
            commands[name] = with_path(command, args.peers_path)
        turns = take_turns(commands, args.rounds, check=same_first_loss)
    report(args, turns)


def same_first_loss(first: dict[str, Row]) -> None:
    """The gate: the same weights, examples and learned tokens give the same loss."""
    if "trl_padded" not in first:
        return
    gap = abs(first["ours"]["first_loss"] - first["trl_padded"]["first_loss"])
    if not gap <= TOLERANCE:
        raise SystemExit(f"the first losses differ by {gap:.2g}, so the sides do not learn the same: {first}")


def report(args: argparse.Namespace, turns: Turns) -> None:
    figures: dict[str, Any] = {"benchmark": "sft_against_trl", "size": args.size, "accumulation": args.accumulation}
    for name, rows in turns.rows.items():
        speeds = [row["tokens"] / row["seconds"] for row in rows]
        figures |= {
            f"{name}_tokens_per_second": statistics.median(speeds),
            f"{name}_spread": [round(min(speeds)), round(max(speeds))],
            f"{name}_tokens_per_step": statistics.mean(row["tokens"] for row in rows) / STEPS[args.size],
            f"{name}_first_loss": rows[0]["first_loss"],
            f"{name}_busy": statistics.median(row["busy"] for row in rows),
        }
    for name in turns.rows.keys() - {"ours"}:
        ratio = figures["ours_tokens_per_second"] / figures[f"{name}_tokens_per_second"]
        figures[f"ratio_to_{name}"] = ratio
    for name, value in figures.items():
        print(f"{name:32} {value:,.3f}" if isinstance(value, float) else f"{name:32} {value}")
    print(json.dumps(figures))


def prepare(folder: Path, shape: Shape, args: argparse.Namespace) -> None:
    """The model, the demonstrations, and these as tokens in the order in which our stage takes them."""
    from shapes import FIRST_WORD, model_of, tokenizer_of  # noqa: PLC0415

    from loopwright.models.loading import save_model  # noqa: PLC0415
    from loopwright.runtime.runtime import Runtime  # noqa: PLC0415
    from loopwright.stages.sft import read_examples  # noqa: PLC0415
    from loopwright.training.batches import EpochOrder  # noqa: PLC0415

    tokenizer, rng = tokenizer_of(shape), random.Random(0)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    save_model(model_of(shape, eos_probability=2 / LENGTH), tokenizer, folder / "model")

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(FIRST_WORD, shape.vocab)}" for _ in range(count))

    def demonstration(number: int) -> str:
        length = rng.randint(LENGTH // 8, LENGTH) - 1  # the last token is the end
        prompt = [{"role": "user", "content": words(PROMPT)}]
        return json.dumps({"id": str(number), "prompt": prompt, "response": words(length - PROMPT)})

    config = config_of(args)
    count = round(1.2 * config.max_steps * EXAMPLES) + 16  # some are held out
    (folder / "demonstrations.jsonl").write_text("\n".join(map(demonstration, range(count))) + "\n", encoding="utf-8")
    runtime = Runtime.temporary(folder / "prepared", stage="sft")
    examples = read_examples(config, folder / "demonstrations.jsonl", tokenizer, runtime).train
    order = EpochOrder(len(examples), EXAMPLES, runtime.seed_for("order"))
    assert order.steps_per_epoch > config.max_steps
    taken = [[examples[i] for i in order.rows_of(step)] for step in range(config.max_steps)]
    (folder / "steps.json").write_text(json.dumps(taken), encoding="utf-8")


def config_of(args: argparse.Namespace) -> SFTConfig:
    from loopwright.stages.sft import SFTConfig  # noqa: PLC0415

    return SFTConfig(
        max_steps=(1 + args.rounds) * STEPS[args.size] + 1,  # the last one would also assess and save
        batch_size_per_device=EXAMPLES // args.accumulation,
        accumulation=args.accumulation,
        max_length=LENGTH,
        learning_rate=2e-5,
        save_steps=1_000_000,
        held_out_share=0.02,
    )


def ours(args: argparse.Namespace) -> None:
    """The stage on that folder, some steps each time a line comes in."""
    import torch  # noqa: PLC0415

    from loopwright.kernels.choice import choose  # noqa: PLC0415
    from loopwright.runtime.runtime import Runtime  # noqa: PLC0415
    from loopwright.stages import sft  # noqa: PLC0415

    torch.set_num_threads(args.threads)
    folder = args.worker
    steps = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    tokens = [sum(len(prompt) + len(response) for prompt, response in step) for step in steps]
    losses: list[float] = []
    turn, count = Turn(), STEPS[args.size]

    class Bar:
        def advance(self, *, loss: float) -> None:
            losses.append(loss)
            if len(losses) % count == 0:
                turn.done(first_loss=losses[0], tokens=sum(tokens[len(losses) - count : len(losses)]))

    @contextmanager
    def progress(*_args: Any):  # noqa: ANN202
        yield Bar()

    runtime = Runtime.temporary(folder / "run", stage="sft")
    runtime.progress = progress
    choose(folder)
    sft.run(config_of(args), sft.SFTInputs(folder / "model", folder / "demonstrations.jsonl"), runtime)


if __name__ == "__main__":
    main()
