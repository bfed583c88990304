"""What PPO trains: policy and critic beside a frozen reference, and one update of them."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loopwright.errors import ModelError
from loopwright.models.heads import Critic
from loopwright.models.layers import unwrapped
from loopwright.models.sharing import copy_sharing_weights, keep_from_training, share_frozen
from loopwright.models.trainable import make_trainable
from loopwright.objectives.kl import AdaptiveKLController, FixedKLController, Head, exact_kl, kl_estimate
from loopwright.objectives.logprobs import summed_losses, token_logprobs
from loopwright.objectives.ppo import approximate_kl, clipped_policy_loss, clipped_value_loss, explained_variance
from loopwright.runtime.cores import shares, side_by_side
from loopwright.training import ppo_checks
from loopwright.training.gradients import accumulate, may_run_at_once
from loopwright.training.optim import Optimizers, make_optimizers
from loopwright.training.ppo_batch import (
    Episodes,
    Experience,
    Observations,
    even_parts,
    microbatches,
    permutation,
    spread,
)
from loopwright.training.ppo_config import PPOSettings
from loopwright.training.ppo_reader import Reader
from loopwright.training.precision import Masters, in_precision

FEWEST_TOKENS = 512  # of a core's own share of a minibatch; with fewer, a gradient a core costs more than it brings


class PPOLearner:
    """Policy, critic, reference, optimizers and KL coefficient."""

    def __init__(
        self, policy: PreTrainedModel, critic: Critic, forbidden: Tensor, config: PPOSettings, seed: int, scratch: Path
    ) -> None:
        """`forbidden` are the [F] token ids the sampler never draws; `scratch` is where a batch that breaks is put."""
        self.config = config
        # As the sampler had it, for the log-probabilities of all that read what it drew
        self.sampled: Any = {"temperature": config.temperature, "forbidden": forbidden.to(policy.device)}
        self.scratch = scratch
        self.reference = copy_sharing_weights(policy.requires_grad_(False))
        self.policy: Any = make_trainable(policy, config.trainable, seed)
        check_head(self.policy)
        keep_from_training(self.reference, self.policy)
        self.critic = Critic(make_trainable(critic.model, config.critic_trains, seed + 1)).to(policy.device)
        self.critic_shares = share_frozen(self.critic.model, self.policy)  # or why it does not
        self.policy_masters = Masters(self.policy, config.precision)
        self.critic_masters = Masters(self.critic, config.precision)
        in_precision(self.reference, config.precision)
        self.controller = make_controller(config)
        self.policy_optimizers = make_optimizers(self.policy_masters.named.items(), config)
        self.critic_optimizers = make_optimizers(self.critic_masters.named.items(), config.of_critic)
        self.at_once = may_run_at_once(self.policy, self.critic) and config.precision == "float32"
        again = config.gradient_checkpointing
        self.policy_reader = Reader(self.policy, checkpointing=again)
        self.critic_reader = Reader(self.critic.model, checkpointing=again)
        self.reference_reader = Reader(self.reference)
        self.below = self.policy_reader.frozen_blocks()  # so many blocks are computed once a rollout
        for reader in (self.policy_reader, self.critic_reader, self.reference_reader):
            reader.take_from(self.policy_reader, self.below)

    @torch.no_grad()
    def prepare(self, episodes: Episodes) -> Episodes:
        """The same with what the frozen lower blocks make of them, which all passes until the next rollout share."""
        if not self.below or episodes.below is not None:
            return episodes
        width = self.policy.get_input_embeddings().weight.shape[1]
        below = torch.zeros(*episodes.ids.shape, width, dtype=self.policy.dtype, device=episodes.ids.device)

        def look(rows: Tensor) -> None:
            found = self.policy_reader.read_below(episodes.rows(rows), self.below)
            below[rows, : found.shape[1]] = found

        side_by_side(look, self._microbatches(episodes), at_once=self.at_once)
        return episodes._replace(below=below)

    @torch.no_grad()
    def observe(self, episodes: Episodes) -> Observations:
        """Reference log-probabilities and values of sampled responses."""
        mask = episodes.mask
        logprobs, values = torch.zeros_like(episodes.logprobs), torch.zeros_like(episodes.logprobs)
        own = torch.zeros_like(logprobs) if self.config.precision != "float32" else None
        exact = torch.zeros_like(logprobs) if self.config.report_exact_kl else None

        def look(rows: Tensor) -> None:
            part = episodes.rows(rows)
            reference = self.reference_reader.head(part)
            logprobs[rows] = spread(self._logprobs(reference, part), mask[rows])
            values[rows] = spread(self.critic_reader.values(part), mask[rows])
            if own is None and exact is None:
                return
            policy = self.policy_reader.head(part)
            if own is not None:
                own[rows] = spread(self._logprobs(policy, part), mask[rows])
            if exact is not None:
                exact[rows] = spread(exact_kl(policy, reference, **self.sampled), mask[rows])

        side_by_side(look, self._microbatches(episodes), at_once=self.at_once)
        return Observations(logprobs, values, exact, own)

    def update(self, experience: Experience, step: int, seed_of_epoch: Callable[[int], int]) -> dict[str, float]:
        """Several epochs of clipped updates on one batch (Schulman et al. 2017, algorithm 1).

        Each epoch draws a fresh permutation; the first minibatch must have ratio 1.

        Returns:
            Means over all tokens and minibatches of the step.

        Raises:
            CheckError: the ratio was not 1, or a loss was not finite.
        """
        totals = Totals()
        for epoch in range(self.config.epochs_per_batch):
            order = permutation(len(experience.values), seed_of_epoch(epoch)).to(experience.values.device)
            for number, rows in enumerate(order.split(self.config.minibatch_size)):
                self._minibatch(experience.rows(rows), totals, step, check_ratio=epoch == number == 0)
        kept = experience.episodes.mask
        explained = explained_variance(experience.values[kept], experience.returns[kept]).item()
        learning_rate = self.config.learning_rate * schedule(step, self.config)
        return totals.means() | {"explained_variance": explained, "learning_rate": learning_rate}

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint needs to go on bit for bit."""
        return {
            "policy": self.policy_masters.state(),
            "critic": self.critic_masters.state(),
            "policy_optimizers": self.policy_optimizers.state(),
            "critic_optimizers": self.critic_optimizers.state(),
            "kl_controller": self.controller.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.policy_masters.load(state["policy"])
        self.critic_masters.load(state["critic"])
        self.policy_optimizers.load_state(state["policy_optimizers"])
        self.critic_optimizers.load_state(state["critic_optimizers"])
        self.controller.load(state["kl_controller"])

    def restore(self) -> None:
        """Policy and critic in float32, for saving; nothing can be learned afterwards."""
        self.policy_masters.restore()
        self.critic_masters.restore()

    def response_logprobs(self, episodes: Episodes) -> Tensor:
        """[N] log-probabilities of all response tokens under the policy, row by row, without gradient."""
        with torch.no_grad():
            episodes = self.prepare(episodes)
            return self._logprobs(self.policy_reader.head(episodes), episodes)

    def response_values(self, episodes: Episodes) -> Tensor:
        """[N] values of the states before all response tokens, row by row, without gradient."""
        with torch.no_grad():
            return self.critic_reader.values(self.prepare(episodes))

    def _minibatch(self, batch: Experience, totals: "Totals", step: int, *, check_ratio: bool) -> None:
        """One optimizer step on the token mean over the minibatch, in however many microbatches."""
        tokens = int(batch.episodes.mask.sum())
        if tokens == 0:
            return

        def share(rows: Tensor) -> tuple[Tensor, Microbatch]:
            part = self._microbatch(batch.rows(rows), tokens)
            return part.loss, part._replace(loss=part.loss.detach())

        micros = self._microbatches(batch.episodes)
        weights = self.policy_masters.weights + self.critic_masters.weights
        parts = accumulate(weights, micros, share, at_once=self.at_once)
        loss = torch.stack([part.loss for part in parts]).sum()
        for part in parts:
            totals.add(part.sums)
            totals.maximum(ratio_max=part.ratio)
        if check_ratio and torch.isfinite(loss):
            drift = torch.cat([part.drift for part in parts])
            ppo_checks.check_ratio_is_one(drift, step, self.config.precision)
            totals.sampler_drift = drift.abs().mean().item()
        norms = {
            "policy_grad_norm": _clip(self.policy_optimizers, self.config.max_grad_norm),
            "critic_grad_norm": _clip(self.critic_optimizers, self.config.max_grad_norm),
        }
        if not all(math.isfinite(x) for x in (loss.item(), *norms.values())):
            raise ppo_checks.non_finite_loss(self.scratch, step, self.state(), batch)
        for optimizers in (self.policy_optimizers, self.critic_optimizers):
            optimizers.step(schedule(step, self.config))
        self.policy_masters.write()
        self.critic_masters.write()
        totals.count_minibatch(tokens, norms | {"loss": loss.item()})

    def _microbatch(self, batch: Experience, tokens: int) -> "Microbatch":
        """-L_clip + c_v * 1/2 (V - R)^2 - c_e * H (+ beta * KL), summed, over the number of tokens of the minibatch."""
        config, episodes = self.config, batch.episodes
        old_logprobs, reference_logprobs, old_values, advantages, returns = (
            x[episodes.mask] for x in (episodes.logprobs, *batch[1:])
        )

        def policy_losses(logprobs: Tensor, entropy: Tensor, at: slice) -> Tensor:
            losses = clipped_policy_loss(logprobs, old_logprobs[at], advantages[at], clip_range=config.clip_range).loss
            if config.entropy_coef:
                losses = losses - config.entropy_coef * entropy
            if estimator is not None:
                losses = losses + beta * kl_estimate(logprobs, reference_logprobs[at], estimator)
            return losses / tokens

        beta = self.controller.coefficient
        estimator = config.kl_estimator if config.kl_penalty == "loss" and config.kl_estimator != "exact" else None
        head = self.policy_reader.head(episodes)
        targets = episodes.response_ids()
        total, logprobs, entropy = summed_losses(
            head.hidden, head.weight, targets, policy_losses, bias=head.bias, **self.sampled
        )
        values = self.critic_reader.values(episodes)
        value = clipped_value_loss(values, old_values, returns, clip_range=config.value_clip_range)
        loss = total + config.value_coef / tokens * value.loss.sum()
        policy = clipped_policy_loss(logprobs, old_logprobs, advantages, clip_range=config.clip_range)
        figures: dict[str, Tensor] = {
            "policy_loss": policy.loss,
            "value_loss": value.loss,
            "entropy": entropy,
            "clip_fraction": policy.clipped,
            "value_clip_fraction": value.clipped,
            "approx_kl": approximate_kl(logprobs, old_logprobs),
        }
        if estimator is not None:
            figures["kl_loss"] = kl_estimate(logprobs, reference_logprobs, estimator)
        elif config.kl_penalty == "loss":
            figures["kl_loss"] = kl = self._exact_kl_to_reference(head, episodes)
            loss = loss + beta / tokens * kl.sum()
        sums = {name: values.detach().sum() for name, values in figures.items()}
        return Microbatch(loss, logprobs - old_logprobs, policy.ratio, sums)

    def _exact_kl_to_reference(self, head: Head, episodes: Episodes) -> Tensor:
        with torch.no_grad():
            fixed = self.reference_reader.head(episodes)
        return exact_kl(head, fixed, **self.sampled)

    def _logprobs(self, head: Head, episodes: Episodes) -> Tensor:
        return token_logprobs(
            head.hidden, head.weight, episodes.response_ids(), bias=head.bias, **self.sampled
        ).logprobs

    def _microbatches(self, episodes: Episodes) -> list[Tensor]:
        lengths, config = episodes.lengths(), self.config
        if config.microbatch_size or config.microbatch_tokens:
            return microbatches(lengths, rows=config.microbatch_size, tokens=config.microbatch_tokens)
        minibatches = -(-len(lengths) // config.minibatch_size)
        cores = min(shares(len(lengths)), int(lengths.sum()) // FEWEST_TOKENS) if self.at_once else 1
        return even_parts(lengths, max(minibatches, cores))


class Microbatch(NamedTuple):
    """What an update asks of N response tokens, and what it reports of them."""

    loss: Tensor  # scalar: the sum over tokens
    drift: Tensor  # [N] new minus old log-probabilities
    ratio: Tensor  # [N]
    sums: dict[str, Tensor]  # figures, each summed over tokens


class Totals:
    """Sums over the tokens of a step, on their way to means."""

    def __init__(self) -> None:
        self._tokens = 0
        self._minibatches = 0
        self._sums: dict[str, float] = {}
        self._of_minibatches: dict[str, float] = {}
        self._maxima: dict[str, float] = {}
        self.sampler_drift = 0.0  # of the first minibatch

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Sums over tokens, to be averaged over tokens."""
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()

    def maximum(self, **per_token: Tensor) -> None:
        """Values of tokens, of which the largest is reported."""
        for name, values in per_token.items():
            if len(values):
                self._maxima[name] = max(self._maxima.get(name, -math.inf), values.max().item())

    def count_minibatch(self, tokens: int, figures: dict[str, float]) -> None:
        """Figures that are already those of a whole minibatch."""
        self._tokens += tokens
        self._minibatches += 1
        for name, value in figures.items():
            self._of_minibatches[name] = self._of_minibatches.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Everything, averaged."""
        tokens = {name: value / max(self._tokens, 1) for name, value in self._sums.items()}
        whole = {name: value / max(self._minibatches, 1) for name, value in self._of_minibatches.items()}
        return tokens | whole | self._maxima | {"sampler_drift": self.sampler_drift}


def check_head(model: Any) -> None:
    """Refuse a model without LM head, and adapters on it, before hours have passed.

    Raises:
        ModelError: it is one of these.
    """
    base = unwrapped(model)
    head = base.get_output_embeddings()
    if head is None or not isinstance(getattr(head, "weight", None), Tensor):
        raise ModelError(f"{type(base).__name__} has no linear LM head, which PPO needs; use a causal language model")
    if hasattr(head, "lora_A"):
        raise ModelError(
            "trainable.lora.targets names the LM head, which PPO reads as one matrix; "
            "leave it out, or name it in trainable.lora.modules_to_save"
        )


def make_controller(config: PPOSettings) -> FixedKLController:
    """The controller that the settings ask for."""
    if config.kl_target is not None:
        return AdaptiveKLController(config.kl_coef, target=config.kl_target, horizon=config.kl_horizon)
    return FixedKLController(0.0 if config.kl_penalty == "none" else config.kl_coef)


def schedule(step: int, config: PPOSettings) -> float:
    """The share of the learning rate at a step: up linearly over the warm-up, then constant or down to 0 at the end."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    if config.schedule == "linear":
        return 1.0 - done
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


def _clip(optimizers: Optimizers, max_norm: float | None) -> float:
    """Scale gradients down to the norm where there is one; returns the norm before."""
    return torch.nn.utils.clip_grad_norm_(optimizers.parameters, math.inf if max_norm is None else max_norm).item()
