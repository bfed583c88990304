"""When to trust a reward model and when not: everything in an assessment, as one JSON value.

The parts stand alone: `judged_pairs` (accuracy by group), `temperature` (calibration), `learning_curve`,
`sensitivity`, `worthless_answers`. docs/reward_assessment.md says how to read each figure.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from loopwright.errors import DataError
from loopwright.evaluation.judged_pairs import JudgedPair, Messages, accuracy, accuracy_by_group, in_order
from loopwright.evaluation.learning_curve import CurvePoint, forecast
from loopwright.evaluation.sensitivity import AnswerPair, Rewording, Score, sensitivity
from loopwright.evaluation.temperature import calibration_report
from loopwright.evaluation.worthless_answers import worthless_answers
from loopwright.feedback.agreement import agreement_report
from loopwright.feedback.consistency import consistency_report
from loopwright.feedback.verdicts import pair_of
from loopwright.schemas import Judgement

T = TypeVar("T")

MOST_PAIRS_CHANGED = 200  # whose answers are changed: each is scored once for every change; also of reworded questions


def assess_pairs(
    pairs: Sequence[JudgedPair],
    *,
    scale: float = 1.0,
    score: Score | None = None,
    rewordings: Sequence[Rewording] = (),
    points: Sequence[CurvePoint] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """What `assessment.json` holds (but for `data`, see `data_report`); the order of the pairs never matters.

    Args:
        pairs: held-out ones, see `judged_pairs`; ties count only as votes of annotators.
        scale: P(first preferred) = sigmoid(scale * (first - second)).
        score: the model; without it there is neither `sensitivity` nor `worthless`.
        rewordings: questions asked in two ways, see `rewordings_of`; the first 200 are scored.
        points: of a learning curve; without them there is no forecast.

    Sensitivity and worthless answers are None where the answers do not allow them.
    """
    if rewordings and score is None:
        raise ValueError("rewordings have no effect without score; give the model, or leave them out")
    pairs = in_order(pairs)
    overall = accuracy(pairs)
    if overall is None:
        score = None
    changed, rewordings = _sample(pairs), rewordings[:MOST_PAIRS_CHANGED]
    return {
        "pairs": len(pairs),
        "ties": sum(pair.record.choice is None for pair in pairs),
        "interval": "Wilson, 95 %, at the effective number of pairs",
        "accuracy": overall,
        "by": accuracy_by_group(pairs),
        "calibration": calibration_report(pairs, scale),
        "learning_curve": forecast(points, seed=seed) if points else None,
        "sensitivity": None if score is None else _if_any(lambda: sensitivity(score, changed, rewordings, seed=seed)),
        "worthless": None if score is None else _if_any(lambda: worthless_answers(score, _answers(changed), seed=seed)),
    }


def data_report(train: Sequence[Judgement], held_out: Sequence[Judgement]) -> dict[str, Any]:
    """The `data` of `assessment.json`: what is wrong with the judgements, and how far people agree in all of them."""
    try:
        consistency = consistency_report(train, held_out)
    except DataError as error:  # every pair is a tie; a model that was trained on other judgements may be good
        consistency = {"sentences": [f"{error}."]}
    return {
        "consistency": consistency,
        "agreement": agreement_report([*train, *held_out]),
    }


def _if_any(part: Callable[[], T]) -> T | None:
    """None where the answers do not allow it, such as blank ones."""
    try:
        return part()
    except DataError:
        return None


def _sample(pairs: Sequence[JudgedPair]) -> list[AnswerPair]:
    """The first pairs by the SHA-256 of prompt and answers, each once."""
    distinct = {pair_of(pair.record): pair.record for pair in pairs}
    keys = sorted(distinct, key=lambda key: hashlib.sha256(repr(tuple(key)).encode()).digest())[:MOST_PAIRS_CHANGED]
    return [AnswerPair(distinct[key].prompt, key.a, key.b) for key in keys]


def _answers(pairs: Sequence[AnswerPair]) -> dict[Messages, list[str]]:
    found: dict[Messages, dict[str, None]] = {}
    for pair in pairs:
        found.setdefault(pair.prompt, {}).update({pair.first: None, pair.second: None})
    return {prompt: list(texts) for prompt, texts in found.items()}
