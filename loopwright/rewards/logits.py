"""The logits of rewards whose models were normalised after they were trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from loopwright.models.layers import unwrapped
from loopwright.rewards.base import Reward, Sample, Scores
from loopwright.rewards.ensemble import Ensemble
from loopwright.rewards.normalised import Negated
from loopwright.rewards.reward_model import RewardModel


@dataclass(frozen=True)
class Logits:
    """A reward model's scores as its loss saw them: `preference_scale` * score + `preference_mean`, of its config.

    The reward stage folds a normalisation into the weights (models/normalisation.py) and notes there what it was. Where
    the fold is exact, so is this; else the mean is right on the reference samples, and elsewhere as near as the fold.
    Of several heads the mean of all is what each gets back.
    """

    model: RewardModel

    @property
    def name(self) -> str:
        return self.model.name

    def score(self, samples: Sequence[Sample]) -> Scores:
        """[B] logits, with the heads and their deviation in the same unit."""
        config = unwrapped(self.model.model).config
        scale, mean = float(config.preference_scale), float(config.preference_mean)
        found = self.model.score(samples)
        std = None if found.std is None else scale * found.std
        heads = None if found.heads is None else scale * found.heads + mean
        return found._replace(total=scale * found.total + mean, std=std, heads=heads)


def as_logits(reward: Reward) -> Reward:
    """The same reward with its models' normalisation undone, as far as is known; what has none stays as it is.

    What was wrapped in `Normalised` by hand, merged before, or comes from a server is taken as it is.
    """
    if isinstance(reward, RewardModel):
        return Logits(reward) if hasattr(unwrapped(reward.model).config, "preference_mean") else reward
    if isinstance(reward, Negated):
        return Negated(as_logits(reward.reward))
    if isinstance(reward, Ensemble):
        undone = copy.copy(reward)
        undone.members = [as_logits(member) for member in reward.members]
        return undone
    return reward
