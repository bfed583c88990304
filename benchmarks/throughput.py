"""Tokens per second of pre-training steps and of sampling, on one small Llama, and where a step's time goes.

    python benchmarks/throughput.py [--hidden 128 --layers 4 --ff 352 --vocab 1024 --rows 32 --length 256]

Prints a table for people and, last, one JSON line for programs. Measure on a quiet machine: with other
processes on the cores, small matrix products are several times slower. `busy` is the share of the cores
that other processes took meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from loopwright.generation.base import SamplingConfig
from loopwright.generation.transformers_engine import TransformersEngine
from loopwright.models.loading import LlamaShape, new_llama
from loopwright.models.trainable import trainable_parameters
from loopwright.objectives.language_modelling import next_token_cross_entropy
from loopwright.training.config import TrainConfig
from loopwright.training.optim import make_optimizers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"hidden": 128, "layers": 4, "heads": 4, "ff": 352, "vocab": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in {"rows": 32, "length": 256, "repeats": 9, "threads": os.cpu_count() or 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    before = _times()
    figures = training(args) | sampling(args)
    figures["busy"] = round(_busy(before), 2)
    for name, value in figures.items():
        print(f"{name:32} {value:>12,.2f}")
    print(json.dumps({"benchmark": "throughput", **vars(args), **figures}))


def training(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of each part of a step (medians), and tokens per second of whole steps."""
    model = _model(args).train()
    config = TrainConfig(max_steps=1, optimizer="muon", muon_learning_rate=0.02)
    optimizers = make_optimizers(trainable_parameters(model), config)
    ids = torch.randint(4, args.vocab, (args.rows, args.length), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(args.length).expand(args.rows, -1)
    spent: dict[str, list[float]] = {name: [] for name in ("body", "head_and_loss", "backward", "clip", "optimizer")}

    def timed(name: str, part: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        start = time.perf_counter()
        result = part()
        spent[name].append(1e3 * (time.perf_counter() - start))
        return result

    def body() -> torch.Tensor:
        return model.model(ids, position_ids=positions, use_cache=False).last_hidden_state

    def head_and_loss(hidden: torch.Tensor) -> torch.Tensor:
        return next_token_cross_entropy(hidden, model.lm_head.weight, ids).total / ids.numel()

    for _ in range(args.repeats + 2):
        hidden = timed("body", body)
        loss = timed("head_and_loss", partial(head_and_loss, hidden))
        timed("backward", loss.backward)
        timed("clip", partial(torch.nn.utils.clip_grad_norm_, optimizers.parameters, 1.0))
        timed("optimizer", optimizers.step)
    medians = {f"{name}_ms": statistics.median(times[2:]) for name, times in spent.items()}
    medians["train_tokens_per_second"] = ids.numel() / (sum(medians.values()) / 1e3)
    return medians


def sampling(args: argparse.Namespace) -> dict[str, float]:
    """96 prompts of 25-50 tokens and 20 new ones, as in a PPO step; and 1,920 prompts, as when collecting feedback."""
    engine = TransformersEngine(_model(args), word_tokenizer(args.vocab))
    rng = random.Random(0)
    prompts = [[rng.randrange(4, args.vocab) for _ in range(rng.randrange(25, 51))] for _ in range(96)]
    figures = {}
    for copies in (1, 20):
        seconds, tokens = [], 0
        for _ in range(5 if copies == 1 else 2):
            start = time.perf_counter()
            got = engine.generate(prompts * copies, SamplingConfig(max_new_tokens=20), range(96 * copies))
            seconds.append(time.perf_counter() - start)
            tokens = int(got.response_mask.sum())
        best = min(seconds)
        figures |= {f"sample_{96 * copies}_seconds": best, f"sample_{96 * copies}_tokens_per_second": tokens / best}
    return figures


def _model(args: argparse.Namespace):  # noqa: ANN202
    shape = LlamaShape(hidden_size=args.hidden, layers=args.layers, heads=args.heads, intermediate_size=args.ff)
    return new_llama(shape, word_tokenizer(args.vocab), seed=0)


def word_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(vocab - 2)}
    inner = Tokenizer(models.WordLevel(words, "w0"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")


def _times() -> tuple[float, float, float]:
    """(wall seconds, core seconds of everything, core seconds of this process)."""
    with open("/proc/stat", encoding="ascii") as file:
        columns = [int(x) for x in file.readline().split()[1:]]
    used = sum(columns) - columns[3] - columns[4]
    return time.perf_counter(), used / os.sysconf("SC_CLK_TCK"), sum(os.times()[:2])


def _busy(before: tuple[float, float, float]) -> float:
    """Cores that other processes used since."""
    wall, everything, own = (b - a for a, b in zip(before, _times(), strict=True))
    return max(0.0, (everything - own) / wall)


if __name__ == "__main__":
    main()
