"""Answers to prompts, several each, for those who judge them: people, simulated annotators, a judge that is a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from loopwright.data.chat import render_prompts
from loopwright.generation.base import SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt


class Sampled(Protocol):
    """The settings of stages that sample answers."""

    @property
    def responses_per_prompt(self) -> int: ...

    @property
    def sampling(self) -> SamplingConfig: ...

    @property
    def prompts_at_once(self) -> int: ...

    @property
    def save_batches(self) -> int: ...


class Item(NamedTuple):
    """A prompt and the answers to judge."""

    number: int
    prompt: Prompt
    responses: tuple[str, ...]
    off_topic: tuple[int, ...] = ()  # which of them were written to another prompt


def prompts_to_ask(prompts: Sequence[Prompt], count: int, asked: int) -> list[Prompt]:
    """The first `count` of the prompts; or those behind the ones `asked` about before, round the end of the list."""
    start = asked % len(prompts) if prompts else 0
    return [*prompts[start:], *prompts[:start]][:count]


def sample_answers(prompts: Sequence[Prompt], config: Sampled, policy: Path, runtime: Runtime) -> list[list[str]]:
    """K responses to each prompt, in the order of the prompts."""
    found = runtime.restore()
    answers: list[list[str]] = found.state["answers"] if found else []
    if len(answers) == len(prompts):
        return answers
    tokenizer = load_tokenizer(policy)
    engine = make_engine(load_causal_lm(policy, runtime.device), tokenizer, runtime.log)
    copies = config.responses_per_prompt
    with runtime.progress("sampling answers", len(prompts), start=len(answers)) as bar:
        while len(answers) < len(prompts):
            first = len(answers)
            batch = prompts[first : first + config.prompts_at_once]
            rendered = render_prompts(tokenizer, [prompt.messages for prompt in batch])
            tokens = [ids for ids in rendered for _ in range(copies)]
            seeds = [runtime.seed_for("answer", first + i, k) for i in range(len(batch)) for k in range(copies)]
            texts = decode_responses(tokenizer, engine.generate(tokens, config.sampling, seeds))
            answers += [texts[i * copies : (i + 1) * copies] for i in range(len(batch))]
            bar.advance(len(batch))
            if (first // config.prompts_at_once + 1) % config.save_batches == 0:
                runtime.checkpoint(len(answers), {"answers": answers})
    return answers


def mix_in_off_topic(items: list[Item], share: float, rng: random.Random) -> list[Item]:
    """In `share` of the items, the last answer is replaced by one that was given to another prompt."""
    mixed = []
    for item in items:
        if rng.random() < share and len(items) > 1:
            other = items[(item.number + rng.randrange(1, len(items))) % len(items)]
            *own, _ = item.responses
            item = item._replace(responses=(*own, other.responses[0]), off_topic=(len(own),))
        mixed.append(item)
    return mixed
