"""How reliable each annotator is: against the others (Dawid and Skene 1979), and against gold items."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loopwright.feedback.intervals import wilson_interval
from loopwright.feedback.statistics.agreement import ALL_THE_SAME, NOBODY_TWICE
from loopwright.feedback.statistics.estimates import Estimate
from loopwright.feedback.statistics.votes import Floats, Votes

SMOOTHING = 0.5  # votes added to each cell of each annotator's confusion matrix
TOLERANCE = 1e-4  # largest change of a probability of the model at which it is taken to stand still
MAX_ITERATIONS = 200
NOBODY_ELSE = "nothing this annotator judged was judged by anybody else"
NO_GOLD = Estimate(None, None, None, "this annotator has judged no gold item yet", 0, 0.0)
SAYS_LITTLE = "what the others said does not settle this annotator's items; let more people judge them"


class DawidSkene(NamedTuple):
    """A model of who is right; everything is None where `undefined` says why there is none."""

    prior: Floats | None  # [values] how frequent each true value is
    confusion: Floats | None  # [annotators, values, values] probability of each vote (column) given the truth (row)
    posterior: Floats | None  # [items, values] probability that each value is true; the prior where nobody voted
    accuracy: list[Estimate] | None  # [annotators] how often each is right on items that others judged too
    converged: bool
    iterations: int
    undefined: str | None


def dawid_skene(
    votes: Votes,
    *,
    smoothing: float = SMOOTHING,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> DawidSkene:
    """Each item's true value and each annotator's errors, from votes alone, by EM.

    Dawid and Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM algorithm": given the
    truth, annotators err independently, each with a confusion matrix of their own. EM starts from the shares of votes,
    so it is deterministic and the majority names the values. It is fitted to items that two people judged: a single
    vote cannot show an error. The estimates are posterior modes under `smoothing` imagined votes in each cell.

    Args:
        smoothing: > 0, so that a few votes never show an annotator to be infallible.
    """
    if not (smoothing > 0 and tolerance > 0 and max_iterations > 0):
        raise ValueError(
            "smoothing, tolerance and max_iterations must be positive, got "
            f"{smoothing}, {tolerance} and {max_iterations}"
        )
    twice = votes.votes_of_item > 1
    reason = NOBODY_TWICE if not twice.any() else ALL_THE_SAME if len(votes.values) == 1 else None
    if reason:
        return DawidSkene(None, None, None, None, False, 0, reason)
    fitted = votes.only(twice[votes.item])
    posterior = _vote_shares(fitted)
    prior, confusion = _maximise(fitted, posterior, twice, smoothing)
    converged, iterations = False, 0
    while not converged and iterations < max_iterations:
        posterior = _posterior(fitted, prior, confusion)
        before, (prior, confusion) = (prior, confusion), _maximise(fitted, posterior, twice, smoothing)
        change = max(np.abs(prior - before[0]).max(), np.abs(confusion - before[1]).max())
        converged, iterations = bool(change < tolerance), iterations + 1
    posterior = _posterior(votes, prior, confusion)
    return DawidSkene(prior, confusion, posterior, _accuracies(fitted, posterior), converged, iterations, None)


def _vote_shares(votes: Votes) -> Floats:
    """[items, values] what share of the votes on an item each value has."""
    shares = np.zeros((len(votes.items), len(votes.values)), order="F")
    shares[votes.cells.item, votes.cells.value] = votes.cells.people
    return shares / np.maximum(votes.votes_of_item, 1)[:, None]


def _maximise(votes: Votes, posterior: Floats, fitted: NDArray[np.bool_], smoothing: float) -> tuple[Floats, Floats]:
    """The prior and the confusion matrices that fit the posterior best."""
    people, kinds = len(votes.annotators), len(votes.values)
    cell = votes.annotator * kinds + votes.value
    confusion = np.empty((people, kinds, kinds))
    for truth in range(kinds):
        expected = np.bincount(cell, weights=posterior[:, truth][votes.item], minlength=people * kinds)
        confusion[:, truth, :] = expected.reshape(people, kinds)
    confusion += smoothing
    prior = fitted.astype(float) @ posterior + smoothing
    return prior / prior.sum(), confusion / confusion.sum(axis=2, keepdims=True)


def _posterior(votes: Votes, prior: Floats, confusion: Floats) -> Floats:
    """[items, values] in log space: many votes multiply to less than a float can hold."""
    log_confusion, kinds = np.log(confusion), len(prior)
    cell = votes.annotator * kinds + votes.value
    log_joint = np.empty((len(votes.items), kinds), order="F")  # a column is read at a time
    for truth in range(kinds):
        of_vote = log_confusion[:, truth, :].reshape(-1)[cell]
        log_joint[:, truth] = np.bincount(votes.item, weights=of_vote, minlength=len(votes.items))
    log_joint += np.log(prior)
    joint = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    return joint / joint.sum(axis=1, keepdims=True)


def _accuracies(votes: Votes, posterior: Floats) -> list[Estimate]:
    """How often each annotator is right, with Wilson's interval at the number of votes that the truth was known for.

    With p the posterior of an annotator's n votes and a their mean, the information on a is that of known truths,
    n / (a (1 - a)), less what is missing, sum p (1 - p) / (a (1 - a))^2 (Louis 1982, the rest of the model held
    fixed): as much as n - sum p (1 - p) / (a (1 - a)) known truths bring.
    """
    right = posterior[votes.item, votes.value]
    people = len(votes.annotators)
    number = np.bincount(votes.annotator, minlength=people)
    sums = np.bincount(votes.annotator, weights=right, minlength=people)
    unsure = np.bincount(votes.annotator, weights=right * (1 - right), minlength=people)
    return [_accuracy(*one) for one in zip(number.tolist(), sums.tolist(), unsure.tolist(), strict=True)]


def _accuracy(number: int, right: float, unsure: float) -> Estimate:
    if not number:
        return Estimate(None, None, None, NOBODY_ELSE, 0, 0.0)
    shrunk = (right + 1.0) / (number + 2.0)  # off the ends, where nothing seems to be known
    known = number - unsure / (shrunk * (1.0 - shrunk))
    if known < 1.0:
        return Estimate(None, None, None, SAYS_LITTLE, number, max(known, 0.0))
    return Estimate(*wilson_interval(min(right / number, 1.0), known), None, number, known)


def gold_accuracy(votes: Votes, gold: Mapping[Hashable, Any]) -> list[Estimate]:
    """[annotators] how often each said what an expert did, with Wilson's interval.

    Args:
        gold: the right value of some items, by name; the others do not count.
    """
    place = {value: code for code, value in enumerate(votes.values)}
    right = np.full(len(votes.items), -1)
    for code, item in enumerate(votes.items):
        if item in gold:
            right[code] = place.get(gold[item], len(place))  # nobody said it: everyone is wrong
    on_gold = right[votes.item] >= 0
    by, hit = votes.annotator[on_gold], votes.value[on_gold] == right[votes.item[on_gold]]
    number, hits = (np.bincount(one, minlength=len(votes.annotators)).tolist() for one in (by, by[hit]))
    return [
        Estimate(*wilson_interval(of / all_of, all_of), None, all_of, all_of) if all_of else NO_GOLD
        for of, all_of in zip(hits, number, strict=True)
    ]
