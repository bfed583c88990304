"""The loss of a model that says of each token of a response whether a person would have marked it."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def span_loss(logits: Tensor, marks: Tensor, mask: Tensor) -> Tensor:
    """-log of the probability of each response token's mark, nats, summed: marked with probability sigmoid(logit).

    Logistic regression on tokens: a classifier of marked passages, as Wu et al. 2023 (arXiv:2306.01693) train theirs
    on segments of an answer.

    Args:
        logits: [N, T].
        marks: [N, T] 1 where marked, 0 where not; between them for soft labels.
        mask: [N, T] bool, true on response tokens; what stands elsewhere never matters, NaN included.

    Returns:
        A scalar. Over the number of true places in `mask` it is the mean of a token.
    """
    if not logits.shape == marks.shape == mask.shape:
        raise ValueError(
            "span_loss needs three [N, T] tensors of one shape, got "
            f"logits {tuple(logits.shape)}, marks {tuple(marks.shape)}, mask {tuple(mask.shape)}"
        )
    logits = logits[mask]
    return binary_cross_entropy_with_logits(logits, marks[mask].to(logits.dtype), reduction="sum")
