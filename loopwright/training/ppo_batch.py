"""The data of a PPO step: which prompts, how rows lie in memory, and from scores to advantages.

Rows are kept as [prompt][response][padding]. The padding is on the right only, behind everything that is read: with
causal attention no real token can see it, so no mask is needed, and a microbatch is as wide as its longest row.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from loopwright.kernels.functions import Rows
from loopwright.models.decoder import Tokens
from loopwright.objectives.advantages import (
    gae,
    group_relative,
    leave_one_out,
    on_every_token,
    reinforce_plus_plus,
    token_rewards,
)
from loopwright.objectives.kl import kl_estimate
from loopwright.objectives.masking import whiten
from loopwright.training.critic_free_config import GRPOSettings, ReinforcePlusPlusSettings, RLOOSettings
from loopwright.training.ppo_config import PolicySettings, PPOSettings


class Sampled(Protocol):
    """What an engine gives back (generation/base.py, `Rollouts`)."""

    @property
    def prompt_ids(self) -> Tensor: ...  # [B, P], padded on the left
    @property
    def prompt_mask(self) -> Tensor: ...  # [B, P] bool
    @property
    def response_ids(self) -> Tensor: ...  # [B, R], padded on the right
    @property
    def response_mask(self) -> Tensor: ...  # [B, R] bool
    @property
    def logprobs(self) -> Tensor: ...  # [B, R]
    @property
    def finished(self) -> Tensor: ...  # [B] bool


class Episodes(NamedTuple):
    """Sampled responses with their prompts, one a row."""

    ids: Tensor  # [B, W] int64, prompt and response without a gap
    prompt_lengths: Tensor  # [B] int64, at least 1
    mask: Tensor  # [B, R] bool, true on response tokens (a prefix of each row)
    logprobs: Tensor  # [B, R] of the sampler, at the sampling temperature
    finished: Tensor  # [B] bool, the response ends with EOS
    below: Tensor | None = None  # [B, W, D] what frozen blocks, computed once for all that share them, make of ids

    @classmethod
    def of(cls, sampled: Sampled, device: torch.device) -> Self:
        """Close the gap that padding leaves between the start of the row and the prompt."""
        ids = torch.cat((sampled.prompt_ids, sampled.response_ids), dim=1)
        prompt_lengths = sampled.prompt_mask.sum(1)
        gap = sampled.prompt_ids.shape[1] - prompt_lengths
        columns = torch.arange(ids.shape[1], device=ids.device) + gap[:, None]
        ids = ids.gather(1, columns.clamp(max=ids.shape[1] - 1))
        parts = (ids, prompt_lengths, sampled.response_mask, sampled.logprobs, sampled.finished)
        return cls(*(part.to(device) for part in parts))

    def rows(self, index: Tensor) -> Self:
        """The chosen rows, trimmed to the longest of them."""
        ids, prompt_lengths, mask, logprobs, finished = (field[index] for field in self[:5])
        width = int((prompt_lengths + mask.sum(1)).max())
        below = None if self.below is None else self.below[index, :width]
        return type(self)(ids[:, :width], prompt_lengths, mask, logprobs, finished, below)

    def lengths(self) -> Tensor:
        """[B] int64: tokens of prompt and response."""
        return self.prompt_lengths + self.mask.sum(1)

    def predicts(self) -> Tensor:
        """[B, W] bool: the places whose next token is a response token, in the same order as `mask` read row by row."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device) + 1
        return (columns >= self.prompt_lengths[:, None]) & (columns < self.lengths()[:, None])

    def real(self) -> Tensor:
        """[B, W] bool: the places of real tokens."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths()[:, None]

    def tokens(self) -> tuple[Tokens, Tensor]:
        """The real tokens, and [N] bool, true on those whose next token is a response token."""
        kept = self.real()
        columns = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        return Tokens(self.ids[kept], Rows.of(self.lengths()), columns[kept]), self.predicts()[kept]

    def response_ids(self) -> Tensor:
        """[N] int64: all response tokens, row by row."""
        return self.ids[:, 1:][self.predicts()[:, :-1]]


class Observations(NamedTuple):
    """What the frozen reference and the critic say of episodes, before an update. Token tensors are [B, R]."""

    reference_logprobs: Tensor
    values: Tensor | None  # of the state before each token; None: there is no critic
    exact_kl: Tensor | None = None  # over the full vocabulary, when it is to be reported
    policy_logprobs: Tensor | None = None  # as the learner computes them, where that differs from the sampler


class Experience(NamedTuple):
    """Everything an update reads. Token tensors are [B, R]."""

    episodes: Episodes
    reference_logprobs: Tensor
    values: Tensor | None  # of the state before each token; None: there is no critic
    advantages: Tensor
    returns: Tensor | None  # what the critic learns

    def rows(self, index: Tensor) -> Self:
        """The chosen rows."""
        fields: Any = (None if field is None else field[index] for field in self[1:])
        return type(self)(self.episodes.rows(index), *fields)


def with_advantages(
    episodes: Episodes,
    observed: Observations,
    scores: tuple[Tensor, Tensor | None],
    kl_coef: float,
    config: PolicySettings,
) -> tuple[Experience, dict[str, float]]:
    """From scores to advantages over the whole rollout batch, and the figures of the batch.

    Above `max_kl` the advantages are those of -KL alone, without discount, critic or score, so that the step leads back
    to the reference; the critic goes on learning the returns of the real reward.

    Args:
        scores: [B] per response, and [B, R] per token or None; on any device, they are moved to the episodes'.
            Of `samples_per_prompt` neighbouring rows each, the responses to one prompt.
        kl_coef: the coefficient before this batch changes it.
    """
    mask, reference_logprobs, values = episodes.mask, observed.reference_logprobs, observed.values
    episodes, correction = as_learned(episodes, observed, config)
    k1 = token_kl(episodes, observed)
    penalty = None
    if config.kl_penalty == "reward" and config.kl_estimator != "exact":
        penalty = kl_coef * kl_estimate(episodes.logprobs, reference_logprobs, config.kl_estimator)
    total, per_token = (None if part is None else part.to(mask.device) for part in scores)
    assert total is not None
    rewards = token_rewards(
        total,
        mask,
        finished=episodes.finished,
        missing_eos_penalty=config.missing_eos_penalty,
        kl_penalty=penalty,
        per_token=per_token,
    )
    reward = rewards.sum(1).mean().item()
    advantages, returns = estimate(rewards, values, mask, config)
    kl = k1.sum(1).mean().item()
    beyond = config.max_kl is not None and kl > config.max_kl
    if beyond:
        advantages = whiten(gae(-k1, torch.zeros_like(k1), mask, gamma=1.0, lam=1.0).advantages, mask)
    figures = {"reward": reward, "kl": kl}
    if config.samples_per_prompt > 1:
        grouped = total.view(-1, config.samples_per_prompt)
        figures["equal_groups"] = (grouped == grouped[:, :1]).all(1).float().mean().item()
    if correction is not None:
        advantages = advantages * correction.ratio
        figures["sampler_drift"] = correction.drift
    if config.max_kl is not None:
        figures["beyond_max_kl"] = float(beyond)
    if observed.exact_kl is not None:
        figures["kl_exact"] = observed.exact_kl.sum(1).mean().item()
    return Experience(episodes, reference_logprobs, values, advantages, returns), figures


def estimate(
    rewards: Tensor, values: Tensor | None, mask: Tensor, config: PolicySettings
) -> tuple[Tensor, Tensor | None]:
    """[B, R] advantages by the rule of the settings, and the returns that a critic learns, where there is one.

    Args:
        rewards: [B, R] of tokens, 0 on padding; their sum over a row is the reward of the response.
    """
    whole = rewards.sum(1).view(-1, config.samples_per_prompt)  # [P, n], a prompt a row
    match config:
        case PPOSettings():
            assert values is not None, "PPO has a critic"
            if config.whiten_rewards:
                rewards = whiten(rewards, mask, shift_mean=False)
            advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
            return whiten(advantages, mask) if config.whiten_advantages else advantages, returns
        case RLOOSettings():
            return on_every_token(leave_one_out(whole), mask), None
        case GRPOSettings():
            return on_every_token(group_relative(whole, divide_by_std=config.divide_by_std), mask), None
        case ReinforcePlusPlusSettings():
            group = config.samples_per_prompt if config.group_baseline else None
            return reinforce_plus_plus(rewards, mask, group=group), None
    raise ValueError(f"{type(config).__name__} has no rule for advantages; add one here")


class Correction(NamedTuple):
    """For tokens that the learner finds more or less likely than the sampler did when it drew them."""

    ratio: Tensor  # [B, R] what to weigh each token with
    drift: float  # mean distance of the two log-probabilities, nats


def as_learned(
    episodes: Episodes, observed: Observations, config: PolicySettings
) -> tuple[Episodes, Correction | None]:
    """Episodes with the learner's log-probabilities, where it and the sampler differ, and what to weigh tokens with.

    The ratio is min(pi_learner / pi_sampler, importance_cap): truncated importance sampling (Ionides 2008,
    doi:10.1198/106186008X320456), as Espeholt et al. 2018 (arXiv:1802.01561) weigh policy gradients.
    """
    if observed.policy_logprobs is None:
        return episodes, None
    difference = (observed.policy_logprobs - episodes.logprobs).masked_fill(~episodes.mask, 0.0)
    ratio = difference.exp().clamp(max=config.importance_cap)
    drift = difference.abs().sum() / episodes.mask.sum().clamp(min=1)
    return episodes._replace(logprobs=observed.policy_logprobs), Correction(ratio, drift.item())


def token_kl(episodes: Episodes, observed: Observations) -> Tensor:
    """[B, R] k1 of each response token in nats, 0 elsewhere; its sum over a row is the KL that is reported."""
    return kl_estimate(episodes.logprobs, observed.reference_logprobs, "k1").masked_fill(~episodes.mask, 0.0)


def spread(flat: Tensor, mask: Tensor) -> Tensor:
    """[B, R] from the [N] values of the mask's true places, row by row; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def microbatches(lengths: Tensor, *, rows: int | None = None, tokens: int | None = None) -> list[Tensor]:
    """Row indices in groups of at most so many rows and tokens, or of one longer row; rows of like length together."""
    order = torch.argsort(lengths, stable=True)
    groups: list[list[int]] = []
    total = 0
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        full = not groups or len(groups[-1]) == rows or (tokens is not None and total + length > tokens)
        if full:
            groups.append([])
            total = 0
        groups[-1].append(row)
        total += length
    return [torch.tensor(group, device=lengths.device) for group in groups]


def even_parts(lengths: Tensor, parts: int) -> list[Tensor]:
    """Row indices in at most so many groups of about as many tokens each, rows of like length together."""
    order = torch.argsort(lengths, stable=True)
    sizes = lengths[order]
    middles = sizes.cumsum(0) - sizes / 2
    part = (middles * parts / sizes.sum()).long()
    return [order[part == i] for i in range(parts) if bool((part == i).any())]


def permutation(count: int, seed: int) -> Tensor:
    """A permutation of `count` rows that depends on the seed alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def prompts_of_step(count: int, step: int, per_step: int, seed_of_epoch: Callable[[int], int]) -> Sequence[int]:
    """The prompts of a step: a place in an endless sequence of fresh permutations, so that no state needs saving.

    Args:
        count: how many prompts there are.
        per_step: how many a step takes; may be more than `count`.
        seed_of_epoch: the seed of each pass over the prompts.
    """
    first, end = step * per_step, (step + 1) * per_step
    chosen: list[int] = []
    for epoch in range(first // count, (end - 1) // count + 1):
        order = permutation(count, seed_of_epoch(epoch)).tolist()
        chosen += order[max(first - epoch * count, 0) : end - epoch * count]
    return chosen
