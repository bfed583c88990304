"""Several reward models, trained apart, or several heads of one, as one reward that knows how unsure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from loopwright.errors import CheckError, ConfigError
from loopwright.rewards.base import Reward, Sample, Scores

Combine = Callable[[Tensor, float], Tensor]  # ([M, B] scores of the members, penalty) -> [B]


def _less_variance(scores: Tensor, penalty: float) -> Tensor:
    return scores.mean(0) - penalty * scores.var(0, correction=0)


def _less_std(scores: Tensor, penalty: float) -> Tensor:
    return scores.mean(0) - penalty * scores.std(0, correction=0)


# Coste et al. 2023 (arXiv:2310.02743): mean, worst-case optimisation (WCO) and uncertainty-weighted optimisation
# (UWO), which takes the variance between the members off their mean. The deviation has the unit of the scores.
ENSEMBLE_RULES: dict[str, Combine] = {
    "mean": lambda scores, _: scores.mean(0),
    "worst": lambda scores, _: scores.min(0).values,
    "mean_less_variance": _less_variance,
    "mean_less_std": _less_std,
}
PENALISED = ("mean_less_variance", "mean_less_std")


class Ensemble:
    """Members that were trained to score the same thing, on one scale; `std` is the deviation between them, biased.

    A reward model of several heads counts as so many members, read at once. `parts` of its scores are the members'.
    """

    def __init__(
        self, members: Sequence[Reward], *, rule: str = "mean", penalty: float | None = None, name: str = "ensemble"
    ) -> None:
        """`penalty`: what a unit of variance or deviation between the members costs.

        Raises:
            ConfigError: there is no member, no such rule, or a penalty where it has no effect, or none where it has.
        """
        if not members:
            raise ConfigError("an ensemble has no members; give at least one reward")
        if rule not in ENSEMBLE_RULES:
            raise ConfigError(f"ensemble rule {rule} is none of {', '.join(ENSEMBLE_RULES)}; choose one")
        if (rule in PENALISED) != (penalty is not None):
            raise ConfigError(
                f"ensemble rule {rule} " + ("needs a penalty; set it" if penalty is None else "has no penalty; drop it")
            )
        self.members, self.rule, self.penalty, self.name = list(members), rule, penalty or 0.0, name

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Raises CheckError when a member scores tokens: these are of no one member's response."""
        found = [member.score(samples).cpu() for member in self.members]
        if any(scores.per_token is not None for scores in found):
            raise CheckError(f"a member of {self.name} scores tokens; an ensemble is of scores of whole responses")
        scores = torch.cat([one.total[None] if one.heads is None else one.heads for one in found])
        parts = {f"{self.name}_{number}": one for number, one in enumerate(scores, start=1)}
        total = ENSEMBLE_RULES[self.rule](scores, self.penalty)
        return Scores(total, std=scores.std(0, correction=0), parts=parts)
