"""What PPO and its relatives train: a policy, and PPO a critic, beside a frozen reference; and one update of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loopwright.data.packing import PackedBatch
from loopwright.errors import ModelError
from loopwright.models.heads import Critic
from loopwright.models.layers import unwrapped
from loopwright.models.sharing import copy_sharing_weights, keep_from_training, share_frozen
from loopwright.models.trainable import make_trainable
from loopwright.objectives.kl import AdaptiveKLController, FixedKLController, Head, exact_kl, kl_estimate
from loopwright.objectives.logprobs import summed_losses, token_logprobs
from loopwright.objectives.masking import loss_divisors, scaled_sum
from loopwright.objectives.ppo import approximate_kl, clipped_policy_loss, explained_variance
from loopwright.runtime.cores import shares, side_by_side
from loopwright.training import ppo_checks
from loopwright.training.gradients import accumulate, may_run_at_once
from loopwright.training.next_tokens import predict
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
from loopwright.training.ppo_config import PolicySettings, PPOSettings
from loopwright.training.ppo_critic import CriticLearner
from loopwright.training.ppo_figures import Totals
from loopwright.training.ppo_reader import Reader
from loopwright.training.precision import Masters, in_precision
from loopwright.training.raw_text import RawText

FEWEST_TOKENS = 512  # of a core's own share of a minibatch; with fewer, a gradient a core costs more than it brings


class PPOLearner:
    """Policy, critic where the settings are PPO's own, reference, optimizers and KL coefficient."""

    def __init__(
        self,
        policy: PreTrainedModel,
        critic: Critic | None,
        forbidden: Tensor,
        config: PolicySettings,
        seed: int,
        scratch: Path,
        reference: PreTrainedModel | None = None,
    ) -> None:
        """`forbidden` are the [F] token ids the sampler never draws; `scratch` is where a batch that breaks is put.

        `reference` is held fixed; None: the policy as it is now.

        Raises:
            ValueError: PPO got no critic, or settings that need none got one.
        """
        self.config = config
        # As the sampler had it, for the log-probabilities of all that read what it drew
        self.sampled: Any = {"temperature": config.temperature, "forbidden": forbidden.to(policy.device)}
        self.scratch = scratch
        self.starts_at_reference = reference is None
        policy.requires_grad_(False)
        self.reference: Any = copy_sharing_weights(policy) if reference is None else reference.requires_grad_(False)
        self.policy: Any = make_trainable(policy, config.trainable, seed)
        check_head(self.policy)
        if reference is not None:
            share_frozen(self.reference, self.policy)
        keep_from_training(self.reference, self.policy)
        self.critic = make_critic(critic, self.policy, config, seed + 1)
        self.policy_masters = Masters(self.policy, config.precision)
        in_precision(self.reference, config.precision)
        self.controller = make_controller(config)
        self.policy_optimizers = make_optimizers(self.policy_masters.named.items(), config)
        trained = [self.policy] if self.critic is None else [self.policy, self.critic.model]
        self.at_once = may_run_at_once(*trained) and config.precision == "float32"
        self.policy_reader = Reader(self.policy, checkpointing=config.gradient_checkpointing)
        self.reference_reader = Reader(self.reference)
        self.below = self.policy_reader.frozen_blocks()  # so many blocks are computed once a rollout
        readers = [self.policy_reader, self.reference_reader]
        for reader in readers if self.critic is None else [*readers, self.critic.reader]:
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
        """Reference log-probabilities of sampled responses, and values where there is a critic."""
        mask = episodes.mask
        logprobs = torch.zeros_like(episodes.logprobs)
        values = None if self.critic is None else torch.zeros_like(logprobs)
        own = torch.zeros_like(logprobs) if self.config.precision != "float32" else None
        exact = torch.zeros_like(logprobs) if self.config.report_exact_kl else None

        def look(rows: Tensor) -> None:
            part = episodes.rows(rows)
            reference = self.reference_reader.head(part)
            logprobs[rows] = spread(self._logprobs(reference, part), mask[rows])
            if values is not None:
                assert self.critic is not None
                values[rows] = spread(self.critic.reader.values(part), mask[rows])
            if own is None and exact is None:
                return
            policy = self.policy_reader.head(part)
            if own is not None:
                own[rows] = spread(self._logprobs(policy, part), mask[rows])
            if exact is not None:
                exact[rows] = spread(exact_kl(policy, reference, **self.sampled), mask[rows])

        side_by_side(look, self._microbatches(episodes), at_once=self.at_once)
        return Observations(logprobs, values, exact, own)

    def update(
        self, experience: Experience, step: int, seed_of_epoch: Callable[[int], int], raw_text: RawText | None = None
    ) -> dict[str, float]:
        """Several epochs of clipped updates on one batch (Schulman et al. 2017, algorithm 1).

        Each epoch draws a fresh permutation; the first minibatch must have ratio 1. Rows of raw text, where they are
        given, join each minibatch.

        Returns:
            Means over all tokens and minibatches of the step.

        Raises:
            CheckError: the ratio was not 1, or a loss was not finite.
        """
        totals, kept = Totals(), experience.episodes.mask
        minibatch = step * self.config.minibatches_per_step
        for epoch in range(self.config.epochs_per_batch):
            order = permutation(len(kept), seed_of_epoch(epoch)).to(kept.device)
            for number, rows in enumerate(order.split(self.config.minibatch_size)):
                joining = None if raw_text is None else raw_text.rows_of(minibatch)
                self._minibatch(experience.rows(rows), joining, totals, step, check_ratio=epoch == number == 0)
                minibatch += 1
        figures = totals.means() | {"learning_rate": self.config.learning_rate * schedule(step, self.config)}
        if experience.values is not None and experience.returns is not None:
            explained = explained_variance(experience.values[kept], experience.returns[kept])
            figures["explained_variance"] = explained.item()
        return figures

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint needs to go on bit for bit."""
        return {
            "policy": self.policy_masters.state(),
            "policy_optimizers": self.policy_optimizers.state(),
            "kl_controller": self.controller.state(),
            **({} if self.critic is None else self.critic.state()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.policy_masters.load(state["policy"])
        self.policy_optimizers.load_state(state["policy_optimizers"])
        self.controller.load(state["kl_controller"])
        if self.critic is not None:
            self.critic.load(state)

    def restore(self) -> None:
        """What was trained in float32, for saving; nothing can be learned afterwards."""
        self.policy_masters.restore()
        if self.critic is not None:
            self.critic.masters.restore()

    def response_logprobs(self, episodes: Episodes) -> Tensor:
        """[N] log-probabilities of all response tokens under the policy, row by row, without gradient."""
        with torch.no_grad():
            episodes = self.prepare(episodes)
            return self._logprobs(self.policy_reader.head(episodes), episodes)

    def response_values(self, episodes: Episodes) -> Tensor:
        """[N] values of the states before all response tokens, row by row, without gradient."""
        assert self.critic is not None, "there is no critic to ask"
        with torch.no_grad():
            return self.critic.reader.values(self.prepare(episodes))

    def _minibatch(
        self, batch: Experience, raw_text: PackedBatch | None, totals: Totals, step: int, *, check_ratio: bool
    ) -> None:
        """One optimizer step on the loss of the minibatch, in however many microbatches."""
        tokens = int(batch.episodes.mask.sum())
        if tokens == 0:
            return
        divisors = loss_divisors(
            batch.episodes.mask, self.config.loss_aggregation, most_tokens=self.config.max_new_tokens
        )

        def share(rows: Tensor) -> tuple[Tensor, Microbatch]:
            part = self._microbatch(batch.rows(rows), tokens, divisors if isinstance(divisors, int) else divisors[rows])
            return part.loss, part._replace(loss=part.loss.detach())

        micros = self._microbatches(batch.episodes)
        weights = self.policy_masters.weights + ([] if self.critic is None else self.critic.masters.weights)
        parts = accumulate(weights, micros, share, at_once=self.at_once)
        loss = torch.stack([part.loss for part in parts]).sum()
        figures = {}
        if raw_text is not None:  # its gradients are added to those of the responses (Ouyang et al. 2022, app. C.4)
            figures["ptx_loss"] = ptx_loss = self._add_raw_text(raw_text)
            loss = loss + self.config.ptx_coef * ptx_loss
        for part in parts:
            totals.add(part.sums)
            totals.maximum(ratio_max=part.ratio)
        if check_ratio and torch.isfinite(loss):
            drift = torch.cat([part.drift for part in parts])
            ppo_checks.check_ratio_is_one(drift, step, self.config.precision)
            totals.sampler_drift = drift.abs().mean().item()
        trained = {"policy": (self.policy_masters, self.policy_optimizers)}
        if self.critic is not None:
            trained["critic"] = (self.critic.masters, self.critic.optimizers)
        for name, (_, optimizers) in trained.items():
            figures[f"{name}_grad_norm"] = _clip(optimizers, self.config.max_grad_norm)
        if not all(math.isfinite(x) for x in (loss.item(), *figures.values())):
            raise ppo_checks.non_finite_loss(self.scratch, step, self.state(), batch)
        for masters, optimizers in trained.values():
            optimizers.step(schedule(step, self.config))
            masters.write()
        totals.count_minibatch(tokens, figures | {"loss": loss.item()})

    def _add_raw_text(self, batch: PackedBatch) -> float:
        """Add the gradient of ptx_coef times the mean cross-entropy of raw text, and give that mean, nats a token."""
        tokens = int((batch.labels[:, 1:] >= 0).sum())

        def share(rows: slice) -> tuple[Tensor, float]:
            found = predict(self.policy, PackedBatch(*(tensor[rows].to(self.policy.device) for tensor in batch)))
            return found.total * (self.config.ptx_coef / tokens), found.total.item() / tokens

        count, width = batch.input_ids.shape
        size = self.config.microbatch_size
        if self.config.microbatch_tokens:
            size = max(1, self.config.microbatch_tokens // width)
        elif size is None:
            size = -(-count // shares(count)) if self.at_once else count
        micros = [slice(first, first + size) for first in range(0, count, size)]
        return sum(accumulate(self.policy_masters.weights, micros, share, at_once=self.at_once))

    def _microbatch(self, batch: Experience, tokens: int, divisors: int | Tensor) -> "Microbatch":
        """-L_clip - c_e * H (+ beta * KL), each token's over its divisor, and the critic's loss; summed.

        Args:
            tokens: of the minibatch.
            divisors: one number, or [B] for the tokens of each response.
        """
        config, episodes = self.config, batch.episodes
        old_logprobs, reference_logprobs, advantages = (
            x[episodes.mask] for x in (episodes.logprobs, batch.reference_logprobs, batch.advantages)
        )
        if not isinstance(divisors, int):
            divisors = divisors[:, None].expand_as(episodes.mask)[episodes.mask]

        def policy_losses(logprobs: Tensor, entropy: Tensor, at: slice) -> Tensor:
            losses = clipped_policy_loss(logprobs, old_logprobs[at], advantages[at], clip_range=config.clip_range).loss
            if config.entropy_coef:
                losses = losses - config.entropy_coef * entropy
            if estimator is not None:
                losses = losses + beta * kl_estimate(logprobs, reference_logprobs[at], estimator)
            return losses / (divisors if isinstance(divisors, int) else divisors[at])

        beta = self.controller.coefficient
        estimator = config.kl_estimator if config.kl_penalty == "loss" and config.kl_estimator != "exact" else None
        head = self.policy_reader.head(episodes)
        targets = episodes.response_ids()
        loss, logprobs, entropy = summed_losses(
            head.hidden, head.weight, targets, policy_losses, bias=head.bias, **self.sampled
        )
        policy = clipped_policy_loss(logprobs, old_logprobs, advantages, clip_range=config.clip_range)
        figures: dict[str, Tensor] = {
            "policy_loss": policy.loss,
            "entropy": entropy,
            "clip_fraction": policy.clipped,
            "approx_kl": approximate_kl(logprobs, old_logprobs),
        }
        if self.critic is not None:
            value_loss, of_critic = self.critic.loss(batch, tokens)
            loss, figures = loss + value_loss, figures | of_critic
        if estimator is not None:
            figures["kl_loss"] = kl_estimate(logprobs, reference_logprobs, estimator)
        elif config.kl_penalty == "loss":
            figures["kl_loss"] = kl = self._exact_kl_to_reference(head, episodes)
            loss = loss + scaled_sum(kl, beta, divisors)
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


def make_critic(critic: Critic | None, policy: Any, config: PolicySettings, seed: int) -> CriticLearner | None:
    """What trains the critic, for PPO; its relatives have none."""
    if isinstance(config, PPOSettings) != (critic is not None):
        raise ValueError(f"{type(config).__name__} got {'no' if critic is None else 'a'} critic")
    if critic is None or not isinstance(config, PPOSettings):
        return None
    return CriticLearner(critic, policy, config, seed)


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


def make_controller(config: PolicySettings) -> FixedKLController:
    """The controller that the settings ask for."""
    if config.kl_target is not None:
        return AdaptiveKLController(config.kl_coef, target=config.kl_target, horizon=config.kl_horizon)
    return FixedKLController(0.0 if config.kl_penalty == "none" else config.kl_coef)


def schedule(step: int, config: PolicySettings) -> float:
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
