"""Losses of a policy on what people prefer, without a reward model.

All are functions of log-ratios, log pi(y|x) - log pi_ref(y|x): of a response to its prompt, in nats, summed over the
response's tokens, EOS included. beta times one is the implicit reward (Rafailov et al. 2023, arXiv:2305.18290, eq. 5),
up to a constant of the prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loopwright.objectives.preference import preference_loss


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    probability: Tensor | None = None,
) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) per pair, nats: direct preference optimisation.

    Rafailov et al. 2023, eq. 7 (arXiv:2305.18290): Bradley and Terry's loss of the implicit rewards. With
    label_smoothing = eps, the label is taken to be wrong with probability eps (conservative DPO, Mitchell 2023, "A note
    on DPO with noisy preferences & relationship to IPO", eq. 3):
        -(1 - eps) log sigmoid(beta h) - eps log sigmoid(-beta h),   h = chosen - rejected
    whose gradient is zero where sigmoid(beta h) = 1 - eps.

    Args:
        chosen: [N] log-ratios of the preferred responses.
        rejected: [N] log-ratios of the others.
        beta: how strongly the policy is held to the reference; the inverse of a distance in nats.
        label_smoothing: in [0, 0.5].
        probability: [N] that `chosen` is the better one, of soft labels; None: 1.
    """
    if label_smoothing:
        sure = torch.ones_like(chosen) if probability is None else probability
        probability = sure * (1 - label_smoothing) + (1 - sure) * label_smoothing
    return preference_loss(beta * (chosen - rejected), probability=probability)


def ipo_loss(chosen: Tensor, rejected: Tensor, *, beta: float, probability: Tensor | None = None) -> Tensor:
    """(chosen - rejected - 1 / (2 beta))^2 per pair: identity preference optimisation.

    Azar et al. 2023, eq. 17 (arXiv:2310.12036), whose tau is beta. The difference of log-ratios is drawn to
    1 / (2 beta) and no further, where DPO's grows for ever on labels that all agree. The loss of a soft label is
    the mean over the two labels it stands for, so the difference is drawn to (2 p - 1) / (2 beta).

    Args:
        chosen: [N] log-ratios of the preferred responses.
        rejected: [N] log-ratios of the others.
        beta: how strongly the policy is held to the reference.
        probability: [N] that `chosen` is the better one, of soft labels; None: 1.
    """
    right = (chosen - rejected - 0.5 / beta).square()
    if probability is None:
        return right
    return probability * right + (1 - probability) * (chosen - rejected + 0.5 / beta).square()


def kto_loss(
    log_ratios: Tensor,
    good: Tensor,
    baseline: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """lambda_y - v(x, y) per response: Kahneman-Tversky optimisation.

    Ethayarajh et al. 2024 (arXiv:2402.01306), with r the log-ratio and z_0 the baseline:
        v = lambda_D sigmoid(beta (r - z_0)) where y is desirable, else lambda_U sigmoid(beta (z_0 - r))

    Args:
        log_ratios: [N].
        good: [N] 1 desirable, 0 undesirable; between them the mean of both losses, so weighted.
        baseline: scalar, the estimate of KL(pi || pi_ref) that `mismatched_kl` gives; without gradient.
        beta: how risk-averse people are taken to be, and how strongly the policy is held to the reference.
        desirable_weight: lambda_D.
        undesirable_weight: lambda_U.
    """
    gain = beta * (log_ratios - baseline.detach())
    desirable = desirable_weight * (-gain).sigmoid()  # lambda_D - lambda_D sigmoid(gain), without cancellation
    undesirable = undesirable_weight * gain.sigmoid()
    good = good.to(log_ratios.dtype)
    return good * desirable + (1 - good) * undesirable


def mismatched_kl(log_ratios: Tensor) -> Tensor:
    """Scalar z_0 >= 0: max(0, the mean of log-ratios of responses to prompts they were not written for), detached.

    Ethayarajh et al. 2024, sec. 4.1: not an unbiased estimate of KL(pi || pi_ref), which would need samples of the
    policy, but a cheap level that is the same for all responses of a step. 0 without log-ratios.

    Args:
        log_ratios: [M] of prompts with other prompts' responses.
    """
    if not len(log_ratios):
        return log_ratios.new_zeros(())
    return log_ratios.detach().mean().clamp(min=0.0)
