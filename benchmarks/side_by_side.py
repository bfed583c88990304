"""What a pre-training step of the quickstart's model takes: its layout, its microbatches, its optimizer.

    python benchmarks/side_by_side.py [--repeats 11]

Every way is measured in turn, again and again: alone, and while another process keeps one core busy. Prints a table
(median milliseconds) and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from throughput import word_tokenizer
from torch import Tensor

from loopwright.data.packing import PackedBatch, PackedDocuments
from loopwright.models.loading import LlamaShape, new_llama
from loopwright.models.trainable import trainable_parameters
from loopwright.training.gradients import accumulate
from loopwright.training.muon import StackedMuon
from loopwright.training.next_tokens import predict

ROWS, LENGTH, VOCABULARY = 32, 256, 800
SHAPE = LlamaShape(hidden_size=128, layers=3, heads=4, intermediate_size=344, max_positions=LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    ways = steps() | optimizers()
    figures = {"alone": medians(ways, repeats)}
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        figures["beside a busy process"] = medians(ways, repeats)
    finally:
        busy.kill()
        busy.wait()
    for name in ways:
        print(f"{name:44}" + "".join(f"{figures[when][name]:10.1f} ms {when}" for when in figures))
    print(json.dumps({"benchmark": "side_by_side", "threads": torch.get_num_threads(), **figures}))


def steps() -> dict[str, Callable[[], object]]:
    """Forward and backward of 32 rows of documents as long as the front desk's."""
    tokenizer, rng = word_tokenizer(VOCABULARY), random.Random(0)
    lengths = [rng.randrange(66, 200) for _ in range(300)]
    documents = [[rng.randrange(4, VOCABULARY) for _ in range(length)] for length in lengths]
    packed = PackedDocuments(documents, LENGTH, tokenizer.eos_token_id, tokenizer.pad_token_id)
    rows = rng.sample(range(len(packed)), ROWS)
    model = new_llama(SHAPE, tokenizer, seed=0).train()
    parameters = [parameter for _, parameter in trainable_parameters(model)]

    def loss(batch: PackedBatch) -> tuple[Tensor, None]:
        return predict(model, batch).total / (ROWS * LENGTH), None

    def step(batches: list[PackedBatch], at_once: bool) -> Callable[[], object]:
        return lambda: accumulate(parameters, batches, loss, at_once=at_once)

    halves = [packed.rows(rows[start : start + ROWS // 2]) for start in (0, ROWS // 2)]
    quarters = [packed.rows(rows[start : start + ROWS // 4]) for start in range(0, ROWS, ROWS // 4)]
    apart = packed.apart(rows, 8, ROWS * LENGTH)
    return {
        "packed, 2 microbatches, one by one": step(halves, False),
        "packed, 4 microbatches, one by one": step(quarters, False),
        "packed, 4 microbatches, side by side": step(quarters, True),
        "like lengths, 8 microbatches, one by one": step(apart, False),
        "like lengths, 8 microbatches, side by side": step(apart, True),
    }


def optimizers() -> dict[str, Callable[[], object]]:
    """One update of the matrices in the blocks."""

    def matrices() -> list[torch.nn.Parameter]:
        model = new_llama(SHAPE, word_tokenizer(VOCABULARY), seed=0)
        found = [p for name, p in trainable_parameters(model) if p.dim() == 2 and "layers" in name]
        for parameter in found:
            parameter.grad = torch.randn_like(parameter)
        return found

    settings = {"lr": 1e-6, "weight_decay": 0.0}
    return {
        "torch.optim.Muon": torch.optim.Muon(matrices(), **settings).step,
        "Muon, matrices of one shape at once": StackedMuon(matrices(), **settings).step,
    }


def medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each way; the first two rounds warm up."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            spent[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(times[2:]), 1) for name, times in spent.items()}


if __name__ == "__main__":
    main()
