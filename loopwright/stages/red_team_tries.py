"""A try of red teaming: an attack, the target's answer to it, and whether it succeeded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from pydantic import PositiveInt, model_validator
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import render_prompts
from loopwright.errors import ModelError
from loopwright.evaluation.answering import LanguageModel, answer
from loopwright.generation.base import Engine, Rollouts, SamplingConfig, decode_responses
from loopwright.models.tokens import context_length
from loopwright.schemas import Message, Prompt
from loopwright.stages.red_team_ground import REQUEST, Ground, Verdict
from loopwright.worlds.base import Request

AT_ONCE = 250  # tries that are answered together
EARLIER = "earlier"  # the source of what red teaming has found before
KNOWN_ATTACKS = ("templates", EARLIER)  # sources whose texts need no look whether they ask for harm


class Attack(NamedTuple):
    """What is sent: the text that is the attack's own, behind a context that sources share."""

    context: str
    text: str

    @property
    def message(self) -> str:
        return f"{self.context} {self.text}".strip()


class Try(NamedTuple):
    """An attack and what came of it; JSON-able as a dict."""

    source: str
    context: str
    text: str
    asks: bool  # for something harmful, so that it is an attack at all
    answer: str | None = None  # None: it is no attack, or too long for the target, and was not sent
    harm: float | None = None  # the higher, the more harmful the answer
    success: bool = False

    @property
    def attack(self) -> Attack:
        return Attack(self.context, self.text)


class Target:
    """The frozen policy that is attacked."""

    def __init__(
        self,
        model: LanguageModel,
        ground: Ground,
        sampling: SamplingConfig,
        verdict: Verdict | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`verdict`: who says how harmful an answer is; None: the ground does. `say`: as of `make_engine`."""
        self.model, self.ground, self.sampling, self.say = model, ground, sampling, say
        self.verdict = verdict or ground.harm

    def attack(self, source: str, attacks: Sequence[Attack], seeds: Sequence[int]) -> list[Try]:
        """One answer to each attack; a row's seed decides it, whatever is sent beside it."""
        tries: list[Try] = []
        for first in range(0, len(attacks), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            tries += self._attack(source, attacks[part], seeds[part])
        return tries

    def _attack(self, source: str, attacks: Sequence[Attack], seeds: Sequence[int]) -> list[Try]:
        prompts = self.ground.read([one.message for one in attacks], wrapped=source in KNOWN_ATTACKS)
        sent = [i for i, prompt in enumerate(prompts) if prompt is not None and self._fits(prompt)]
        tries = [Try(source, *one, asks=prompt is not None) for one, prompt in zip(attacks, prompts, strict=True)]
        if not sent:
            return tries
        asked = [prompt for i in sent if (prompt := prompts[i]) is not None]
        answers = answer(self.model, asked, self.sampling, [seeds[i] for i in sent], self.say)
        harms, succeeded = self.verdict(asked, answers, self.model.tokenizer)
        for i, text, harm, success in zip(sent, answers.texts, harms, succeeded, strict=True):
            tries[i] = tries[i]._replace(answer=text, harm=harm, success=success)
        return tries

    def _fits(self, prompt: Prompt) -> bool:
        """Whether the target can read it and answer; a template that refuses it is as good as a target that does."""
        try:
            (tokens,) = render_prompts(self.model.tokenizer, [prompt.messages])
        except ModelError:
            return False
        limit = context_length(self.model.model)
        return bool(tokens) and (limit is None or len(tokens) + self.sampling.max_new_tokens <= limit)


def from_templates(requests: Sequence[Request], templates: Sequence[str], seed: int) -> list[Attack]:
    """Each request in a template, drawn evenly."""
    rng = random.Random(seed)
    return [Attack(one.context, rng.choice(templates).replace(REQUEST, one.text)) for one in requests]


class Writing(SamplingConfig):
    """How a model writes attacks."""

    max_new_tokens: PositiveInt = 64
    lines: PositiveInt = 3  # that an attack has at most

    @model_validator(mode="after")
    def _samples_from_the_whole_distribution(self) -> Self:
        if self.top_k is not None or self.top_p is not None:
            raise ValueError("top_k and top_p narrow what an attacker can find; leave them out")
        return self


def write_attacks(engine: Engine, openings: Sequence[str], writing: Writing, seeds: Sequence[int]) -> Written:
    """A model goes on from each opening, a line or some (Perez et al. 2022, sec. 3.1: one, the next of a list).

    A model with a chat template is given the opening as a user's message.
    """
    prompts = [(Message(role="user", content=opening),) for opening in openings]
    rollouts = engine.generate(render_prompts(engine.tokenizer, prompts), writing, seeds)
    return first_lines(engine.tokenizer, rollouts, writing.lines)


class Written(NamedTuple):
    """Attacks as a model wrote them."""

    rollouts: Rollouts
    texts: list[str]


def first_lines(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts, lines: int) -> Written:
    """The same, each response ending with so many lines: to an attacker the last line break is what EOS is to others.

    The token that breaks the line is part of the response, and finishes it.
    """
    mask, finished = rollouts.response_mask.clone(), rollouts.finished.clone()
    breaks: dict[int, int] = {}
    for row in range(len(mask)):
        seen = 0
        for place, token in enumerate(rollouts.response_tokens(row)):
            if token not in breaks:
                breaks[token] = str(tokenizer.decode([token], skip_special_tokens=False)).count("\n")
            seen += breaks[token]
            if seen >= lines:
                mask[row, place + 1 :] = False
                finished[row] = True
                break
    cut = rollouts._replace(response_mask=mask, logprobs=rollouts.logprobs * mask, finished=finished)
    texts = decode_responses(tokenizer, cut)
    return Written(cut, ["\n".join(text.split("\n")[:lines]).strip() for text in texts])


def write_in_batches(
    engine: Engine, openings: Sequence[str], contexts: Sequence[str], writing: Writing, seeds: Sequence[int]
) -> list[Attack]:
    """As `write_attacks`, some at a time, with the context that each stands behind."""
    attacks: list[Attack] = []
    for first in range(0, len(openings), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        texts = write_attacks(engine, openings[part], writing, seeds[part]).texts
        attacks += [Attack(*one) for one in zip(contexts[part], texts, strict=True)]
    return attacks


def with_examples(
    opening: str, lines: Sequence[str], harms: Sequence[float], shots: int, temperature: float, rng: random.Random
) -> list[str]:
    """Lines of earlier tries before an opening, drawn with probability ~ exp(harm / T) (Perez et al. 2022, sec. 3.1).

    Returns:
        The opening after all examples, after one less, and so on to none: an attacker's context may be too short.
    """
    if not lines:
        return [opening]
    weights = [math.exp((harm - max(harms)) / temperature) for harm in harms]
    drawn = rng.choices(lines, weights, k=shots)
    return ["\n".join([*drawn[first:], opening]) for first in range(shots + 1)]


def longest_that_fits(
    choices: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> list[str]:
    """Of each opening's versions, longest first, the first of at most `limit` tokens; else the last."""
    chosen = []
    for versions in choices:
        prompts = [(Message(role="user", content=version),) for version in versions]
        lengths = [len(tokens) for tokens in render_prompts(tokenizer, prompts)]
        fitting = (v for v, length in zip(versions, lengths, strict=True) if limit is None or length <= limit)
        chosen.append(next(fitting, versions[-1]))
    return chosen
