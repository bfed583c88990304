"""Best-of-n: decoding that asks a reward which of several answers to give."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from loopwright.data.chat import render_prompts
from loopwright.generation.base import Engine, SamplingConfig, decode_responses
from loopwright.rewards.base import Reward, Sample
from loopwright.schemas import Prompt


class Picked(NamedTuple):
    """The answer that was picked, and what the reward said of it."""

    response: str
    response_ids: list[int]  # EOS included
    score: float
    finished: bool  # an EOS was sampled
    mean_score: float  # of all n: what one answer would have scored


def pick_best(
    engine: Engine, reward: Reward, prompts: Sequence[Prompt], n: int, sampling: SamplingConfig, seed: int
) -> list[Picked]:
    """Of n answers to each prompt the one with the highest score; one without EOS only where none has one.

    Seed, prompt and its id decide its answers, whatever else is asked; n + 1 answers are n of them and one more.
    """
    tokens = render_prompts(engine.tokenizer, [prompt.messages for prompt in prompts])
    rows = [(number, copy) for number in range(len(prompts)) for copy in range(n)]
    seeds = [_seed(seed, prompts[number].id, copy) for number, copy in rows]
    rollouts = engine.generate([tokens[number] for number, _ in rows], sampling, seeds)
    samples = [
        Sample(
            prompt=prompts[number],
            response=response,
            prompt_ids=tokens[number],
            response_ids=rollouts.response_tokens(row),
            finished=bool(rollouts.finished[row]),
            tokenizer=engine.tokenizer,
        )
        for row, ((number, _), response) in enumerate(
            zip(rows, decode_responses(engine.tokenizer, rollouts), strict=True)
        )
    ]
    scores = reward.score(samples).cpu().whole().tolist()
    found = []
    for first in range(0, len(rows), n):
        best = max(range(first, first + n), key=lambda row: (samples[row].finished, scores[row]))
        sample, mean = samples[best], sum(scores[first : first + n]) / n
        found.append(Picked(sample.response, sample.response_ids, scores[best], sample.finished, mean))
    return found


def _seed(seed: int, prompt_id: str, copy: int) -> int:
    digest = hashlib.sha256(f"{seed}/{copy}/{prompt_id}".encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
