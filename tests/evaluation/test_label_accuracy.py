import pytest
import torch

from loopwright.data.labelled import Labelled
from loopwright.evaluation.label_accuracy import best_threshold, label_accuracy


@pytest.mark.parametrize(
    ("scores", "labels", "threshold"),
    [
        ([3.0, -1.0, 5.0, 1.0], [1, 0, 1, 0], 2.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [0, 1, 1, 1, 1], 1.5),  # not the median
        ([1.0, 2.0, 3.0], [1, 1, 1], 0.0),
        ([1.0, 2.0, 3.0], [0, 0, 0], 4.0),
        ([1.0, 2.0, 2.0, 3.0], [0, 0, 1, 1], 1.5),  # equal scores cannot be parted
    ],
)
def test_threshold_by_hand(scores, labels, threshold):
    assert best_threshold(torch.tensor(scores), torch.tensor(labels)) == threshold


def test_the_threshold_comes_from_the_training_labels():
    train = Labelled(["good warm", "bad cold", "good", "bad"], [1, 0, 1, 0])
    held_out = Labelled(["good good", "bad bad", "cold good", "warm bad"], [1, 0, 0, 1])

    def score(texts):
        return torch.tensor([100.0 + text.count("good") for text in texts])

    got = label_accuracy(score, train, held_out)
    assert got["label_accuracy"] == 0.5 and got["label_threshold"] == 100.5
    assert 0 <= got["tfidf_accuracy"] <= 1
