"""What stages share that sample answers from a policy and learn from what a reward says of them.

Its parts stand beside it: the prompts in sampled_prompts.py, the rewards in sampled_rewards.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from pydantic import PositiveInt, model_validator

from loopwright.errors import ConfigError
from loopwright.rewards import MergeConfig, Merged, Reward
from loopwright.rewards.combine import check_fit, unique
from loopwright.rewards.sources import RewardSource
from loopwright.schemas import Prompt
from loopwright.stages.base import DATA, POLICIES, StageConfig, chosen_input
from loopwright.stages.sampled_prompts import check_opening
from loopwright.stages.sampled_rewards import chosen_rewards
from loopwright.tracking.artifacts import Artifact
from loopwright.training.config import ResponseConfig


class SampledConfig(ResponseConfig, StageConfig):
    """What is improved, by which rewards, on which prompts. The paths stand in for stages the recipe does not have."""

    section: ClassVar[str]  # of a recipe, as errors name it

    policy: Path | None = None  # a Hugging Face folder of a causal LM
    reward: Path | None = None  # a Hugging Face folder of a one-label sequence classifier
    rewards: tuple[RewardSource, ...] = ()  # or several rewards, of several kinds, merged as `merge` says
    merge: MergeConfig = MergeConfig()
    prompts: Path | None = None  # jsonl of Prompt; without it and a world: openings of the pre-training text
    opening_tokens: PositiveInt = 32

    @property
    def watching(self) -> tuple[str, ...]:
        """Reward stages of the recipe that are only looked at, and not learned from."""
        return ()

    @model_validator(mode="after")
    def _openings_are_used(self) -> Self:
        if self.prompts is not None and "opening_tokens" in self.model_fields_set:
            raise ValueError("opening_tokens has no effect beside prompts; leave one out")
        return self

    @model_validator(mode="after")
    def _rewards_can_be_merged(self) -> Self:
        if self.reward is not None and (self.rewards or "merge" in self.model_fields_set):
            raise ValueError("reward is one reward, beside which rewards and merge have no effect; leave one out")
        if self.rewards:
            try:
                check_fit(unique([one.title for one in self.rewards]), [one.weight for one in self.rewards], self.merge)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return self


@dataclass(frozen=True)
class SampledInputs:
    policy: Path
    reward: Path | Merged | Sequence[tuple[Reward, float] | RewardSource]  # a folder; rewards, with weights or to load
    prompts: Path | Sequence[Prompt] = ()
    texts: Path | None = None  # documents {"text"} whose openings are the prompts, in place of `prompts`


NEEDS = {
    "policy": POLICIES,
    "reward": ("reward",),
    "reward_*": (),
    "world": DATA,
    "text": ("pretrain",),
}


def bind(config: SampledConfig, artifacts: Mapping[str, Artifact]) -> SampledInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one of the three is given neither way, or both ways; or openings are asked of given prompts.
    """
    section, world, text = config.section, artifacts.get("world"), artifacts.get("text")
    opened = text if world is None and config.prompts is None else None  # it learns on text that was trained on
    if opened is None:
        check_opening(config)
    return SampledInputs(
        policy=chosen_input(f"{section}.policy", config.policy, artifacts.get("policy"), "model", "an sft section"),
        reward=chosen_rewards(config, artifacts),
        prompts=chosen_input(
            f"{section}.prompts", config.prompts, world, "prompts_train.jsonl", "a world, dataset or pretrain section"
        )
        if opened is None
        else (),
        texts=None if opened is None else opened.file("text.jsonl.gz"),
    )


def files(config: SampledConfig) -> list[Path]:
    """The user's files and folders, whose content belongs to the artifact's key."""
    paths = [path for path in (config.policy, config.reward, config.prompts) if path is not None]
    return paths + [path for source in config.rewards for path in source.files]
