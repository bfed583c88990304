"""What K answers to a prompt cost the reward stage: K rows, and not the K(K - 1) of its pairs.

    python benchmarks/kway.py [--answers 2 4 7] [--prompts 64]

Trains on rankings of K answers by the reward stage itself, one epoch from a tiny random Llama, and counts what goes
into the model's body meanwhile: rows, and tokens without padding, for each prompt. Once with answers in rows of their
own, as encoders read them; once as a decoder reads them, a prompt in one row with all its answers. Beside it stands
what K(K - 1) / 2 pairs of two rows each would take.

Prints a table and, last, one JSON line. Bar: K rows at most, and no token of a prompt twice where it is read once.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from shapes import SHAPES, model_of, tokenizer_of

from loopwright.models.heads import Branches
from loopwright.models.loading import save_model
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Message, Ranking
from loopwright.stages import reward
from loopwright.training.preference_pairs import JudgedBatch, scores_of

PROMPT, ANSWER = 96, 31  # words, a token each; an answer's EOS is one more
HEAD = f"{'K':>3}{'pairs':>7}  {'reading':<22}{'rows':>7}{'tokens':>9}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, nargs="+", default=[2, 4, 7], help="K: to a prompt")
    parser.add_argument("--prompts", type=int, default=64)
    args = parser.parse_args()
    print(f"of a prompt of {PROMPT} tokens and K answers of {ANSWER + 1}\n{HEAD}")
    rows = [row_of(answers, args.prompts) for answers in args.answers]
    for row in rows:
        for name in ("each answer a row", "prompt read once", "each pair two rows"):
            of = row[name.replace(" ", "_")]
            print(f"{row['answers']:>3}{row['pairs']:>7}  {name:<22}{of['rows']:>7.2f}{of['tokens']:>9.1f}")
    met = all(row["met"] for row in rows)
    print(json.dumps({"benchmark": "kway", "prompts": args.prompts, "rows": rows, "met": met}))
    return int(not met)


def row_of(answers: int, prompts: int) -> dict[str, Any]:
    """Rows and tokens a prompt, as measured, and as pairs of rows of their own would have them."""
    apart, once = (measured(answers, prompts, branches=branches) for branches in (False, True))
    of_pairs = answers * (answers - 1)
    met = apart["rows"] == answers and once["rows"] <= answers
    return {
        "answers": answers,
        "pairs": of_pairs // 2,
        "each_answer_a_row": apart,
        "prompt_read_once": once,
        "each_pair_two_rows": {"rows": float(of_pairs), "tokens": float(of_pairs * (PROMPT + ANSWER + 1))},
        "met": met and once["tokens"] == PROMPT + answers * (ANSWER + 1),
    }


def measured(answers: int, prompts: int, *, branches: bool) -> dict[str, float]:
    """What the body of the model reads in one epoch, for each prompt."""
    counted = {"rows": 0, "tokens": 0}

    def counting(model: Any, batch: JudgedBatch) -> torch.Tensor:
        def count(body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            counted["rows"] += len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])

        read = batch.inputs
        counted["tokens"] += int((read.segments >= 0 if isinstance(read, Branches) else read.attention_mask).sum())
        hook = model.base_model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            return scores_of(model, batch)
        finally:
            hook.remove()

    with tempfile.TemporaryDirectory() as temporary, mock.patch.object(reward, "scores_of", counting):
        folder = Path(temporary)
        shape = SHAPES["tiny"]
        save_model(model_of(shape), tokenizer_of(shape), folder / "start")
        settings = {"held_out_share": 0.0, "batch_size_per_device": 8, "max_length": 512, "reference_samples": 8}
        config = reward.RewardConfig(normalise_on="responses", **settings)
        inputs = reward.RewardInputs(folder / "start", rankings=rankings(answers, prompts, shape.vocab))
        runtime = Runtime.temporary(folder / "reward", stage="reward", seed=0)
        if branches:
            reward.run(config, inputs, runtime)
        else:
            with mock.patch.object(reward, "may_branch", lambda *model_and_data: False):
                reward.run(config, inputs, runtime)
    return {name: count / prompts for name, count in counted.items()}


def rankings(answers: int, prompts: int, vocab: int) -> list[Ranking]:
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(f"w{rng.randrange(2, vocab)}" for _ in range(words))

    return [
        Ranking(
            id=str(number),
            prompt=(Message(role="user", content=text(PROMPT)),),
            responses=tuple(text(ANSWER) for _ in range(answers)),
            ranks=tuple(rng.sample(range(1, answers + 1), answers)),
        )
        for number in range(prompts)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
