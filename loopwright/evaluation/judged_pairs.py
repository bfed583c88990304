"""How often a reward model prefers what people chose: over all held-out pairs, and by kind of pair.

Nothing here depends on which answer of a pair was stored first, nor on the order of the pairs. Equal scores count half.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from loopwright.feedback.agreement import votes_by_pair
from loopwright.feedback.intervals import effective_number, wilson_interval
from loopwright.feedback.verdicts import Pair, as_comparisons, pair_of, verdicts
from loopwright.schemas import Comparison, Message, Ranking, Strength, is_ai

Messages = tuple[Message, ...]
Cell = dict[str, Any]  # mean, low, high, pairs, prompts

FEW_MARGINS = 6  # as many different margins are groups of their own; of more, the quarters are
WORDS = ((1, 5), (6, 20), (21, None))  # bins of the difference in length


class JudgedPair(NamedTuple):
    """A comparison, and the model's score of each of its responses."""

    record: Comparison
    first_score: float
    second_score: float
    tags: Mapping[str, Any]  # of the prompt

    @property
    def margin(self) -> float | None:
        """By how much the chosen answer scores higher; None for a tie."""
        if self.record.choice is None:
            return None
        return (self.first_score - self.second_score) * (1 if self.record.choice == 0 else -1)

    @property
    def right(self) -> float | None:
        """1 where the chosen answer scores higher, 0 where the other does, 1/2 for equal scores; None for a tie."""
        return None if self.margin is None else 0.5 * (1 + (self.margin > 0) - (self.margin < 0))


def judged_pairs(
    judgements: Iterable[Comparison | Ranking],
    scores: Mapping[tuple[Messages, str], float],
    tags: Mapping[Messages, Mapping[str, Any]],
) -> list[JudgedPair]:
    """Every judged pair of two different texts that both have a score; a ranking counts as all pairs it orders.

    Args:
        judgements: held-out ones.
        scores: (prompt, response) -> the model's score; a response that the model cannot read has none.
        tags: prompt -> its tags; those of a prompt that is missing are empty.
    """
    found = []
    for judgement in judgements:
        for one in as_comparisons(judgement):
            first, second = (scores.get((one.prompt, response)) for response in one.responses)
            if first is not None and second is not None and one.responses[0] != one.responses[1]:
                found.append(JudgedPair(one, first, second, tags.get(one.prompt, {})))
    return found


def in_order(pairs: Iterable[JudgedPair]) -> list[JudgedPair]:
    """The pairs with the answer whose text sorts first as their first, sorted: the same however they were stored."""
    turned = [
        pair
        if pair.record.responses[0] <= pair.record.responses[1]
        else JudgedPair(pair.record.swap(), pair.second_score, pair.first_score, pair.tags)
        for pair in pairs
    ]
    return sorted(
        turned, key=lambda pair: (pair_of(pair.record), pair.record.annotator or "", pair.record.id, str(pair.margin))
    )


def accuracy(pairs: Iterable[JudgedPair]) -> Cell | None:
    """The share called right, with Wilson's 95 % interval at the effective number of pairs; None without a decided one.

    Pairs of one prompt are judged alike and share answers, so they count as fewer: their number over the design effect
    (Kish 1965), which is the variance of the share over prompts by that over as many independent pairs. Where all are
    right, or all wrong, it cannot be seen, and the prompts are counted.
    """
    by_prompt: dict[Messages, list[float]] = {}
    for pair in pairs:
        if pair.right is not None:
            by_prompt.setdefault(pair.record.prompt or _alone(pair), []).append(pair.right)
    if not by_prompt:
        return None
    count = sum(map(len, by_prompt.values()))
    share = math.fsum(hit for hits in by_prompt.values() for hit in hits) / count
    interval = wilson_interval(share, effective_number(list(by_prompt.values())))
    return interval.as_dict() | {"pairs": count, "prompts": len(by_prompt)}


def _alone(pair: JudgedPair) -> Messages:
    """What stands for the prompt of two texts without one."""
    return tuple(Message(role="user", content=text) for text in sorted(pair.record.responses))


def accuracy_by_group(pairs: Sequence[JudgedPair]) -> dict[str, list[Cell]]:
    """Grouping -> its groups in order, each {"group", mean, low, high, pairs, prompts}; see docs/reward_assessment.md.

    A grouping that the records say nothing of is empty; a pair that a grouping does not apply to is in none of its
    groups.
    """
    votes = votes_by_pair(verdicts(pair.record for pair in pairs))
    margins = _margin_groups(pairs)
    tables = {
        "strength": _table(pairs, lambda pair: pair.record.strength, get_args(Strength)),
        "margin": _table(pairs, lambda pair: margins(pair.record.margin), None),
        "agreement": _table(pairs, lambda pair: _agreement(votes, pair), ("unanimous", "split", "one annotator")),
        "chosen": _table(pairs, _chosen_length, ("longer", "shorter", "as long")),
        "words": _table(pairs, _word_bin, [_bin_name(*ends) for ends in ((0, 0), *WORDS)]),
        "task": _table(pairs, lambda pair: None if (t := pair.tags.get("task")) is None else str(t), None),
        "source": _table(pairs, lambda pair: _source(pair.record.annotator), ("people", "models")),
        "annotator": _table(pairs, lambda pair: pair.record.annotator, None),
    }
    for row in tables["agreement"]:
        if row["group"] == "split":
            row["best_possible"] = _best_possible(votes, pairs)
    return tables


def _table(
    pairs: Iterable[JudgedPair], group: Callable[[JudgedPair], str | None], order: Sequence[str] | None
) -> list[Cell]:
    groups: dict[str, list[JudgedPair]] = {}
    for pair in pairs:
        if (name := group(pair)) is not None:
            groups.setdefault(name, []).append(pair)
    names = sorted(groups, key=_by_number) if order is None else [name for name in order if name in groups]
    cells = {name: accuracy(groups[name]) for name in names}
    return [{"group": name, **cell} for name, cell in cells.items() if cell is not None]


def _by_number(name: str) -> tuple[float, str]:
    """Groups that start with a number in its order, the others by name."""
    try:
        return float(name.split()[0]), name
    except (ValueError, IndexError):
        return math.inf, name


def _margin_groups(pairs: Sequence[JudgedPair]) -> Callable[[float | None], str | None]:
    stated = np.array([pair.record.margin for pair in pairs if pair.record.margin is not None])
    if len(set(stated.tolist())) <= FEW_MARGINS:
        return lambda margin: None if margin is None else f"{margin:g}"
    ends = sorted(set(np.quantile(stated, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()))

    def name(margin: float | None) -> str | None:
        if margin is None:
            return None
        place = min(int(np.searchsorted(ends, margin, side="right")), len(ends) - 1)
        return f"{ends[place - 1]:g} to {ends[place]:g}"

    return name


def _source(annotator: str | None) -> str | None:
    """A model's label is no person's; nobody knows whose one without a name is."""
    return None if annotator is None else "models" if is_ai(annotator) else "people"


def _agreement(votes: Mapping[Pair, Mapping[str, int]], pair: JudgedPair) -> str | None:
    given = votes.get(pair_of(pair.record))
    if given is None:
        return None
    return "one annotator" if len(given) == 1 else "unanimous" if len(set(given.values())) == 1 else "split"


def _best_possible(votes: Mapping[Pair, Mapping[str, int]], pairs: Iterable[JudgedPair]) -> float:
    """The accuracy on split pairs of a model that always sides with the majority: no model gets more."""
    most = total = 0
    for pair in {pair_of(pair.record) for pair in pairs}:
        given = list(votes.get(pair, {}).values())
        if len(set(given)) > 1:
            sides = given.count(1), given.count(-1)
            most, total = most + max(sides), total + sum(sides)
    return most / total


def _chosen_length(pair: JudgedPair) -> str | None:
    more = _words_more(pair)
    return None if more is None else "longer" if more > 0 else "shorter" if more < 0 else "as long"


def _word_bin(pair: JudgedPair) -> str | None:
    more = _words_more(pair)
    if more is None:
        return None
    ends = next((ends for ends in WORDS if abs(more) >= ends[0] and (ends[1] is None or abs(more) <= ends[1])), (0, 0))
    return _bin_name(*ends)


def _bin_name(low: int, high: int | None) -> str:
    return f"{low} or more words" if high is None else f"{low} to {high} words" if high else "none"


def _words_more(pair: JudgedPair) -> int | None:
    """How many more words the chosen answer has than the other."""
    if pair.record.choice is None:
        return None
    words = [len(text.split()) for text in pair.record.responses]
    return words[pair.record.choice] - words[1 - pair.record.choice]
