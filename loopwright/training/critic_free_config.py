"""The settings of PPO's relatives that need no critic. docs/policy_gradients.md compares them.

Each makes advantages by a rule of its own (ppo_batch.py, `estimate`); all else they share with PPO.
"""

from typing import Literal, Self

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from loopwright.objectives.masking import Aggregation
from loopwright.training.ppo_config import PolicySettings


class GroupSettings(PolicySettings):
    """Of rules that compare the responses to one prompt with each other, and update once a rollout batch."""

    minibatch_size: PositiveInt = 512
    epochs_per_batch: PositiveInt = 1

    @model_validator(mode="after")
    def _there_is_something_to_compare_with(self) -> Self:
        if self.samples_per_prompt == 1:
            raise ValueError(
                "samples_per_prompt = 1 leaves a response nothing to be compared with, so all advantages would be 0; "
                "use 2 or more, or the section reinforce_plus_plus, to which one is enough"
            )
        return self


class RLOOSettings(GroupSettings):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740)."""

    samples_per_prompt: PositiveInt = 4
    loss_aggregation: Aggregation = "response_sum"  # the response is one action


class GRPOSettings(GroupSettings):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300), and Dr. GRPO (arXiv:2503.20783)."""

    samples_per_prompt: PositiveInt = 8
    divide_by_std: bool = True  # advantages, by the deviation of their prompt's rewards
    kl_penalty: Literal["reward", "loss", "none"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = "k3"
    kl_coef: NonNegativeFloat = 0.04
    loss_aggregation: Aggregation = "response_mean"


class ReinforcePlusPlusSettings(PolicySettings):
    """REINFORCE++ (Hu 2025, arXiv:2501.03262), and its form with a baseline."""

    epochs_per_batch: PositiveInt = 1
    group_baseline: bool = False  # the mean reward of a prompt's responses is taken off before the batch is normalised

    @model_validator(mode="after")
    def _a_baseline_has_its_group(self) -> Self:
        if self.group_baseline and self.samples_per_prompt == 1:
            raise ValueError(
                "group_baseline needs several responses to a prompt; set samples_per_prompt to 2 or more, "
                "or leave it out"
            )
        return self
