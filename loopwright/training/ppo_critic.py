"""The critic of PPO: what it says of states, and how it learns to."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loopwright.models.heads import Critic
from loopwright.models.sharing import share_frozen
from loopwright.models.trainable import make_trainable
from loopwright.objectives.masking import scaled_sum
from loopwright.objectives.ppo import clipped_value_loss
from loopwright.training.optim import make_optimizers
from loopwright.training.ppo_batch import Experience
from loopwright.training.ppo_config import PPOSettings
from loopwright.training.ppo_reader import Reader
from loopwright.training.precision import Masters


class CriticLearner:
    """A critic that trains as PPO's settings say, beside a policy whose frozen weights it reads."""

    def __init__(self, critic: Critic, policy: Any, config: PPOSettings, seed: int) -> None:
        self.config = config
        self.model = Critic(make_trainable(critic.model, config.critic_trains, seed)).to(policy.device)
        self.shares = share_frozen(self.model.model, policy)  # or why it does not
        self.masters = Masters(self.model, config.precision)
        self.optimizers = make_optimizers(self.masters.named.items(), config.of_critic)
        self.reader = Reader(self.model.model, checkpointing=config.gradient_checkpointing)

    def loss(self, batch: Experience, tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        """c_v * 1/2 (V - R)^2, summed, over the number of tokens of the minibatch; and figures of [N] tokens."""
        mask, old_values, returns = batch.episodes.mask, batch.values, batch.returns
        assert old_values is not None and returns is not None
        value = clipped_value_loss(
            self.reader.values(batch.episodes), old_values[mask], returns[mask], clip_range=self.config.value_clip_range
        )
        loss = scaled_sum(value.loss, self.config.value_coef, tokens)
        return loss, {"value_loss": value.loss, "value_clip_fraction": value.clipped}

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint needs to go on bit for bit."""
        return {"critic": self.masters.state(), "critic_optimizers": self.optimizers.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.masters.load(state["critic"])
        self.optimizers.load_state(state["critic_optimizers"])
