"""From scores of responses to advantages of tokens: with a critic, or by comparing responses to one prompt."""

from typing import NamedTuple

import torch
from torch import Tensor

from loopwright.objectives.masking import whiten

STD_EPS = 1e-6  # joined to a group's deviation: rewards that differ by rounding alone teach next to nothing


class Advantages(NamedTuple):
    advantages: Tensor  # [B, T]
    returns: Tensor  # [B, T] the value function's target


def token_rewards(
    scores: Tensor,
    mask: Tensor,
    *,
    finished: Tensor,
    missing_eos_penalty: float,
    kl_penalty: Tensor | None = None,
    per_token: Tensor | None = None,
) -> Tensor:
    """[B, T] reward for emitting each token: the score at the last response token, less the KL penalty everywhere.

    r_t = -kl_penalty_t + per_token_t + [t is the last token] (score - [no EOS] missing_eos_penalty)

    Ziegler et al. 2019, eq. 2 (arXiv:1909.08593). EOS is a response token, so in a finished response the score
    lands on it. A truncated response has none; its score is reduced by `missing_eos_penalty`. An empty response has no
    token to reward.

    Args:
        scores: [B] reward of the whole response.
        mask: [B, T] bool, true on response tokens (a prefix of each row).
        finished: [B] bool, true where the response ends with EOS.
        missing_eos_penalty: subtracted from the score of each unfinished response.
        kl_penalty: [B, T] coefficient times KL per token, or None.
        per_token: [B, T] rewards that already belong to tokens, or None.
    """
    if not (scores.shape == finished.shape == mask.shape[:1] and mask.ndim == 2):
        raise ValueError(
            "token_rewards needs scores [B], finished [B] and mask [B, T], got "
            f"{tuple(scores.shape)}, {tuple(finished.shape)} and {tuple(mask.shape)}"
        )
    lengths = mask.sum(1)
    last = torch.arange(mask.shape[1], device=mask.device) == (lengths - 1)[:, None]  # all false in an empty row
    total = scores.float() - missing_eos_penalty * (~finished).float()
    rewards = torch.where(last, total[:, None], 0.0)
    if per_token is not None:
        rewards = rewards + per_token.masked_fill(~mask, 0.0)
    if kl_penalty is not None:
        rewards = rewards - kl_penalty.masked_fill(~mask, 0.0)
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation, one response per row.

    Schulman et al. 2016, eq. 16 (arXiv:1506.02438), as a recursion:
        delta_t = r_t + gamma * V_{t+1} - V_t
        A_t     = delta_t + gamma * lam * A_{t+1}

    Args:
        rewards: [B, T] reward for emitting token t.
        values: [B, T] value of the state before token t.
        mask: [B, T] bool, true on response tokens (a prefix of each row).

    The episode ends with the last response token, so V and A are zero
    after it. Not whitened: that is the caller's choice.
    """
    if not rewards.shape == values.shape == mask.shape:
        raise ValueError(
            "gae needs three [B, T] tensors of one shape, got "
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)}, mask {tuple(mask.shape)}"
        )
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = delta + gamma * lam * next_advantage
        next_value, next_advantage = values[:, t], advantages[:, t]
    advantages = advantages * mask
    return Advantages(advantages, advantages + values)


def leave_one_out(rewards: Tensor) -> Tensor:
    """[P, n] advantages of n responses to each of P prompts, over the mean of the other n - 1.

    RLOO (Ahmadian et al. 2024, arXiv:2402.14740; Kool et al. 2019):
        A_i = R_i - 1/(n - 1) sum_{j != i} R_j

    which is n/(n - 1) (R_i - mean R). No response is in its own baseline, so the gradient is unbiased.

    Args:
        rewards: [P, n] of whole responses, KL penalty included where it is part of the reward.
    """
    samples = _samples(rewards)
    return (rewards - rewards.mean(1, keepdim=True)) * (samples / (samples - 1))


def group_relative(rewards: Tensor, *, divide_by_std: bool) -> Tensor:
    """[P, n] advantages of n responses to each of P prompts, over the mean of all n.

    GRPO (Shao et al. 2024, sec. 4.1.2, arXiv:2402.03300), and without the division Dr. GRPO (Liu et al. 2025,
    arXiv:2503.20783):
        A_i = (R_i - mean R) / std R

    The paper does not say which deviation it means; ours is that of a sample (over n - 1), as its implementations have
    it, plus 1e-6. Responses that all have the same reward get 0.

    Args:
        rewards: [P, n] of whole responses.
    """
    _samples(rewards)
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + STD_EPS) if divide_by_std else centred


def reinforce_plus_plus(rewards: Tensor, mask: Tensor, *, group: int | None = None) -> Tensor:
    """[B, T] rewards still to come, normalised over all tokens of the batch.

    REINFORCE++ (Hu 2025, arXiv:2501.03262): with the score on the last token and -beta KL_t on each,
        A_t = sum_{i >= t} r_i = score - beta sum_{i >= t} KL_i        A <- (A - mean A) / std A

    The form with a baseline takes the mean of the whole reward, over the responses to one prompt, off before that.

    Args:
        rewards: [B, T] reward for emitting token t.
        mask: [B, T] bool, true on response tokens (a prefix of each row).
        group: so many neighbouring rows answer one prompt, whose mean reward is the baseline; None: no baseline.
    """
    rewards = rewards.masked_fill(~mask, 0.0)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    if group is not None:
        grouped = rewards.sum(1).view(-1, group)
        _samples(grouped)
        to_come = to_come - grouped.mean(1, keepdim=True).expand_as(grouped).reshape(-1, 1)
    return whiten(to_come, mask)


def on_every_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """[B, T] from [P, n]: rows of one prompt are neighbours, and all tokens of a response have its advantage."""
    return advantages.reshape(-1, 1) * mask


def _samples(rewards: Tensor) -> int:
    """How many responses a prompt has."""
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards are {tuple(rewards.shape)}; give [P, n] with at least n = 2 responses to a prompt, "
            "because one alone has nothing to be compared with"
        )
    return rewards.shape[1]
