"""How far people agree beyond chance, on millions of votes. What is not defined says why, and is not a number."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loopwright.feedback.intervals import effective_number_of_sums, wilson_interval
from loopwright.feedback.statistics.votes import Codes, Floats, Together, Votes, codes, counted

Level = Literal["nominal", "ordinal", "interval"]
Counts = tuple[Codes, Codes]  # distinct numbers, and how often each occurs
NOBODY_TWICE = "nothing was judged by two people; let some of it be judged twice"
ALL_THE_SAME = "everyone gave the same answer everywhere, so chance would agree as well"


class Agreement(NamedTuple):
    """A coefficient, or why there is none."""

    value: float | None
    undefined: str | None
    units: int  # things judged by at least two people

    def as_dict(self) -> dict[str, Any]:
        return self._asdict()


class Kappa(NamedTuple):
    """The agreement of two people, by name."""

    annotators: tuple[Any, Any]
    agreement: Agreement


class FleissKappa(NamedTuple):
    """A kappa of the items that exactly `raters` people judged; `left_out` are the codes of all other items."""

    agreement: Agreement
    raters: int
    left_out: Codes


class PercentAgreement(NamedTuple):
    """The share of agreeing pairs of votes on one item, with its interval; or why there is none."""

    value: float | None
    low: float | None
    high: float | None
    undefined: str | None
    comparisons: int  # pairs of votes

    def as_dict(self) -> dict[str, Any]:
        return self._asdict()


def krippendorff_alpha(votes: Votes, level: Level = "nominal") -> Agreement:
    """1 - observed disagreement / expected disagreement (Krippendorff 2011, "Computing Krippendorff's alpha").

    With D(u) the distance d(c, k) summed over all ordered pairs of votes of an item u with m[u] > 1 votes, and D the
    same over all ordered pairs of all n votes on such items, whatever they are on:
        alpha = 1 - (sum of D(u) / (m[u] - 1)) / (D / (n - 1))
    where d is [c != k] (nominal), (c - k)^2 (interval), or (sum of n[g] for g from c to k, - (n[c] + n[k]) / 2)^2
    (ordinal), with n[g] the votes for g.

    Args:
        level: what the values mean: names, an order, or distances. Items with a single vote say nothing.

    Raises:
        ValueError: distances were asked for between values that are not finite numbers.
    """
    judged = votes.votes_of_item > 1
    units = int(judged.sum())
    if not units:
        return Agreement(None, NOBODY_TWICE, 0)
    kept = judged[votes.cells.item]
    item, value, count = votes.cells.item[kept], votes.cells.value[kept], votes.cells.people[kept].astype(float)
    totals: Floats = np.bincount(value, weights=count, minlength=len(votes.values)).astype(float)
    if np.count_nonzero(totals) < 2:
        return Agreement(None, ALL_THE_SAME, units)
    places = _places(level, votes.values, totals)
    within = _disagreement(item, value, count, places)
    observed = float(np.sum(within / np.maximum(np.bincount(item, weights=count) - 1.0, 1.0)))
    (everything,) = _disagreement(np.zeros_like(totals, dtype=np.int64), np.arange(len(totals)), totals, places)
    return Agreement(1.0 - observed * (float(totals.sum()) - 1.0) / float(everything), None, units)


def _places(level: Level, values: Iterable[Any], totals: Floats) -> Floats | None:
    """Where each value lies on a line, of which distances are the squares; None where values are only names."""
    if level == "nominal":
        return None
    if level == "ordinal":
        return np.cumsum(totals) - totals / 2  # half of its own: the ends of a stretch count half
    try:
        places = np.array([float(one) for one in values])
    except (TypeError, ValueError) as error:
        raise ValueError(f"there are no distances between votes that are not numbers: {error}") from error
    if not np.isfinite(places).all():
        raise ValueError("an infinite vote has no distance from the others; leave it out or use the ordinal level")
    return _from_0_to_1(places, totals > 0)


def _from_0_to_1(places: Floats, used: NDArray[np.bool_]) -> Floats:
    """Alpha depends on neither zero nor unit; squares of huge and tiny numbers do. What is not used lies at 0."""
    scaled = np.where(used, places, 0.0) / np.abs(places[used]).max()
    scaled = np.where(used, scaled - scaled[used].min(), 0.0)
    return scaled / scaled.max()


def _disagreement(item: Codes, value: Codes, count: Floats, places: Floats | None) -> Floats:
    """[items] the distance summed over all ordered pairs of votes of each item, from its cells; 0 without any."""
    votes: Floats = np.bincount(item, weights=count).astype(float)
    if places is None:
        return np.square(votes) - np.bincount(item, weights=np.square(count))
    place = places[value]
    mean = np.bincount(item, weights=count * place) / np.maximum(votes, 1.0)
    squares: Floats = np.bincount(item, weights=count * np.square(place - mean[item])).astype(float)
    return 2.0 * votes * squares  # all ordered pairs of m numbers: 2 m times the squares about their mean


def cohen_kappas(votes: Votes, *, at_least: int = 1) -> list[Kappa]:
    """(observed - chance) / (1 - chance) agreement of each two people on what both judged (Cohen 1960).

    Args:
        at_least: items that two people must have in common to be listed. Of few, kappa is mostly noise.
    """
    kinds, people = max(len(votes.values), 1), max(len(votes.annotators), 1)
    pair, common = _tally(counted(_two(votes, batch)) for batch in votes.together())
    pair, common = pair[common >= at_least], common[common >= at_least]
    if not len(pair):
        return []
    by_first, by_second, alike = [], [], []
    for batch in votes.together():
        two = _two(votes, batch)
        place = np.searchsorted(pair, two)
        listed = np.flatnonzero(pair[np.minimum(place, len(pair) - 1)] == two)
        place, first, second = place[listed], votes.value[batch.first[listed]], votes.value[batch.second[listed]]
        by_first.append(counted(place * kinds + first))
        by_second.append(counted(place * kinds + second))
        alike.append(counted(place[first == second]))
    agreed = np.zeros(len(pair), dtype=np.int64)
    same, times = _tally(alike)
    agreed[same] = times
    chance = _by_chance(_tally(by_first), _tally(by_second), kinds, len(pair))
    return [
        Kappa((votes.annotators[one // people], votes.annotators[one % people]), _kappa(*of_pair))
        for one, *of_pair in zip(*(a.tolist() for a in (pair, agreed, chance, common)), strict=True)
    ]


def _two(votes: Votes, batch: Together) -> Codes:
    """Which two annotators each pair of votes is of, as one number."""
    return votes.annotator[batch.first] * max(len(votes.annotators), 1) + votes.annotator[batch.second]


def _by_chance(first: Counts, second: Counts, kinds: int, pairs: int) -> Codes:
    """[pairs] the sum over values of how often the first said it times how often the second did."""
    _, in_first, in_second = np.intersect1d(first[0], second[0], assume_unique=True, return_indices=True)
    chance = np.zeros(pairs, dtype=np.int64)
    np.add.at(chance, first[0][in_first] // kinds, first[1][in_first] * second[1][in_second])
    return chance


def _kappa(agreed: int, by_chance: int, common: int) -> Agreement:
    """From how often two people agreed on `common` items, and how often of common^2 by chance."""
    if by_chance == common**2:
        return Agreement(None, ALL_THE_SAME, common)
    chance = by_chance / common**2
    return Agreement((agreed / common - chance) / (1.0 - chance), None, common)


def _tally(parts: Iterable[Counts]) -> Counts:
    """How often each number occurs in several arrays, from how often it does in each."""
    nothing = np.zeros(0, dtype=np.int64)
    numbers, counts = map(np.concatenate, zip((nothing, nothing), *parts, strict=True))
    order = np.argsort(numbers, kind="stable")
    distinct, times = counted(numbers)
    return distinct, np.add.reduceat(counts[order], np.cumsum(times) - times) if len(distinct) else counts


def fleiss_kappa(votes: Votes, *, raters: int | None = None) -> FleissKappa:
    """(observed - chance) / (1 - chance) agreement of a fixed number of people per item (Fleiss 1971).

    They need not be the same on each. With p[j] the share of all votes for j and n[i, j] those for it on item i, chance
    is the sum of p[j]^2, and observed the mean over items of the sum of n[i, j] (n[i, j] - 1) / (raters (raters - 1)).

    Args:
        raters: people per item; items with more or fewer are left out. None: the number that most items have, at
            least two, and the larger where two numbers are as frequent.
    """
    size = votes.votes_of_item
    if raters is None:
        frequency = np.bincount(size, minlength=3)[2:]
        raters = len(frequency) + 1 - int(np.argmax(frequency[::-1]))
    elif raters < 2:
        raise ValueError(f"Fleiss' kappa compares at least 2 raters per item, got {raters}")
    kept = size == raters
    left_out, units = np.flatnonzero(~kept), int(kept.sum())
    if not units:
        reason = NOBODY_TWICE if not (size > 1).any() else f"no item was judged by exactly {raters} people"
        return FleissKappa(Agreement(None, reason, 0), raters, left_out)
    item, value, count = votes.cells
    value, count = value[kept[item]], count[kept[item]]
    totals = np.bincount(value, weights=count)
    if np.count_nonzero(totals) < 2:
        return FleissKappa(Agreement(None, ALL_THE_SAME, units), raters, left_out)
    observed = float(np.sum(count * (count - 1))) / (units * raters * (raters - 1))
    chance = float(np.sum((totals / totals.sum()) ** 2))
    return FleissKappa(Agreement((observed - chance) / (1.0 - chance), None, units), raters, left_out)


def percent_agreement(votes: Votes, clusters: ArrayLike | None = None) -> PercentAgreement:
    """How many of all two votes on one item are the same, with Wilson's interval at their effective number.

    Args:
        clusters: [items] what hangs together, such as the prompt an item belongs to; None: each item stands alone.
            Three votes on one item hang together in any case.
    """
    size = votes.votes_of_item
    judged = int(np.count_nonzero(size > 1))
    if not judged:
        return PercentAgreement(None, None, None, NOBODY_TWICE, 0)
    of_item = np.arange(len(size)) if clusters is None else codes(np.asarray(clusters))[1]
    if len(of_item) != len(size):
        raise ValueError(f"each of the {len(size)} items needs its cluster, got {len(of_item)}")
    item, _, count = votes.cells
    agreeing = np.bincount(of_item[item], weights=count * (count - 1) / 2)
    pairs = np.bincount(of_item, weights=size * (size - 1) / 2)
    agreeing, pairs = agreeing[pairs > 0], pairs[pairs > 0]
    comparisons = int(pairs.sum())
    independent = min(effective_number_of_sums(agreeing, pairs, pairs), judged)
    interval = wilson_interval(float(agreeing.sum()) / comparisons, independent)
    return PercentAgreement(*interval, None, comparisons)
