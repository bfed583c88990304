"""What a policy that was trained without a reward model says of judged responses: beta times its log-ratios."""

from __future__ import annotations

import torch
from torch import Tensor

from loopwright.evaluation.metrics import area_under_curve
from loopwright.training.preference_pairs import Labels, Pairs


def figures_of_pairs(log_ratios: Tensor, pairs: Pairs, *, beta: float) -> dict[str, float]:
    """Means over pairs, each once: how often the chosen response has the higher reward (ties half), and rewards.

    Args:
        log_ratios: [N] nats.
        beta: what a nat is worth.
    """
    chosen, rejected = (beta * log_ratios[places] for places in (pairs.chosen, pairs.rejected))
    return {
        "accuracy": _higher(chosen, rejected),
        "margin": float((chosen - rejected).mean()),
        "reward_chosen": float(chosen.mean()),
        "reward_rejected": float(rejected.mean()),
        "log_ratio": float(log_ratios.mean()),
    }


def ranking_accuracy(logprobs: Tensor, pairs: Pairs) -> float:
    """How often the chosen response is the likelier one, ties half.

    Chen et al. 2024 (arXiv:2405.19534): it may stay low while the accuracy of the implicit rewards is high.

    Args:
        logprobs: [N] log-probabilities of whole responses, nats.
    """
    return _higher(logprobs[pairs.chosen], logprobs[pairs.rejected])


def figures_of_labels(log_ratios: Tensor, labels: Labels, baseline: Tensor, *, beta: float) -> dict[str, float]:
    """Means over thumbs, each once; soft ones count by their share on either side.

    `thumb_accuracy` is how often a reward is above the baseline where the thumb is up, and below it where it is down;
    `auc` how often an answer with its thumb up has a higher reward than one, to any prompt, with its thumb down.

    Args:
        log_ratios: [N] nats.
        baseline: scalar, nats.
        beta: what a nat is worth.
    """
    own, good = log_ratios[labels.place], labels.target
    above = torch.where(own == baseline, 0.5, (own > baseline).float())
    found = {
        "thumb_accuracy": float((good * above + (1 - good) * (1 - above)).mean()),
        "kl": float(baseline),
        "log_ratio": float(log_ratios.mean()),
    }
    if (auc := area_under_curve(own.tolist(), (good > 0.5).tolist())) is not None:
        found["auc"] = auc
    for name, share in (("reward_desirable", good), ("reward_undesirable", 1 - good)):
        if share.any():
            found[name] = float((share * beta * own).sum() / share.sum())
    return found


def _higher(first: Tensor, second: Tensor) -> float:
    return float(torch.where(first == second, 0.5, (first > second).float()).mean())
