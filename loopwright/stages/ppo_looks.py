"""Looks at held-out answers while PPO learns: what the watch is told, and the best policy that it may go back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loopwright.errors import ConfigError
from loopwright.rewards import CallableReward, Merged, Reward, RewardModel
from loopwright.rewards.combine import load_states, reward_models, states_of
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import finds_spans
from loopwright.stages.ppo_config import PolicyConfig
from loopwright.stages.sampled_rewards import Scored, to_train_on
from loopwright.tracking.artifacts import Artifact
from loopwright.training.ppo_learner import PPOLearner
from loopwright.training.ppo_watch import FEWEST_PROMPTS, Look, Watch, repeated_share
from loopwright.training.precision import in_precision

if TYPE_CHECKING:
    from loopwright.stages.ppo import PPOInputs


def load_held_out_rewards(
    config: PolicyConfig, inputs: PPOInputs, reward: Merged, prompts: int, runtime: Runtime
) -> list[Reward]:
    """The rewards that the watch looks with; none without a watch.

    Args:
        reward: what the policy is trained on, as it was loaded.
        prompts: how many are held out.

    Raises:
        ConfigError: none is given, or both ways, or without a watch; one is the reward of training; too few prompts.
    """
    name, watch, given = config.section, config.watch, list(inputs.held_out_rewards)
    if watch is None:
        if given:
            raise ConfigError(f"held-out rewards have no effect without {name}.watch; set it, or leave them out")
        return []
    folders = {folder: folder.name for folder in watch.reward}
    folders |= {folder: title for title, folder in inputs.held_out_models.items()}
    if bool(given) == bool(folders):
        if not given:
            raise nothing_to_look_with(name)
        raise ConfigError(
            f"{name}.watch has {next(iter(folders))}, which contradicts the held-out rewards given; leave one out"
        )
    if prompts < FEWEST_PROMPTS:
        raise ConfigError(
            f"{name}.watch has {prompts} held-out prompts and needs some dozens; raise {name}.held_out_prompts"
        )
    for folder, title in folders.items():
        given.append(RewardModel(folder, name=title, device=runtime.device))
    for one in given:
        for trained_on in (*(part for part, _ in reward.rewards), *reward_models(reward)):
            if _same(one, trained_on):
                raise ConfigError(
                    f"{name}.watch: {one.name} is the reward that the policy is trained on, which never disagrees "
                    "with itself; give a reward model trained on other labels"
                )
    for model in given if folders else ():  # after comparing: rounded weights are never those of training
        assert isinstance(model, RewardModel)
        in_precision(model.model.requires_grad_(False), config.precision)
    return given


class Watcher:
    """The watch with its rewards, and the policy as it was when the held-out reward was highest.

    Without a watch it does nothing. The best policy is kept on the CPU and in every checkpoint, whole or not there.
    """

    def __init__(self, config: PolicyConfig, rewards: Sequence[Reward], learner: PPOLearner, runtime: Runtime) -> None:
        self._watch = None if config.watch is None else Watch(config.watch)
        self._rewards = rewards
        self._learner = learner
        self._log = runtime.log
        self._best: dict[str, Tensor] = {}
        self._figures: dict[str, dict[str, float]] = {}  # of the best look and of the last

    @property
    def stopped(self) -> bool:
        """Whether the rule has ended the training."""
        return self._watch is not None and self._watch.stopped_at is not None

    @property
    def goes_back(self) -> bool:
        """Whether the policy to save is the best one and not the last."""
        return self._watch is not None and self.stopped and self._watch.config.action == "roll_back"

    def look(self, step: int, seen: Scored, proxy: Tensor, assessed: Mapping[str, float]) -> dict[str, float]:
        """Look at one response to each held-out prompt; gives the figures to record.

        Args:
            proxy: [P] what the reward of training says of each, on one scale at every look.
        """
        if self._watch is None:
            return {}
        verdict = self._watch.look(
            Look(
                step,
                proxy=proxy.tolist(),
                held_out=[reward.score(seen.samples).whole().tolist() for reward in self._rewards],
                kl=assessed["held_out_kl"],
                length_tokens=assessed["held_out_length_tokens"],
                repetition=repeated_share([sample.response_ids for sample in seen.samples]),
                unsure=None if seen.scores.std is None else seen.scores.std.tolist(),
            )
        )
        self._figures["last"] = {**assessed, **verdict.figures}
        if verdict.is_best:
            self._figures["best"] = self._figures["last"]
            if self._watch.config.action == "roll_back":
                weights = self._learner.policy_masters.state()
                self._best = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}
        for reason in verdict.reasons:
            self._log(f"step {step}: {reason}")
        if verdict.signal == "stop":
            self._log(f"step {step}: training stops" + (f", back to step {self._watch.best_step}" * self.goes_back))
        return verdict.figures

    def roll_back(self) -> None:
        """Give the policy the weights of the best look, where the watch stopped and is to go back."""
        if self.goes_back:
            self._learner.policy_masters.load(self._best)

    def summary(self) -> dict[str, Any]:
        """What the stage reports: how it ended, and the held-out figures of the policy that is saved."""
        if self._watch is None:
            return {}
        watch = {
            "stopped_at": self._watch.stopped_at,
            "rolled_back_to": self._watch.best_step if self.goes_back else None,
            "reason": self._watch.reason,
            "best_step": self._watch.best_step,
            "saved": self._figures["best" if self.goes_back else "last"],
        }
        return {"watch": watch}

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps."""
        if self._watch is None:
            return None
        return {
            "watch": self._watch.state(),
            "best": self._best,
            "figures": self._figures,
            "rewards": states_of(self._rewards),
        }

    def load(self, state: dict[str, Any] | None) -> None:
        """Take back what `state` gave."""
        if self._watch is not None and state is not None:
            self._watch.load(state["watch"])
            self._best, self._figures = state["best"], state["figures"]
            load_states(self._rewards, state["rewards"])


def watching_models(config: PolicyConfig, artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """Reward stage -> its model, of those that the watch looks with.

    Raises:
        ConfigError: the watch has nothing to look with; a stage that it names is not there, or knows no other labels.
    """
    section, watch = config.section, config.watch
    if watch is not None and not watch.reward and not watch.stage:
        raise nothing_to_look_with(section)
    for name in config.watching:
        if name not in artifacts:
            raise ConfigError(
                f"{section}.watch.stage names the stage {name}, which the recipe does not have; add that section"
            )
        if name in {source.stage for source in config.rewards}:
            raise ConfigError(
                f"{section}.rewards and {section}.watch.stage both name {name}, which cannot watch itself; drop one"
            )
        if finds_spans(artifacts[name]):
            raise ConfigError(
                f"{section}.watch.stage = {name} learns from marked passages and has no score of an answer"
            )
        for other in to_train_on(config, artifacts):
            if share_labels(artifacts[name].manifest.config, artifacts[other].manifest.config):
                raise ConfigError(
                    f"{section}.watch.stage = {name} learns from judgements that {other} learns from, so it would err "
                    "as that does; give each its part of the prompts (part_of_prompts: [0, 0.8] and [0.8, 1]), or "
                    "judgements of its own"
                )
    return {name: artifacts[name].file("model") for name in config.watching}


def share_labels(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two reward stages may learn from the same judgement, as far as their settings tell."""
    for name in ("comparisons", "feedback", "labelled", "teacher"):
        if one[name] != other[name]:
            return False
    if (
        not set(one["kinds"]) & set(other["kinds"])
        or one["judgements"]["criterion"] != other["judgements"]["criterion"]
    ):
        return False
    ours, theirs = one["part_of_prompts"] or (0.0, 1.0), other["part_of_prompts"] or (0.0, 1.0)
    return bool(max(ours[0], theirs[0]) < min(ours[1], theirs[1]))


def nothing_to_look_with(section: str) -> ConfigError:
    return ConfigError(
        f"{section}.watch has no reward; set {section}.watch.reward to the folder of a reward model trained on other "
        f"labels, or in a recipe {section}.watch.stage to the stage that trains one"
    )


def _same(one: Reward, other: Reward) -> bool:
    """One object, one function, or models with the same weights."""
    if isinstance(one, CallableReward) and isinstance(other, CallableReward):
        return one.fn is other.fn
    if not (isinstance(one, RewardModel) and isinstance(other, RewardModel)):
        return one is other
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name].float().cpu(), theirs[name].float().cpu()) for name in ours
    )
