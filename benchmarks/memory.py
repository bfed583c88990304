"""Memory that the log-probabilities of tokens take, forward and backward, by how many tokens there are.

    python benchmarks/memory.py [--of exact_kl --tokens 2048 4096 8192 16384 --vocabulary 32000 --hidden 512]

Three functions make logits: `summed_losses`, which PPO's update runs, `token_logprobs` and `exact_kl`; --of names one.
`peak` is the most that torch's CPU allocator held beyond the inputs, as its profiler counts it. What every token has
(the gradient of its hidden state, its log-probability, entropy and normaliser, the gradients of two) grows with the
tokens; what remains has the size of the vocabulary: some rows of logits at a time, and the gradient of the LM head.
The gate: that remainder is the same for any number of tokens. `logits` is what one [tokens, vocabulary] tensor takes.

Prints a table for people and, last, one JSON line for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from turns import busy, core_seconds

from loopwright.objectives.kl import Head, exact_kl
from loopwright.objectives.logprobs import summed_losses, token_logprobs

MB = 1e6
TOLERANCE = 0.01  # of the remainder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=LOSSES, default="summed_losses")
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 4096, 8192, 16384])
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    before = core_seconds()
    rows = [measure(args.of, tokens, args.vocabulary, args.hidden) for tokens in args.tokens]
    print(f"{'tokens':>8} {'peak MB':>10} {'of tokens':>10} {'remainder':>10} {'logits MB':>10}")
    for row in rows:
        print(f"{row['tokens']:8} " + " ".join(f"{row[name] / MB:10.1f}" for name in list(row)[1:]))
    remainders = [row["remainder"] for row in rows]
    spread = max(remainders) / min(remainders) - 1
    settings = {
        "of": args.of,
        "vocabulary": args.vocabulary,
        "hidden": args.hidden,
        "busy": busy(before, core_seconds()),
    }
    print(json.dumps({"benchmark": "memory", **settings, "spread": spread, "rows": rows}))
    if spread > TOLERANCE:
        raise SystemExit(f"what does not belong to a token grows with the tokens, by {spread:.1%}")


def of_token_logprobs(hidden: Any, weight: Any, targets: Any) -> Any:
    """As a loss that is not known token by token reads them."""
    logprobs, entropy = token_logprobs(hidden, weight, targets)
    return logprobs.mean() - 0.01 * entropy.mean()


def of_summed_losses(hidden: Any, weight: Any, targets: Any) -> Any:
    """As PPO's update does."""
    return summed_losses(hidden, weight, targets, lambda logprobs, entropy, _: logprobs - 0.01 * entropy).total


def of_exact_kl(hidden: Any, weight: Any, targets: Any) -> Any:
    """To a reference whose head is another one."""
    return exact_kl(Head(hidden, weight), Head(hidden.detach(), weight.detach().flip(0))).mean()


LOSSES = {"summed_losses": of_summed_losses, "token_logprobs": of_token_logprobs, "exact_kl": of_exact_kl}


def measure(of: str, tokens: int, vocabulary: int, width: int) -> dict[str, float]:
    """Bytes."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, width, generator=generator).requires_grad_() for n in (tokens, vocabulary))
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        LOSSES[of](hidden, weight, targets).backward()
    peak = most_held(profiled)
    of_tokens = tokens * (width + 5) * hidden.element_size()
    logits = tokens * vocabulary * hidden.element_size()
    return {"tokens": tokens, "peak": peak, "of_tokens": of_tokens, "remainder": peak - of_tokens, "logits": logits}


def most_held(profiled: profile) -> int:
    """The most bytes that were allocated and not yet freed."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event["args"] for event in events if event.get("name") == "[memory]"]
    in_order = sorted(changes, key=lambda change: change["Ev Idx"])
    return max(accumulate(change["Bytes"] for change in in_order))


if __name__ == "__main__":
    main()
