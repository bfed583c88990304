"""Losses of reward models on human preferences."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, *, margin: Tensor | None = None) -> Tensor:
    """-log sigmoid(chosen - rejected - margin) per pair, nats.

    Stiennon et al. 2020, sec. 3.4 (arXiv:2009.01325); the margin as in Llama 2, eq. 2 (arXiv:2307.09288).
    log 2 when the model cannot tell the two apart.

    Args:
        chosen: [N] scores of the preferred responses.
        rejected: [N] scores of the others.
        margin: [N] how much better the preferred one was said to be, or None.
    """
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    return -logsigmoid(difference)


def ranking_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """All (better, worse) index pairs of a ranking, 1 being the best rank. Ties give no pair.

    >>> ranking_pairs([2, 1, 2])
    [(1, 0), (1, 2)]
    """
    places = range(len(ranks))
    return [(better, worse) for better in places for worse in places if ranks[better] < ranks[worse]]


def ranking_loss(scores: Tensor, ranks: Sequence[int]) -> Tensor:
    """Mean Bradley-Terry loss over all pairs of one ranked list, ties dropped; 0 when all are tied.

    Ouyang et al. 2022, eq. 1 (arXiv:2203.02155): the mean over a list's pairs, so a longer list weighs no more.

    Args:
        scores: [K] scores of the K responses.
        ranks: K ranks, 1 the best.
    """
    if len(scores) != len(ranks):
        raise ValueError(f"ranking_loss needs one rank per score, got {len(scores)} scores and {len(ranks)} ranks")
    pairs = ranking_pairs(ranks)
    if not pairs:
        return scores.sum() * 0.0
    better, worse = torch.tensor(pairs, device=scores.device).T
    return bradley_terry_loss(scores[better], scores[worse]).mean()


def centering_penalty(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(chosen + rejected)^2 per pair: pulls the mean score to 0, which preferences alone leave free.

    Eisenstein et al. 2023, sec. 3 (arXiv:2312.09244).

    Args:
        chosen: [N] scores of the preferred responses.
        rejected: [N] scores of the others.
    """
    return (chosen + rejected).square()
