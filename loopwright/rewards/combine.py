"""Several rewards in one, by an explicit rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Annotated, Any, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from loopwright.config import Config
from loopwright.errors import CheckError, ConfigError
from loopwright.objectives.masking import whiten
from loopwright.rewards.agreement import Trends
from loopwright.rewards.base import Reward, Sample, Scores, Stateful
from loopwright.rewards.ensemble import Ensemble
from loopwright.rewards.logits import as_logits
from loopwright.rewards.normalised import Negated, Normalised, Scale, measure
from loopwright.rewards.reward_model import RewardModel
from loopwright.rewards.rules import ROLES, RULES, Case, Rule, ascend, constrained

SAFETY_TAG = "adversarial"


class MergeConfig(Config):
    """How several rewards become one. docs/merging.md has the rules."""

    rule: str = "weighted_sum"  # a key of RULES
    normalise: bool | None = None  # on the start policy's responses; None: as the rule says, and never from Python
    reference_samples: PositiveInt = 256  # responses to normalise on
    helpful: str | None = None  # the name of the reward that is to be maximised
    safe: str | None = None  # and of that which keeps it in bounds
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.15  # llama2: the sigmoid of `safe` below which it counts alone
    safety_tag: str = SAFETY_TAG  # llama2: prompts with this tag are judged by `safe` alone
    limit: float = 0.0  # constraint: what the expected cost, the mean of -safe, may be
    multiplier: NonNegativeFloat = 1.0  # constraint: lambda, where it starts
    multiplier_learning_rate: PositiveFloat = 0.1  # constraint: how far lambda moves a step, for each unit of cost

    @property
    def how(self) -> Rule:
        return RULES[self.rule]

    @model_validator(mode="after")
    def _written_settings_have_an_effect(self) -> Self:
        if self.rule not in RULES:
            raise ValueError(f"rule = {self.rule} is none of {', '.join(RULES)}; choose one")
        for name in sorted(self.model_fields_set - {"rule", "normalise", "reference_samples"}):
            if name not in self.how.settings and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect with rule = {self.rule}; leave it out or choose another rule")
        if self.normalise and self.how.takes_raw:
            raise ValueError(
                f"rule = {self.rule} compares and whitens the scores as they are; leave out normalise = true"
            )
        normalises = self.how.normalises if self.normalise is None else self.normalise
        if not normalises and "reference_samples" in self.model_fields_set:
            raise ValueError(
                "reference_samples has no effect where nothing is normalised; leave it out, or set normalise = true"
            )
        if self.how.has_roles and (self.helpful is None or self.safe is None or self.helpful == self.safe):
            raise ValueError(f"rule = {self.rule} needs helpful and safe, the names of its two rewards; set both")
        return self


class Merged:
    """Several rewards as one. `parts` of its scores are those of each, with its tokens, before weighing and merging.

    It may learn: the multiplier of a constraint and the trends of its parts move with `learn`, and are in `state`.
    """

    def __init__(
        self, rewards: Sequence[tuple[Reward, float]], merge: MergeConfig | None = None, name: str = "merged"
    ) -> None:
        """Raises ConfigError where the rewards do not fit the rule."""
        if not rewards:
            raise ValueError("merging needs at least one reward")
        self.name: str = name
        self.merge: MergeConfig = merge or MergeConfig()
        if "reference_samples" in self.merge.model_fields_set and not self.merge.normalise:
            raise ConfigError(
                "reference_samples has no effect on rewards from Python, which are taken as they are; leave it out, or "
                "set normalise = true"
            )
        for reward, _ in rewards:
            if isinstance(reward, Merged) and (reward.merge.how.whitens or reward.merge.rule == "constraint"):
                raise ConfigError(
                    f"{reward.name} is merged by rule = {reward.merge.rule}, which needs the batch of an update, so it "
                    "cannot be a part of another reward; merge by it last"
                )
        self.rewards = list(rewards)
        self.names = unique([reward.name for reward, _ in self.rewards])
        check_fit(self.names, [weight for _, weight in self.rewards], self.merge)
        self.multiplier = self.merge.multiplier
        self.trends = Trends()
        self.scales: dict[str, Scale] = {}

    def score(self, samples: Sequence[Sample]) -> Scores:
        """[B] merged scores; scores of tokens are summed, by the one rule that can.

        Raises:
            CheckError: a reward scores tokens, and the rule cannot merge these.
        """
        rewards = [as_logits(reward) if self.merge.how.takes_raw else reward for reward, _ in self.rewards]
        found = {name: reward.score(samples).cpu() for name, reward in zip(self.names, rewards, strict=True)}
        parts = {name: scores.total for name, scores in found.items()}
        weights = self._weights()
        tokens = [(float(w), s.per_token) for w, s in zip(weights, found.values(), strict=True)]
        alone = found[self.names[0]].std if len(found) == 1 and self.merge.how.weighs else None
        return Scores(
            self.merge.how.merge(self._case(parts, weights, samples)),
            per_token=self._summed(tokens),
            std=None if alone is None else weights[0].abs() * alone,
            parts={name: scores.whole() for name, scores in found.items()},
        )

    def shares(self, scores: Scores, samples: Sequence[Sample]) -> dict[str, float]:
        """What each reward had of these scores, which are of these samples, mean over the batch; see `Rule.shares`."""
        how, weights = self.merge.how, self._weights()
        names = [str(getattr(self.merge, role)) for role in ROLES] if how.has_roles else self.names
        rows = how.shares.of(self._case(scores.parts, weights, samples)).float().mean(1)
        return {f"{how.shares.name}_{name}": share for name, share in zip(names, rows.tolist(), strict=True)}

    def to_learn_from(self, scores: Scores) -> tuple[Tensor, Tensor | None]:
        """[B] and [B, T] or None: what an update is given, whitened over the batch where the rule says so."""
        if not self.merge.how.whitens:
            return scores.total, scores.per_token
        return whiten(scores.total, torch.ones_like(scores.total, dtype=torch.bool)), None

    def unlearned(self, scores: Scores) -> Tensor:
        """[B] what scores are worth under the multiplier that it started with: numbers that compare between steps."""
        if self.merge.rule != "constraint":
            return scores.whole()
        helpful, safe = (scores.parts[str(getattr(self.merge, role))] for role in ROLES)
        return constrained(helpful, -safe, self.merge.multiplier)

    def learn(self, scores: Scores) -> dict[str, float]:
        """After an update on a batch: move the multiplier, and say what it was and how often the parts disagreed."""
        figures = self.trends.add(scores.parts) if len(scores.parts) > 1 else {}
        if self.merge.rule == "constraint":
            cost = -scores.parts[str(self.merge.safe)].mean().item()
            figures |= {"cost": cost, "multiplier": self.multiplier}
            self.multiplier = ascend(self.multiplier, cost, self.merge.limit, self.merge.multiplier_learning_rate)
        return figures

    def normalise(self, samples: Sequence[Sample]) -> None:
        """Give every reward mean 0 and deviation 1 on these samples."""
        self._on_scales({
            name: measure(name, reward, samples)
            for name, (reward, _) in zip(self.names, self.rewards, strict=True)
        })  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What `load` takes; numbers and text alone."""
        scales = {name: scale._asdict() for name, scale in self.scales.items()}
        rewards = states_of([reward for reward, _ in self.rewards])
        return {"multiplier": self.multiplier, "trends": self.trends.state(), "scales": scales, "rewards": rewards}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, on rewards as they were given."""
        self.multiplier = state["multiplier"]
        self.trends.load(state["trends"])
        load_states([reward for reward, _ in self.rewards], state["rewards"])
        if state["scales"]:
            self._on_scales({name: Scale(**scale) for name, scale in state["scales"].items()})

    def _on_scales(self, scales: Mapping[str, Scale]) -> None:
        self.scales = dict(scales)
        self.rewards = [
            (Normalised(reward, scales[name]), weight)
            for name, (reward, weight) in zip(self.names, self.rewards, strict=True)
        ]

    def _weights(self) -> Tensor:
        return torch.tensor([weight for _, weight in self.rewards], dtype=torch.float32)

    def _case(self, parts: Mapping[str, Tensor], weights: Tensor, samples: Sequence[Sample]) -> Case:
        helpful, safe = (parts[getattr(self.merge, role) or self.names[0]] for role in ROLES)
        tagged = [bool(sample.prompt.tags.get(self.merge.safety_tag)) for sample in samples]
        return Case(
            torch.stack(list(parts.values())),
            weights,
            adversarial=torch.tensor(tagged, dtype=torch.bool),
            helpful=helpful,
            safe=safe,
            threshold=self.merge.threshold,
            multiplier=self.multiplier,
        )

    def _summed(self, tokens: Sequence[tuple[float, Tensor | None]]) -> Tensor | None:
        total = None
        for name, (weight, per_token) in zip(self.names, tokens, strict=True):
            if per_token is None:
                continue
            if not self.merge.how.sums_tokens:
                raise CheckError(
                    f"reward {name} scores tokens, and {self.merge.rule} merges scores of whole responses: which "
                    "reward counts is decided once a response; use rule = weighted_sum, or a reward without scores "
                    "of tokens"
                )
            total = weight * per_token if total is None else total + weight * per_token
        return total


class WeightedSum(Merged):
    """Several rewards merged: the sum of weight times score."""

    def __init__(self, rewards: Sequence[tuple[Reward, float]], name: str = "sum") -> None:
        super().__init__(rewards, MergeConfig(), name)


def check_fit(names: Sequence[str], weights: Sequence[float], merge: MergeConfig) -> None:
    """Raise ConfigError where rewards of these names and weights cannot be merged so."""
    if "std" in names:
        raise ConfigError("a reward is called std, which is what the deviation of all is called; give it another name")
    if not merge.how.weighs and any(weight != 1.0 for weight in weights):
        raise ConfigError(f"a weight has no effect with rule = {merge.rule}; leave weights out or use weighted_sum")
    if merge.how.has_roles and sorted(names) != sorted([str(merge.helpful), str(merge.safe)]):
        raise ConfigError(
            f"rule = {merge.rule} merges two rewards, helpful = {merge.helpful} and safe = {merge.safe}, but the "
            f"rewards are {', '.join(names)}; name two of these, and leave out others"
        )


def reward_models(reward: Reward) -> Iterator[RewardModel]:
    """The reward models that a reward is made of."""
    return (one for one in _innermost(reward) if isinstance(one, RewardModel))


def states_of(rewards: Sequence[Reward]) -> list[dict[str, Any]]:
    """What those rewards remember that others are made of, in their order; `load_states` gives it back to them."""
    return [one.state() for reward in rewards for one in _innermost(reward) if isinstance(one, Stateful)]


def load_states(rewards: Sequence[Reward], states: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where the rewards are others than those whose state it is."""
    stateful = [one for reward in rewards for one in _innermost(reward) if isinstance(one, Stateful)]
    for one, state in zip(stateful, states, strict=True):
        one.load(state)


def _innermost(reward: Reward) -> Iterator[Reward]:
    """What a reward is made of."""
    if isinstance(reward, Normalised | Negated):
        yield from _innermost(reward.reward)
    elif isinstance(reward, Ensemble):
        for member in reward.members:
            yield from _innermost(member)
    elif isinstance(reward, Merged):
        for part, _ in reward.rewards:
            yield from _innermost(part)
    else:
        yield reward


def unique(names: Sequence[str]) -> list[str]:
    """Names that occur twice are numbered, past names that are taken: judge, judge -> judge_1, judge_2."""
    taken = {name for name in names if names.count(name) == 1}
    found = []
    for name in names:
        if names.count(name) > 1:
            name = next(numbered for i in count(1) if (numbered := f"{name}_{i}") not in taken)
            taken.add(name)
        found.append(name)
    return found
