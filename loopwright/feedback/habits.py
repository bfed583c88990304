"""Pulls that have nothing to do with the answers' worth: towards the one shown first, towards the longer one."""

from collections.abc import Hashable, Iterable
from typing import Any

from loopwright.feedback.statistics.pulls import pull
from loopwright.schemas import Comparison, Judgement

Hits = list[tuple[Hashable, bool]]  # of each comparison its prompt, and whether that side was chosen


def position_bias(judgements: Iterable[Judgement]) -> dict[str, Any] | None:
    """How often the answer shown first was chosen; None where no comparison says what was shown first.

    Comparisons only, ties left out: the pairs of one ranking are not independent, and their interval would be too
    narrow.
    """
    chosen_first: Hits = []
    for one in judgements:
        if not isinstance(one, Comparison) or one.responses[0] == one.responses[1]:
            continue
        if one.choice is not None and one.order_shown is not None:
            chosen_first.append((_prompt(one), one.choice == one.order_shown[0]))
    return _share(chosen_first)


def length_bias(judgements: Iterable[Judgement]) -> dict[str, Any] | None:
    """How often the answer with more words was chosen, where one has more; None where none has.

    Unlike for the first place, one half is no standard: better answers may be the longer ones for good reasons.
    """
    chosen_longer: Hits = []
    for one in judgements:
        if isinstance(one, Comparison) and one.choice is not None:
            words = [len(text.split()) for text in one.responses]
            if words[0] != words[1]:
                chosen_longer.append((_prompt(one), words[one.choice] > words[1 - one.choice]))
    return _share(chosen_longer)


def _prompt(one: Comparison) -> Hashable:
    """What comparisons hang together by; two texts without a prompt stand alone."""
    return one.prompt or frozenset(one.responses)


def _share(hits: Hits) -> dict[str, Any] | None:
    """The share of hits with its interval, comparisons of one prompt taken together."""
    if not hits:
        return None
    prompts: dict[Hashable, int] = {}
    clusters = [prompts.setdefault(prompt, len(prompts)) for prompt, _ in hits]
    share, needed, enough = pull([hit for _, hit in hits], clusters)
    return {
        "mean": share.value,
        "low": share.low,
        "high": share.high,
        "comparisons": share.labels,
        "independent": share.independent,
        "needed": needed,
        "enough": enough,
    }
