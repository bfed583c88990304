"""Answers that were all called bad teach nothing alone: they are compared with better ones to the same prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from loopwright.feedback.pairs import BETTER_ONES, Converted, Label, Preference, add_pair, check_both_kinds
from loopwright.schemas import Correction, Judgement, Message

Sampler = Callable[
    [Sequence[Label]], Sequence[str | None]
]  # another answer to the prompt of each label, if there is one


def only_bad(found: Converted) -> bool:
    """Whether there are thumbs (or what became thumbs), and all of them are down."""
    thumbs = [label.target for label in found.labels if label.kind == "thumb"]
    return bool(thumbs) and not any(thumbs)


def compare_bad_answers(
    found: Converted, judgements: Iterable[Judgement], sample: Sampler | None = None, *, required: bool = True
) -> None:
    """Pairs of answers that were called bad, with what people wrote instead, or else with samples of a policy.

    An answer that stands in a correction is in its pairs already, and only counted; so is one beside which there is
    nothing better, which is left out.

    Args:
        judgements: those that were converted.
        sample: None: without samples.
        required: nothing to compare is an error.

    Raises:
        DataError: nothing was compared.
    """
    bad, others = ([one for one in found.labels if (one.kind == "thumb") == thumb] for thumb in (True, False))
    alone = _below_corrections(bad, found, judgements)
    if sample is not None:
        alone = _below_samples(alone, found, sample)
    if required and len(alone) == len(bad):
        check_both_kinds([one.target for one in bad], BETTER_ONES)
    found.counts["left_out_bad_answers_alone"] += len(alone)
    found.labels = others


def _below_corrections(bad: Sequence[Label], found: Converted, judgements: Iterable[Judgement]) -> list[Label]:
    """Those to whose prompts there is no correction."""
    corrections: dict[tuple[Message, ...], list[Correction]] = defaultdict(list)
    for one in judgements:
        if isinstance(one, Correction):
            corrections[one.prompt].append(one)
    for label in bad:
        of_prompt = corrections.get(label.prompt, [])
        found.counts["bad_answers_below_corrections"] += bool(of_prompt)
        if not any(label.response in one.responses for one in of_prompt):
            for one in of_prompt:
                _compare(one.edited, label, found)
    return [label for label in bad if label.prompt not in corrections]


def _below_samples(bad: Sequence[Label], found: Converted, sample: Sampler) -> list[Label]:
    """Those for which there is no sample."""
    samples = sample(bad) if bad else []
    for label, answer in zip(bad, samples, strict=True):
        if answer is not None:
            found.counts["bad_answers_below_samples"] += 1
            _compare(answer, label, found)
    return [label for label, answer in zip(bad, samples, strict=True) if answer is None]


def _compare(better: str, label: Label, found: Converted) -> None:
    add_pair(Preference(label.prompt, (better, label.response), 0, annotator=label.annotator), found)
