"""The sections of a recipe that improve a policy against a reward: PPO's, and those of its critic-free relatives."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import PositiveInt, model_validator

from loopwright.errors import ConfigError
from loopwright.rewards import MergeConfig
from loopwright.rewards.combine import check_fit, unique
from loopwright.rewards.sources import RewardSource
from loopwright.stages.base import StageConfig
from loopwright.training.critic_free_config import GRPOSettings, ReinforcePlusPlusSettings, RLOOSettings
from loopwright.training.ppo_config import PolicySettings, PPOSettings


class PolicyConfig(PolicySettings, StageConfig):
    """What the sections share. The paths stand in for stages that the recipe does not have."""

    section: ClassVar[str]

    policy: Path | None = None  # a Hugging Face folder of a causal LM
    reward: Path | None = None  # a Hugging Face folder of a one-label sequence classifier
    rewards: tuple[RewardSource, ...] = ()  # or several rewards, of several kinds, merged as `merge` says
    merge: MergeConfig = MergeConfig()
    prompts: Path | None = None  # jsonl of Prompt; without it and a world: openings of the pre-training text
    opening_tokens: PositiveInt = 32
    ptx_text: Path | None = None  # raw text for ptx_coef; None: what was pre-trained on in this run

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

    @model_validator(mode="after")
    def _text_is_mixed_in(self) -> Self:
        if self.ptx_text is not None and self.ptx_coef == 0:
            raise ValueError("ptx_text has no effect with ptx_coef = 0; set ptx_coef (1 is a start) or drop ptx_text")
        return self


class PPOConfig(PPOSettings, PolicyConfig):
    section: ClassVar[str] = "ppo"


class RLOOConfig(RLOOSettings, PolicyConfig):
    section: ClassVar[str] = "rloo"


class GRPOConfig(GRPOSettings, PolicyConfig):
    section: ClassVar[str] = "grpo"


class ReinforcePlusPlusConfig(ReinforcePlusPlusSettings, PolicyConfig):
    section: ClassVar[str] = "reinforce_plus_plus"
