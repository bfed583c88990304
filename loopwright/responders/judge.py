"""A model as a judge: which of two answers is better, or how good one is, from the probabilities of what it would say.

Lee et al. 2023 (arXiv:2309.00267), sec. 3.1 and 3.2.2; reasons first and clamping as Bai et al. 2022
(arXiv:2212.08073), sec. 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from loopwright.config import Config
from loopwright.errors import ConfigError
from loopwright.responders.appeals import without_appeals
from loopwright.responders.judge_text import BETTER, HOW_GOOD, LETTERS, after_reasons, to_compare, to_score
from loopwright.schemas import Chooser, Message, ReplySettings
from loopwright.schemas.responders import Temperature
from loopwright.serving.client import checked_url

GRAIN = (
    2.0**-20
)  # probabilities are whole numbers of it, so that 1 - p is exact; float32 log-probabilities are no finer

Half = Annotated[float, Field(ge=0, le=0.5)]


def _address(url: str) -> str:
    try:
        return checked_url(url, "a model server", example="http://host:8400/v1", variable="LOOPWRIGHT_MODEL_TOKEN")
    except ConfigError as error:
        raise ValueError(str(error)) from None


class ReasoningConfig(Config):
    """Reasons that the judge writes before its verdict."""

    max_new_tokens: PositiveInt = 128
    temperature: Temperature = 1.0


class ReferenceConfig(Config):
    """The judge's own answer: the likeliest one, written before it sees those that it compares."""

    max_new_tokens: PositiveInt = 128


class JudgeModelConfig(Config):
    """Which model judges."""

    path: Path | None = None  # a causal LM's folder; None: that of a stage, or of a server
    url: Annotated[str, AfterValidator(_address)] | None = None  # of a server that speaks OpenAI's chat completions
    model: str | None = None  # its name there; None: the only one
    logprobs: bool = True  # whether the server gives them; else the words of its reply are the verdict

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.path is not None and self.url is not None:
            raise ValueError("path and url both name a judge; leave one out")
        for name in ("model", "logprobs"):
            if self.url is None and name in self.model_fields_set:
                raise ValueError(f"{name} has no effect without url, the address of a model server; leave it out")
        return self


class JudgeConfig(JudgeModelConfig):
    """How pairs are judged."""

    instruction: str = BETTER  # what is asked of the two answers
    reference: ReferenceConfig | None = None  # None: it sees no answer but those two
    reasoning: ReasoningConfig | None = None  # None: the verdict at once
    clamp: Half | None = None  # 0.1: probabilities end at 40 and 60 %

    @model_validator(mode="after")
    def _clamping_leaves_something(self) -> Self:
        if self.clamp == 0:
            raise ValueError("clamp = 0 makes every pair a tie; 0.1 keeps probabilities from 0.4 to 0.6")
        if self.clamp == 0.5:
            raise ValueError("clamp = 0.5 has no effect: probabilities end at 0 and 1; leave it out")
        return self


class ScoringConfig(JudgeModelConfig):
    """How single answers are scored."""

    instruction: str = HOW_GOOD
    scale: Annotated[int, Field(ge=2, le=10)] = 10  # from 1, the worst


class ToJudge(NamedTuple):
    """Two different answers to one prompt."""

    prompt: tuple[Message, ...]
    responses: tuple[str, str]
    instruction: str
    seeds: tuple[int, int] = (0, 0)  # of the reasons, one for each order
    reference: str | None = None  # an answer to judge them by


class Verdict(NamedTuple):
    """What a judge thinks of a pair, once shown in each order."""

    shown_first: float  # probability that the first response is better, where it is shown first
    shown_last: float  # the same where it is shown second
    reasons: tuple[str, str] | None = None  # in these two orders
    unheard: int = 0  # orders in which its reply was no verdict; that counts as undecided
    confirmed: bool = True  # without the sentences that speak to the judge it is the same
    reference: str | None = None  # what the judge itself would answer

    @property
    def probability(self) -> float:
        """Both orders count alike: a liking for one position cancels."""
        return (self.shown_first + self.shown_last) / 2

    @property
    def consistent(self) -> bool:
        """Whether it prefers the same answer in both orders."""
        return (self.shown_first - 0.5) * (self.shown_last - 0.5) > 0

    @property
    def counts(self) -> bool:
        """Whether it may be a label: heard, confirmed, and not one thing in one order and another in the other."""
        contradictory = (self.shown_first - 0.5) * (self.shown_last - 0.5) < 0
        return self.confirmed and self.unheard < 2 and not contradictory

    @property
    def liking_for_first(self) -> float:
        """Mean probability of what is shown first; 0.5 without any bias."""
        return (self.shown_first + 1 - self.shown_last) / 2

    def swap(self) -> Verdict:
        """Of the same pair in the other order."""
        reasons = None if self.reasons is None else (self.reasons[1], self.reasons[0])
        return self._replace(shown_first=1 - self.shown_last, shown_last=1 - self.shown_first, reasons=reasons)


def clamped(probability: float, clamp: float | None) -> float:
    """Within `clamp` of one half (Bai et al. 2022, sec. 4.1: 0.1); None: as it is."""
    return probability if clamp is None else min(max(probability, 0.5 - clamp), 0.5 + clamp)


def with_references(chooser: Chooser, pairs: Sequence[ToJudge], config: ReferenceConfig | None) -> list[ToJudge]:
    """The pairs beside what the judge itself would answer (Zheng et al. 2023, arXiv:2306.05685, sec. 3.4).

    It writes that from the prompt alone, so that no candidate leads it.
    """
    if config is None:
        return list(pairs)
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    likeliest = ReplySettings(max_new_tokens=config.max_new_tokens, temperature=0)
    answers = dict(zip(prompts, chooser.write(prompts, [likeliest] * len(prompts)), strict=True))
    return [pair._replace(reference=answers[pair.prompt].strip() or None) for pair in pairs]


def compare(
    chooser: Chooser,
    pairs: Sequence[ToJudge],
    reasoning: ReasoningConfig | None = None,
    reference: ReferenceConfig | None = None,
) -> list[Verdict]:
    """Judge pairs, each in both orders; swapping the responses of a pair swaps its verdict, and nothing else.

    Where a sentence of an answer speaks to the judge, the pair is judged without such sentences, too, and the verdict
    is what both agree on (erase and check: Kumar et al. 2023, arXiv:2309.02705, whose safety filter erases tokens).
    """
    pairs = with_references(chooser, pairs, reference)
    verdicts = _compare_as_they_are(chooser, pairs, reasoning)
    bare = {i: _without_appeals(pair) for i, pair in enumerate(pairs)}
    doubtful = [i for i, pair in enumerate(pairs) if bare[i] != pair]
    if doubtful:
        again = _compare_as_they_are(chooser, [bare[i] for i in doubtful], reasoning)
        for i, verdict in zip(doubtful, again, strict=True):
            differ = bare[i].responses[0] != bare[i].responses[1]
            verdicts[i] = _what_both_say(verdicts[i], verdict if differ else Verdict(0.5, 0.5))
    return verdicts


def _without_appeals(pair: ToJudge) -> ToJudge:
    first, second = (without_appeals(response) for response in pair.responses)
    return pair._replace(responses=(first, second))


def _what_both_say(shown: Verdict, bare: Verdict) -> Verdict:
    """The less sure of two verdicts that prefer the same answer, else none: an even one that is not confirmed."""
    if (shown.probability - 0.5) * (bare.probability - 0.5) <= 0:
        return shown._replace(shown_first=0.5, shown_last=0.5, confirmed=False)
    less_sure = min(shown, bare, key=lambda one: (one.counts, abs(one.probability - 0.5)))
    return less_sure._replace(reasons=shown.reasons)


def _compare_as_they_are(
    chooser: Chooser, pairs: Sequence[ToJudge], reasoning: ReasoningConfig | None
) -> list[Verdict]:
    """Each pair in both orders.

    With l(x) the log-probability that the reply is x: P(the first shown) = e^l(A) / (e^l(A) + e^l(B)).
    """
    turned = [pair.responses[0] > pair.responses[1] for pair in pairs]  # asked in an order of their own
    in_order = [
        pair._replace(responses=(pair.responses[1], pair.responses[0])) if swap else pair
        for pair, swap in zip(pairs, turned, strict=True)
    ]
    asked, settings = [], []
    for pair in in_order:
        for responses, seed in zip((pair.responses, pair.responses[::-1]), pair.seeds, strict=True):
            reasoned = reasoning is not None
            asked.append(
                to_compare(pair.prompt, responses, pair.instruction, reasoned=reasoned, reference=pair.reference)
            )
            if reasoning is not None:
                settings.append(ReplySettings(**reasoning.model_dump(), seed=seed))
    conversations: list[tuple[Message, ...]] = [(one,) for one in asked]
    reasons: Sequence[str] = []
    if reasoning is not None:
        reasons = chooser.write(conversations, settings)
        conversations = [after_reasons(one, said) for one, said in zip(asked, reasons, strict=True)]
    found = chooser.choose(conversations, LETTERS)
    verdicts = []
    for i, swap in enumerate(turned):
        here, there = found[2 * i], found[2 * i + 1]
        verdict = Verdict(
            shown_first=first_of_two(here),
            shown_last=1 - first_of_two(there),
            reasons=(reasons[2 * i], reasons[2 * i + 1]) if reasons else None,
            unheard=(here is None) + (there is None),
            reference=in_order[i].reference,
        )
        verdicts.append(verdict.swap() if swap else verdict)
    return verdicts


def score(
    chooser: Chooser, answers: Sequence[tuple[Sequence[Message], str]], instruction: str, scale: int
) -> list[float]:
    """Of each (prompt, response), its expected place on the scale, from -1 (1, the worst) to 1.

    Lee et al. 2023, sec. 3.2.2: s = sum over i of i P(i), with the probabilities of the numbers made to add up to one,
    then normalised to [-1, 1]. A reply that is no number of the scale counts as its middle, 0. An answer with sentences
    that speak to the judge is scored without them, too, and has the lower score: they never raise it.
    """
    bare = [(prompt, without_appeals(response)) for prompt, response in answers]
    doubtful = [i for i, (_, response) in enumerate(answers) if bare[i][1] != response]
    asked = [*answers, *(bare[i] for i in doubtful)]
    conversations = [(to_score(prompt, response, instruction, scale=scale),) for prompt, response in asked]
    found = chooser.choose(conversations, [str(number) for number in range(1, scale + 1)])
    scores = [0.0 if one is None else _on_scale(shares(one)) for one in found]
    for i, lower in zip(doubtful, scores[len(answers) :], strict=True):
        scores[i] = min(scores[i], lower)
    return scores[: len(answers)]


def _on_scale(probabilities: Sequence[float]) -> float:
    expected = sum(number * share for number, share in enumerate(probabilities))
    return 2 * expected / (len(probabilities) - 1) - 1


def first_of_two(logprobs: Sequence[float] | None) -> float:
    """The probability of the first of two choices, one of which it must be; 0.5 where there is no verdict."""
    return 0.5 if logprobs is None else round(shares(logprobs)[0] / GRAIN) * GRAIN


def shares(logprobs: Sequence[float]) -> list[float]:
    """Softmax."""
    highest = max(logprobs)
    weights = [math.exp(one - highest) for one in logprobs]
    return [weight / sum(weights) for weight in weights]
