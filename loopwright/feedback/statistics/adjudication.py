"""Which items people disagree on most, so that somebody decides."""

from typing import Any, NamedTuple

import numpy as np

from loopwright.feedback.statistics.votes import Floats, Votes


class Disputed(NamedTuple):
    item: Any  # its name
    entropy_nats: float
    votes: dict[Any, int]  # how many people said what


def to_adjudicate(votes: Votes, posterior: Floats | None = None, *, at_most: int = 100) -> list[Disputed]:
    """The items that people disagree on, most disputed first; of equally disputed ones those with more votes.

    Args:
        posterior: [items, values] of `dawid_skene`: then what counts is how open the truth is once it is known who errs
            how often, and single votes of unreliable people are disputed too. None: the shares of votes.
        at_most: how many to name.
    """
    if posterior is not None and posterior.shape != (len(votes.items), len(votes.values)):
        raise ValueError(
            f"the posterior is of other votes: its shape is {posterior.shape}, "
            f"but there are {len(votes.items)} items and {len(votes.values)} values"
        )
    entropy = vote_entropy(votes) if posterior is None else posterior_entropy(posterior)
    entropy = np.where(votes.votes_of_item > 0, np.round(entropy, 12), 0.0)  # rounding must not rank
    disputed = np.flatnonzero(entropy)
    order = np.lexsort((disputed, -votes.votes_of_item[disputed], -entropy[disputed]))
    return [_disputed(votes, int(item), float(entropy[item])) for item in disputed[order[:at_most]]]


def vote_entropy(votes: Votes) -> Floats:
    """[items] - sum p log p over the shares p of votes, in nats; 0 where all agree or nobody voted."""
    item, _, people = votes.cells
    share = people / votes.votes_of_item[item]
    return np.bincount(item, weights=-share * np.log(share), minlength=len(votes.items)).astype(float)


def posterior_entropy(posterior: Floats) -> Floats:
    """[items] - sum p log p of each row, in nats, where 0 log 0 is 0."""
    return -(posterior * np.log(np.where(posterior > 0, posterior, 1.0))).sum(axis=1)


def _disputed(votes: Votes, item: int, entropy: float) -> Disputed:
    start, end = np.searchsorted(votes.cells.item, (item, item + 1))
    cells = zip(votes.cells.value[start:end].tolist(), votes.cells.people[start:end].tolist(), strict=True)
    return Disputed(votes.items[item], entropy, {votes.values[value]: people for value, people in cells})
