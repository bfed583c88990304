"""Simulated annotators: people with an id, a noisy hand, careless days and biases.

They see only what a person would see: a prompt and answers in the order shown. What an answer is
truly worth comes from judges (any callables); the biases are added on top, so that reward models
trained here meet the faults of real feedback.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field

from loopwright.schemas import Comparison, Judge, Judgement, Prompt, Ranking, Rating, Record, Strength

TIE = 0.05  # two answers closer than this in felt worth are called equal
# How an annotator calls a gap in felt worth, from the widest on (Llama 2's words, sec. 3.2.1)
GAPS: tuple[tuple[float, Strength], ...] = (
    (0.6, "significantly"), (0.3, "better"), (0.1, "slightly"), (0.0, "negligibly"),
)  # fmt: skip
OVERALL_TASTE = 0.25  # how much the mean of the criteria counts beside the worst of them
READING_WORDS_PER_SECOND = 4.0
VERDICT_SECONDS = 2.0  # for each thing that is said of what was read: overall, and by each criterion
CLOCK_STARTS = datetime(2000, 1, 1, 9, tzinfo=UTC)  # long ago, so that nobody takes simulated times for real ones


class Verdict(NamedTuple):
    """Which of two answers is better (None: they are worth the same), and how much."""

    choice: Literal[0, 1] | None
    strength: Strength | None

    @classmethod
    def of(cls, felt: Sequence[float]) -> Self:
        """Of what two answers are worth to somebody."""
        first, second = felt
        if abs(first - second) < TIE:
            return cls(None, None)
        return cls(0 if first > second else 1, next(word for gap, word in GAPS if abs(first - second) >= gap))

    @staticmethod
    def by_criterion(said: Mapping[str, Verdict]) -> dict[str, Any]:
        """`criteria` and `strengths` of a comparison."""
        return {
            "criteria": {by: verdict.choice for by, verdict in said.items()},
            "strengths": {by: verdict.strength for by, verdict in said.items() if verdict.strength is not None},
        }


class SimulatedAnnotator(Record):
    """Judges return worth in [0, 1]; the faults below are in the same unit."""

    id: str
    noise: float = Field(default=0.1, ge=0)  # standard deviation added to the worth of each answer
    carelessness: float = Field(default=0.03, ge=0, le=1)  # probability of judging without reading
    length_bias: float = 0.0  # worth of ten more words
    first_bias: float = 0.0  # worth of being shown first
    low_is_good: bool = False  # rates on a scale where 1 is the best

    def compare(
        self, prompt: Prompt, responses: Sequence[str], judges: Mapping[str, Judge], rng: random.Random, **about: Any
    ) -> Comparison:
        """Which of two answers is better overall; `about` is stored with the record (id, policy, created)."""
        order = self._shuffle(2, rng)
        verdict = Verdict.of(self.felt(prompt, responses, judges, None, order, rng))
        pair = (responses[0], responses[1])
        stamp = self._stamp(responses, order, rng)
        return Comparison(prompt=prompt.messages, responses=pair, **verdict._asdict(), **stamp, **about)

    def compare_by(
        self,
        criteria: Iterable[str],
        comparison: Comparison,
        prompt: Prompt,
        judges: Mapping[str, Judge],
        rng: random.Random,
    ) -> Comparison:
        """What they compared, by each criterion, too, without reading it again."""
        shown = comparison.order_shown or (0, 1)
        said = {by: Verdict.of(self.felt(prompt, comparison.responses, judges, by, shown, rng)) for by in criteria}
        seconds = None if comparison.seconds is None else round(comparison.seconds + VERDICT_SECONDS * len(said), 1)
        return comparison.model_copy(update=Verdict.by_criterion(said) | {"seconds": seconds})

    def rank(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        judges: Mapping[str, Judge],
        criterion: str | None,
        rng: random.Random,
        again: bool = False,
        **about: Any,
    ) -> Ranking:
        """All answers from the best (rank 1), overall or by one criterion; equal ranks are ties.

        Args:
            again: they have read the answers already.
        """
        order = self._shuffle(len(responses), rng)
        felt = self.felt(prompt, responses, judges, criterion, order, rng)
        ranks = tuple(1 + sum(other > own + TIE for other in felt) for own in felt)
        return Ranking(
            prompt=prompt.messages, responses=tuple(responses), ranks=ranks, criterion=criterion,
            **self._stamp(() if again else responses, order, rng), **about,
        )  # fmt: skip

    def rate(
        self, prompt: Prompt, response: str, judges: Mapping[str, Judge], rng: random.Random, **about: Any
    ) -> Rating:
        """1 to 3 on every criterion that applies, in this annotator's direction."""
        scores = {}
        for criterion in judges:
            if judges[criterion](prompt, response) is not None:
                (felt,) = self.felt(prompt, [response], judges, criterion, (0,), rng)
                level = 1 + (felt > 1 / 3) + (felt > 2 / 3)
                scores[criterion] = 4 - level if self.low_is_good else level
        return Rating(
            prompt=prompt.messages, responses=(response,), scores=scores, higher_is_better=not self.low_is_good,
            **self._stamp([response], (0,), rng, max(len(scores), 1)), **about,
        )  # fmt: skip

    def felt(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        judges: Mapping[str, Judge],
        criterion: str | None,
        order: Sequence[int],
        rng: random.Random,
    ) -> list[float]:
        """Worth of each response as this annotator feels it; identical answers feel the same.

        Args:
            order: the places of the responses from the first that is seen; its bias adds to that one.
        """
        careless = rng.random() < self.carelessness
        felt: dict[str, float] = {}
        for index in order:
            response = responses[index]
            if response not in felt:
                true = rng.random() if careless else worth(prompt, response, judges, criterion)
                bias = self.length_bias * len(response.split()) / 10 + self.first_bias * (index == order[0])
                felt[response] = true + bias + rng.gauss(0.0, self.noise)
        return [felt[response] for response in responses]

    @staticmethod
    def _shuffle(count: int, rng: random.Random) -> tuple[int, ...]:
        return tuple(rng.sample(range(count), count))

    def _stamp(
        self, read: Sequence[str], order: tuple[int, ...], rng: random.Random, verdicts: int = 1
    ) -> dict[str, Any]:
        return {"annotator": self.id, "order_shown": order, "seconds": reading_seconds(read, rng, verdicts)}


def reading_seconds(responses: Sequence[str], rng: random.Random, verdicts: int = 1) -> float:
    """How long a person takes to read, and to give so many verdicts."""
    words = sum(len(response.split()) for response in responses)
    return round(VERDICT_SECONDS * verdicts + words / READING_WORDS_PER_SECOND * rng.uniform(0.7, 1.5), 1)


def worth(prompt: Prompt, response: str, judges: Mapping[str, Judge], criterion: str | None) -> float:
    """What an answer is truly worth: by one criterion, or overall (the worst criterion, and a little of their mean)."""
    if criterion is not None:
        score = judges[criterion](prompt, response)
        return 0.5 if score is None else score
    scores = [score for judge in judges.values() if (score := judge(prompt, response)) is not None]
    return (1 - OVERALL_TASTE) * min(scores) + OVERALL_TASTE * sum(scores) / len(scores)


def on_simulated_clocks(records: Iterable[Judgement]) -> list[Judgement]:
    """The records with `created`: each annotator starts at `CLOCK_STARTS` and judges one after another, without pause.

    The times follow from the order and the `seconds` of the records, so from the seed: a resumed run says the same.
    """
    worked: dict[str | None, float] = {}
    stamped = []
    for record in records:
        seconds = worked[record.annotator] = worked.get(record.annotator, 0.0) + (record.seconds or 0.0)
        finished = CLOCK_STARTS + timedelta(seconds=round(seconds, 1))
        stamped.append(record.model_copy(update={"created": finished.isoformat(timespec="milliseconds")}))
    return stamped


def team(size: int, seed: int) -> list[SimulatedAnnotator]:
    """Annotators who differ: most are good, some are noisy, careless or biased."""
    rng = random.Random(f"annotators/{seed}")
    return [
        SimulatedAnnotator(
            id=f"annotator-{number:02d}",
            noise=round(rng.uniform(0.05, 0.2), 3),
            carelessness=round(rng.choice((0.01, 0.02, 0.03, 0.1)), 3),
            length_bias=round(rng.uniform(0.0, 0.05), 3),
            first_bias=round(rng.uniform(0.0, 0.06), 3),
            low_is_good=number % 3 == 2,
        )
        for number in range(size)
    ]
