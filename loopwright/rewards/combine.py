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
        if not self.rewards:
            raise ValueError("a weighted sum needs at least one reward")

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Sum the totals; per-token scores are summed where a reward has them."""
        names = unique([reward.name for reward, _ in self.rewards])
        scored = [(name, w, reward.score(samples).cpu()) for name, (reward, w) in zip(names, self.rewards, strict=True)]
        total = torch.zeros(len(samples))
        per_token = None
        for _, weight, scores in scored:
            total = total + weight * scores.total
            if scores.per_token is not None:
                weighted = weight * scores.per_token
                per_token = weighted if per_token is None else per_token + weighted
        return Scores(total, per_token=per_token, parts={name: scores.total for name, _, scores in scored})


def unique(names: Sequence[str]) -> list[str]:
    """Names that occur twice are numbered: judge, judge -> judge_1, judge_2."""
    return [name if names.count(name) == 1 else f"{name}_{names[: i + 1].count(name)}" for i, name in enumerate(names)]
