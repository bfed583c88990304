"""How well a score tells labelled passages apart, beside what counting words gets."""

from collections.abc import Callable

import torch
from torch import Tensor

from loopwright.data.labelled import Labelled
from loopwright.evaluation.text_classifier import TextClassifier


def label_accuracy(score: Callable[[list[str]], Tensor], train: Labelled, held_out: Labelled) -> dict[str, float]:
    """The share of held-out labels called right by a score and by TF-IDF, both fitted to the training labels alone."""
    threshold = best_threshold(score(train.texts), torch.tensor(train.labels))
    called = score(held_out.texts) > threshold
    return {
        "label_accuracy": float((called == torch.tensor(held_out.labels).bool()).double().mean()),
        "label_threshold": threshold,
        "tfidf_accuracy": TextClassifier.train(train).accuracy(held_out),
    }


def best_threshold(scores: Tensor, labels: Tensor) -> float:
    """The score above which to say 1 that is right most often, half-way between its two neighbours.

    Args:
        scores: [N]
        labels: [N] 0 or 1
    """
    order = scores.argsort(stable=True)
    scores, labels = scores[order].double(), labels[order].long()
    # right[i]: the i lowest are called 0, the others 1.
    zeros = torch.cat([torch.zeros(1, dtype=torch.long), (1 - labels).cumsum(0)])
    ones = labels.sum() - torch.cat([torch.zeros(1, dtype=torch.long), labels.cumsum(0)])
    bounds = torch.cat([scores[:1] - 1, (scores[:-1] + scores[1:]) / 2, scores[-1:] + 1])
    parted = torch.ones(len(bounds), dtype=torch.bool)
    parted[1:-1] = scores[:-1] < scores[1:]  # equal scores get one answer
    return float(bounds[(zeros + ones).masked_fill(~parted, -1).argmax()])
