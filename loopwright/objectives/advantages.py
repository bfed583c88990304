"""From scores of responses to advantages of tokens."""

from typing import NamedTuple

import torch
from torch import Tensor


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
