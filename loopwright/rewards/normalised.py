"""Scores on a common scale, and scores turned around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loopwright.errors import CheckError
from loopwright.rewards.base import Reward, Sample, Scores


class Scale(NamedTuple):
    """What the whole score of a response, its tokens' included, is on reference samples."""

    mean: float
    std: float  # biased: divided by the count
    samples: int


@dataclass(frozen=True)
class Normalised:
    """Another reward with mean 0 and standard deviation 1 on reference samples, usually the start policy's.

    Where that reward's scores are multiplied by something positive or shifted, nothing changes.
    """

    reward: Reward
    scale: Scale

    @property
    def name(self) -> str:
        return self.reward.name

    def score(self, samples: Sequence[Sample]) -> Scores:
        """(score - mean) / std; the scores of tokens are divided, too, and not shifted."""
        mean, std, _ = self.scale
        found = self.reward.score(samples).cpu()
        per_token, unsure = (None if part is None else part / std for part in (found.per_token, found.std))
        heads = None if found.heads is None else (found.heads - mean) / std
        return Scores((found.total - mean) / std, per_token, unsure, found.parts, heads)


@dataclass(frozen=True)
class Negated:
    """A scorer of which less is better, such as one of toxicity, as a reward."""

    reward: Reward

    @property
    def name(self) -> str:
        return self.reward.name

    def score(self, samples: Sequence[Sample]) -> Scores:
        """The negative of each score."""
        found = self.reward.score(samples)
        per_token = None if found.per_token is None else -found.per_token
        heads = None if found.heads is None else -found.heads
        return Scores(-found.total, per_token, found.std, {name: -part for name, part in found.parts.items()}, heads)


def measure(name: str, reward: Reward, samples: Sequence[Sample]) -> Scale:
    """Mean and deviation of a reward's scores.

    Raises:
        CheckError: it gives the same score to all samples, which no scale can change.
    """
    found = reward.score(samples).cpu()
    per_token = None if found.per_token is None else found.per_token.double()
    whole = Scores(found.total.double(), per_token).whole()
    mean, std = float(whole.mean()), float(whole.std(correction=0))
    if not std > 0:
        raise CheckError(
            f"reward {name} gave the same score, {mean:.4g}, to all {len(samples)} reference samples, so it cannot be "
            "normalised; give a reward that tells responses apart, or set ppo.merge.normalise = false"
        )
    return Scale(mean, std, len(samples))
