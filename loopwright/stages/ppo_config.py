"""The sections of a recipe that improve a policy against a reward: PPO's, and those of its critic-free relatives."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from loopwright.stages.sampled import SampledConfig
from loopwright.training.critic_free_config import GRPOSettings, ReinforcePlusPlusSettings, RLOOSettings
from loopwright.training.ppo_config import PolicySettings, PPOSettings


class PolicyConfig(PolicySettings, SampledConfig):
    """What the sections share."""

    reference: Path | Literal["start"] | None = None  # a causal LM's folder; start: the version that rounds began with;
    # None: the policy as it is before training
    ptx_text: Path | None = None  # raw text for ptx_coef; None: what was pre-trained on in this run

    @property
    def watching(self) -> tuple[str, ...]:
        """The reward stages that the watch looks with; the policy is not trained on them."""
        return () if self.watch is None else self.watch.stage

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        if self.reference is not None and self.kl_penalty == "none" and self.max_kl is None:
            raise ValueError("reference has no effect with kl_penalty = none and no max_kl; leave it out")
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
