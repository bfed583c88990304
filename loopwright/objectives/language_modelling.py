"""Next-token cross-entropy, without ever holding [B, T, V]."""

from typing import NamedTuple

from torch import Tensor

from loopwright.objectives.logprobs import summed_losses

IGNORED = -100  # the label of a place that is not learned, as in transformers


class CrossEntropy(NamedTuple):
    total: Tensor  # scalar: sum over labelled tokens, nats; its gradient is ready
    tokens: Tensor  # scalar int64: how many tokens were labelled


def next_token_cross_entropy(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, *, bias: Tensor | None = None
) -> CrossEntropy:
    """Sum of -log p(label) over labelled places, and their count; divide by the count of the whole batch.

    Like transformers, it shifts: the state at place t predicts the label at t + 1, and `labels` is the input with -100
    where nothing is learned. The LM head runs on the labelled places only.

    Args:
        hidden: [B, T, D] last hidden states.
        weight: [V, D] LM head; None: `hidden` are the logits, [B, T, V].
        labels: [B, T] int64, -100 where ignored. The first column is never used.
        bias: [V] of the LM head, if it has one.
    """
    if hidden.shape[:2] != labels.shape:
        raise ValueError(f"hidden {tuple(hidden.shape)} and labels {tuple(labels.shape)} must agree in [B, T]")
    shifted = labels[:, 1:]
    learned = shifted != IGNORED
    return CrossEntropy(
        summed_cross_entropy(hidden[:, :-1][learned], weight, shifted[learned], bias=bias), learned.sum()
    )


def summed_cross_entropy(
    hidden: Tensor, weight: Tensor | None, targets: Tensor, *, bias: Tensor | None = None
) -> Tensor:
    """Scalar: the sum of -log p(target), nats; its gradient is ready.

    Args:
        hidden: [N, D] states, each of which predicts a target.
        weight: [V, D] LM head; None: `hidden` are the logits, [N, V].
        targets: [N] int64.
        bias: [V] of the LM head, if it has one.
    """
    return summed_losses(hidden, weight, targets, lambda logprobs, *_: -logprobs, bias=bias).total
