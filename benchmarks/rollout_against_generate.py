"""Sampling against transformers' `generate`, in turns in one process: full softmax, temperature 1, float32.

    python benchmarks/rollout_against_generate.py [--sizes tiny small medium --batches 1 16 64]

Prompts of 32 tokens, 64 new ones each; no response ends early. First the gate: greedy tokens are those of `generate`.
Prints a table for people and, last, one JSON line for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
from shapes import PAD, PROMPT, SHAPES, model_of, prompts_of, tokenizer_of
from transformers import GenerationConfig

from loopwright.generation.base import SamplingConfig
from loopwright.generation.fast_engine import FastEngine
from loopwright.kernels.choice import choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    choice = choose()
    rows = [compare(size, batch, args) for size in args.sizes for batch in args.batches]
    print(f"{'size':8} {'batch':>5} {'generate tok/s':>15} {'ours tok/s':>12} {'ratio':>6}")
    for row in rows:
        print(f"{row['size']:8} {row['batch']:5} {row['generate']:15,.0f} {row['ours']:12,.0f} {row['ratio']:6.2f}")
    print(json.dumps({"benchmark": "rollout_against_generate", "choice": choice._asdict(), "rows": rows}))


def compare(size: str, batch: int, args: argparse.Namespace) -> dict[str, float | str]:
    shape = SHAPES[size]
    model, tokenizer = model_of(shape), tokenizer_of(shape)
    ids = prompts_of(shape, batch)
    engine = FastEngine(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=args.response, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, pad_token_id=PAD
    )
    config.eos_token_id = None
    model.generation_config.eos_token_id = None
    prompts, mask = ids.tolist(), torch.ones_like(ids)

    def theirs(config: GenerationConfig = config) -> torch.Tensor:
        with torch.no_grad():
            return model.generate(ids, attention_mask=mask, generation_config=config)

    def ours(temperature: float = 1.0) -> torch.Tensor:
        sampling = SamplingConfig(max_new_tokens=args.response, temperature=temperature)
        return engine.generate(prompts, sampling, range(batch)).response_ids

    greedy = GenerationConfig(max_new_tokens=args.response, do_sample=False, pad_token_id=PAD, suppress_tokens=[PAD])
    agreement = (theirs(greedy)[:, PROMPT:] == ours(0.0)).float().mean().item()
    if agreement < 0.999:  # two tokens of equal logit may change places
        raise SystemExit(f"{size}, batch {batch}: only {agreement:.1%} of greedy tokens are those of generate")
    seconds: dict[str, list[float]] = {"generate": [], "ours": []}
    for _ in range(args.rounds):
        for name, function in (("generate", theirs), ("ours", ours)):
            seconds[name].append(_timed(function))
    speed = {name: batch * args.response / statistics.median(times) for name, times in seconds.items()}
    return {"size": size, "batch": batch, **speed, "ratio": speed["ours"] / speed["generate"], "greedy": agreement}


def _timed(function: Callable[[], torch.Tensor]) -> float:
    """Seconds a call, of as many calls as take a third of a second."""
    start = time.perf_counter()
    calls = 0
    while time.perf_counter() - start < 0.3:
        function()
        calls += 1
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main()
