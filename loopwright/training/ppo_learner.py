"""What PPO trains: policy and critic beside a frozen reference, and one update of them."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loopwright.errors import ModelError
from loopwright.models import lm_head
from loopwright.models.decoder import Decoder
from loopwright.models.heads import Critic, head_of
from loopwright.models.layers import unwrapped
from loopwright.models.trainable import adapters_off, make_trainable, trainable_parameters
from loopwright.objectives.kl import AdaptiveKLController, FixedKLController, Head, exact_kl, kl_estimate
from loopwright.objectives.logprobs import summed_losses, token_logprobs
from loopwright.objectives.ppo import approximate_kl, clipped_policy_loss, clipped_value_loss, explained_variance
from loopwright.runtime.cores import side_by_side
from loopwright.training import ppo_checks
from loopwright.training.gradients import accumulate, may_run_at_once
from loopwright.training.optim import Optimizers, make_optimizers
from loopwright.training.ppo_batch import Episodes, Experience, Observations, microbatches, permutation, spread
from loopwright.training.ppo_config import PPOSettings


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
        self.reference = None if config.trainable.mode == "lora" else copy.deepcopy(policy).requires_grad_(False)
        self.policy: Any = make_trainable(policy, config.trainable, seed)
        self.critic = critic.to(policy.device).requires_grad_(True)
        self.controller = make_controller(config)
        self.policy_optimizers = make_optimizers(self.policy.named_parameters(), config)
        self.critic_optimizers = make_optimizers(self.critic.named_parameters(), config.of_critic)
        self.at_once = may_run_at_once(self.policy, self.critic) and not self._switches_adapters()
        check_head(self.policy)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return self.policy_optimizers.parameters + self.critic_optimizers.parameters

    @torch.no_grad()
    def observe(self, episodes: Episodes) -> Observations:
        """Reference log-probabilities and values of sampled responses."""
        mask = episodes.mask
        logprobs, values = torch.zeros_like(episodes.logprobs), torch.zeros_like(episodes.logprobs)
        exact = torch.zeros_like(logprobs) if self.config.report_exact_kl else None

        def look(rows: Tensor) -> None:
            part = episodes.rows(rows)
            with self._as_reference() as reference:
                head = head_at_responses(reference, part)
                logprobs[rows] = spread(self._logprobs(head, part)[0], mask[rows])
            values[rows] = spread(self._values(part), mask[rows])
            if exact is not None:
                exact[rows] = spread(exact_kl(head_at_responses(self.policy, part), head, **self.sampled), mask[rows])

        # Adapters that one row switches off would be off for the others.
        side_by_side(look, self._microbatches(episodes), at_once=self.at_once and self.reference is not None)
        return Observations(logprobs, values, exact)

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
            "policy": {name: parameter.detach() for name, parameter in trainable_parameters(self.policy)},
            "critic": self.critic.state_dict(),
            "policy_optimizers": self.policy_optimizers.state(),
            "critic_optimizers": self.critic_optimizers.state(),
            "kl_controller": self.controller.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.policy):
                parameter.copy_(state["policy"][name])
        self.critic.load_state_dict(state["critic"])
        self.policy_optimizers.load_state(state["policy_optimizers"])
        self.critic_optimizers.load_state(state["critic_optimizers"])
        self.controller.load(state["kl_controller"])

    def response_logprobs(self, episodes: Episodes) -> Tensor:
        """[N] log-probabilities of all response tokens under the policy, row by row, without gradient."""
        with torch.no_grad():
            return self._logprobs(head_at_responses(self.policy, episodes), episodes)[0]

    def response_values(self, episodes: Episodes) -> Tensor:
        """[N] values of the states before all response tokens, row by row, without gradient."""
        with torch.no_grad():
            return self._values(episodes)

    def _minibatch(self, batch: Experience, totals: "Totals", step: int, *, check_ratio: bool) -> None:
        """One optimizer step on the token mean over the minibatch, in however many microbatches."""
        tokens = int(batch.episodes.mask.sum())
        if tokens == 0:
            return

        def share(rows: Tensor) -> tuple[Tensor, Microbatch]:
            part = self._microbatch(batch.rows(rows), tokens)
            return part.loss, part._replace(loss=part.loss.detach())

        micros = self._microbatches(batch.episodes)
        parts = accumulate(self.parameters, micros, share, at_once=self.at_once)
        loss = torch.stack([part.loss for part in parts]).sum()
        for part in parts:
            totals.add(part.sums)
            totals.maximum(ratio_max=part.ratio)
        if check_ratio and torch.isfinite(loss):
            ppo_checks.check_ratio_is_one(torch.cat([part.drift for part in parts]), step)
        norms = {
            "policy_grad_norm": _clip(self.policy_optimizers, self.config.max_grad_norm),
            "critic_grad_norm": _clip(self.critic_optimizers, self.config.max_grad_norm),
        }
        if not all(math.isfinite(x) for x in (loss.item(), *norms.values())):
            raise ppo_checks.non_finite_loss(self.scratch, step, self.state(), batch)
        for optimizers in (self.policy_optimizers, self.critic_optimizers):
            optimizers.step(schedule(step, self.config))
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
        head = head_at_responses(self.policy, episodes)
        targets = episodes.response_ids()
        total, logprobs, entropy = summed_losses(
            head.hidden, head.weight, targets, policy_losses, bias=head.bias, **self.sampled
        )
        values = self._values(episodes)
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
        with torch.no_grad(), self._as_reference() as reference:
            fixed = head_at_responses(reference, episodes)
        return exact_kl(head, fixed, **self.sampled)

    def _logprobs(self, head: Head, episodes: Episodes) -> tuple[Tensor, Tensor]:
        return token_logprobs(head.hidden, head.weight, episodes.response_ids(), bias=head.bias, **self.sampled)

    def _values(self, episodes: Episodes) -> Tensor:
        decoder = Decoder.of(self.critic.model)
        if isinstance(decoder, Decoder):
            return head_of(self.critic.model)(decoder.read(*episodes.tokens())).squeeze(-1)
        # All ones: what stands behind a row's last token cannot reach back, and a mask would cost the fast attention.
        return self.critic(episodes.ids, torch.ones_like(episodes.ids))[episodes.predicts()]

    def _switches_adapters(self) -> bool:
        """Whether an update turns adapters off and on, which microbatches at the same time would see of each other."""
        return self.reference is None and self.config.kl_penalty == "loss" and self.config.kl_estimator == "exact"

    def _microbatches(self, episodes: Episodes) -> list[Tensor]:
        return microbatches(episodes.lengths(), self.config.microbatch_size or self.config.minibatch_size)

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The policy as it was before training: a frozen copy, or the same base with its adapters off."""
        if self.reference is not None:
            yield self.reference
        else:
            with adapters_off(self.policy):
                yield self.policy


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
        return tokens | whole | self._maxima


def head_at_responses(model: Any, episodes: Episodes) -> Head:
    """The hidden states that predict response tokens, [N, D], with the LM head; or logits, see `lm_head.read`."""
    decoder = Decoder.of(model)
    if isinstance(decoder, Decoder) and lm_head.head_is_all(unwrapped(model)):
        return lm_head.head_on(unwrapped(model), decoder.read(*episodes.tokens()))
    # No mask and no positions: rows start at place 0, and padding stands behind everything that is read.
    return lm_head.read(model, input_ids=episodes.ids).at(episodes.predicts())


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
