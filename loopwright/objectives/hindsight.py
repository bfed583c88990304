"""Learning from answers of every quality: what an answer achieved becomes the instruction it is learned under.

Zhang et al. 2023, "The Wisdom of Hindsight Makes Language Models Better Instruction Followers" (HIR, arXiv:2302.05206),
and the bins of Lu et al. 2022, "Quark" (arXiv:2205.13636).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class HindsightLoss(NamedTuple):
    """Sums over the answers given, so that how a minibatch is cut never matters."""

    total: Tensor  # scalar with a gradient; its sum over the minibatch, divided by the minibatch's tokens, is minimised
    supervised: Tensor  # scalar: over tokens, nats
    contrastive: Tensor  # scalar: over answers, nats
    entropy: Tensor  # scalar: over tokens, nats


def hindsight_loss(
    logprobs: Tensor,
    entropy: Tensor,
    mask: Tensor,
    own: Tensor,
    *,
    alpha: float,
    beta: float,
    tokens_per_answer: float,
) -> HindsightLoss:
    """L_supervise + alpha L_contrastive + beta L_entropy of HIR (arXiv:2302.05206, eq. 6).

    With o an answer, q its prompt and p* the instruction that says what it achieved:
        L_supervise   = mean over tokens of -log P(o_t | q, p*, o_<t)
        L_contrastive = mean over answers of `contrastive_loss`
        L_entropy     = mean over tokens of sum_v P_v log P_v                                (eq. 5: minus the entropy)

    With alpha = beta = 0 this is next-token cross-entropy.

    Args:
        logprobs: [B, K, T] of the answer's tokens after its prompt with each of K instructions, nats.
        entropy: [B, T] of the distributions under its own instruction, nats.
        mask: [B, T] bool, true on the answer's tokens.
        own: [B] int64, which of the K instructions says what the answer achieved.
        tokens_per_answer: of the whole minibatch, of which these may be a part: it makes a mean over answers of what is
            divided by tokens.
    """
    if logprobs.ndim != 3 or not logprobs[:, 0].shape == entropy.shape == mask.shape:
        raise ValueError(
            "hindsight_loss needs logprobs [B, K, T] and entropy and mask [B, T], got "
            f"{tuple(logprobs.shape)}, {tuple(entropy.shape)} and {tuple(mask.shape)}"
        )
    logprobs = logprobs.masked_fill(~mask[:, None], 0.0)
    supervised = -logprobs[torch.arange(len(own), device=own.device), own].sum()
    contrastive = contrastive_loss(logprobs.sum(2), own).sum()
    spread = entropy.masked_fill(~mask, 0.0).sum()
    total = supervised + alpha * tokens_per_answer * contrastive - beta * spread
    return HindsightLoss(total, supervised.detach(), contrastive.detach(), spread.detach())


def contrastive_loss(logprobs: Tensor, own: Tensor) -> Tensor:
    """[B] -log of how surely an answer tells its own instruction from the others (arXiv:2302.05206, eq. 4).

    -log (exp P_ii / sum_k exp P_ik), with P_ik = log P(o_i | q_i, p_k). In the paper k runs over the rows of a batch,
    with their prompts; here over K different instructions of one prompt, as in the authors' code (offline_trainer.py):
    among rows an instruction would have to tell itself from itself wherever two rows share it. So the unit is one
    answer, whatever else is in its batch.

    Args:
        logprobs: [B, K] of a whole answer under each instruction, nats.
        own: [B] int64.
    """
    return torch.nn.functional.cross_entropy(logprobs, own, reduction="none")


def quantile_bins(scores: Tensor, edges: Sequence[float]) -> Tensor:
    """[N] int64: the bin of each score, 0 the lowest, by the share of scores below it.

    The quantiles of Lu et al. 2022 (arXiv:2205.13636), but equal scores share a bin: half of them count as below. The
    highest score of all is always in the highest bin, and the lowest, where it is another, in the lowest: two values of
    a reward are told apart whatever their shares.

    Args:
        scores: [N], finite.
        edges: ascending shares in (0, 1), one less than there are bins.
    """
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    below = (counts.cumsum(0) - 0.5 * counts) / len(scores)
    bins = torch.bucketize(below.double(), torch.tensor(edges, dtype=torch.float64), right=True)
    bins[0] = 0
    bins[-1] = len(edges)
    return bins[place]
