"""Answers to prompts, several each, for those who judge them: people, simulated annotators, a judge that is a model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
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
    policies: tuple[str, ...] = ()  # who wrote each of them, where several did: artifact ids

    def without_repetitions(self) -> Item:
        """Each answer once: nobody can tell equal ones apart."""
        kept = [k for k, response in enumerate(self.responses) if response not in self.responses[:k]]
        return self._replace(
            responses=tuple(self.responses[k] for k in kept),
            off_topic=tuple(place for place, k in enumerate(kept) if k in self.off_topic),
            policies=tuple(self.policies[k] for k in kept) if self.policies else (),
        )


def prompts_to_ask(prompts: Sequence[Prompt], count: int, asked: Mapping[str, int]) -> list[Prompt]:
    """So many of the prompts, those first that were asked about least often, in their order.

    Args:
        asked: a prompt's id -> how often it was.
    """
    return sorted(prompts, key=lambda prompt: asked.get(prompt.id, 0))[:count]


def sample_answers(
    prompts: Sequence[Prompt], config: Sampled, policies: Sequence[Path], runtime: Runtime
) -> list[list[str]]:
    """K responses to each prompt, in the order of the prompts, written by the policies in turns."""
    found = runtime.restore()
    answers: list[list[str]] = found.state["answers"] if found else []
    if len(answers) == len(prompts):
        return answers
    writers = []
    for policy in policies:
        tokenizer = load_tokenizer(policy)
        writers.append((tokenizer, make_engine(load_causal_lm(policy, runtime.device), tokenizer, runtime.log)))
    with runtime.progress("sampling answers", len(prompts), start=len(answers)) as bar:
        while len(answers) < len(prompts):
            first = len(answers)
            batch = prompts[first : first + config.prompts_at_once]
            found_of: list[list[str]] = [[""] * config.responses_per_prompt for _ in batch]
            for turn, (tokenizer, engine) in enumerate(writers):
                rendered = render_prompts(tokenizer, [prompt.messages for prompt in batch])
                places = [
                    (i, k) for i in range(len(batch)) for k in range(turn, config.responses_per_prompt, len(writers))
                ]
                seeds = [runtime.seed_for("answer", first + i, k) for i, k in places]
                sampled = engine.generate([rendered[i] for i, _ in places], config.sampling, seeds)
                for (i, k), text in zip(places, decode_responses(tokenizer, sampled), strict=True):
                    found_of[i][k] = text
            answers += found_of
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
            policies = (*item.policies[:-1], other.policies[0]) if item.policies else ()
            item = item._replace(responses=(*own, other.responses[0]), off_topic=(len(own),), policies=policies)
        mixed.append(item)
    return mixed
