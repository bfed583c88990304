"""Several rewards in one, by an explicit rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loopwright.rewards.base import Reward, Sample, Scores


@dataclass(frozen=True)
class WeightedSum:
    """Several rewards merged: the sum of weight times score. Its parts are the scores before weighing."""

    rewards: Sequence[tuple[Reward, float]]
    name: str = "sum"

    def __post_init__(self) -> None:
        names = [reward.name for reward, _ in self.rewards]
        if not names:
            raise ValueError("a weighted sum needs at least one reward")
        if len(set(names)) < len(names):
            raise ValueError(f"rewards need names of their own, got {names}")

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Sum the totals; per-token scores are summed where a reward has them."""
        scored = [(reward.name, weight, reward.score(samples)) for reward, weight in self.rewards]
        total = torch.zeros(len(samples))
        per_token = None
        for _, weight, scores in scored:
            total = total + weight * scores.total
            if scores.per_token is not None:
                weighted = weight * scores.per_token
                per_token = weighted if per_token is None else per_token + weighted
        return Scores(total, per_token=per_token, parts={name: scores.total for name, _, scores in scored})
