"""Which of its own answers a policy is to learn from. The order in which they come never matters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from loopwright.data.chat import Example
from loopwright.errors import DataError
from loopwright.schemas import ScoredAnswer

Place = tuple[tuple[int, ...], float, int, tuple[int, ...]]


def best_of_each(answers: Iterable[ScoredAnswer], keep: int = 1) -> list[ScoredAnswer]:
    """The `keep` answers of each prompt that score highest (Touvron et al. 2023, sec. 3.2.2), each different one once.

    Of equal scores the shorter answer is better. An answer that comes with several scores has its highest.
    """
    chosen: list[ScoredAnswer] = []
    prompt: list[int] | None = None
    taken: set[tuple[int, ...]] = set()
    for answer in sorted(answers, key=_place):
        if answer.prompt_ids != prompt:
            prompt, taken = answer.prompt_ids, set()
        tokens = tuple(answer.response_ids)
        if len(taken) < keep and tokens not in taken:
            taken.add(tokens)
            chosen.append(answer)
    return chosen


def at_least(answers: Sequence[ScoredAnswer], threshold: float) -> list[ScoredAnswer]:
    """The answers that score `threshold` or more, as often as they were drawn (Gulcehre et al. 2023, sec. 3).

    Raises:
        DataError: there is none.
    """
    chosen = sorted((answer for answer in answers if answer.score >= threshold), key=_place)
    if not chosen:
        highest = max((answer.score for answer in answers), default=float("nan"))
        raise DataError(
            f"no answer scores {threshold:g} or more, the best of {len(answers)} has {highest:g}; lower the threshold"
        )
    return chosen


def score_quantile(answers: Sequence[ScoredAnswer], share: float) -> float:
    """The score below which a share of the answers lies."""
    return float(np.quantile([answer.score for answer in answers], share))


def examples_of(answers: Iterable[ScoredAnswer]) -> list[Example]:
    """The very tokens that were sampled, to learn from."""
    return [Example(answer.prompt_ids, answer.response_ids) for answer in answers]


def _place(answer: ScoredAnswer) -> Place:
    """Prompts one after another, the best answer first: an order of the answers themselves."""
    return tuple(answer.prompt_ids), -answer.score, len(answer.response_ids), tuple(answer.response_ids)
