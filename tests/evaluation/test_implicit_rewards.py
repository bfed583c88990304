"""Figures of implicit rewards, by hand."""

import pytest
import torch

from loopwright.evaluation.implicit_rewards import figures_of_labels, figures_of_pairs, ranking_accuracy
from loopwright.feedback.pairs import JudgementConfig, convert
from loopwright.schemas import Comparison, Message, Thumb
from loopwright.training.judged_groups import group
from loopwright.training.preference_pairs import labels_of, pairs_of

ASK = (Message(role="user", content="Hi"),)


def test_of_pairs():
    said = [
        Comparison(id="1", prompt=ASK, responses=("a", "b"), choice=1),
        Comparison(id="2", prompt=ASK, responses=("b", "c"), choice=0),
        Comparison(id="3", prompt=ASK, responses=("c", "a"), choice=0),
    ]
    pairs = pairs_of(group(convert(said, JudgementConfig())), {})
    found = figures_of_pairs(torch.tensor([1.0, 3.0, 3.0]), pairs, beta=0.5)  # of a, b, c
    assert found == pytest.approx(
        {
            "accuracy": (1 + 0.5 + 1) / 3,
            "margin": 0.5 * (2 + 0 + 2) / 3,
            "reward_chosen": 1.5,
            "reward_rejected": 0.5 * (1 + 3 + 1) / 3,
            "log_ratio": 7 / 3,
        }
    )
    assert ranking_accuracy(torch.tensor([-1.0, -2.0, -3.0]), pairs) == pytest.approx(1 / 3)


def test_of_thumbs():
    said = [
        Thumb(id=text, prompt=ASK, responses=(text,), good=good)
        for text, good in zip("abcd", (1, 0, 1, 0), strict=True)
    ]
    labels = labels_of(group(convert(said, JudgementConfig())))
    found = figures_of_labels(torch.tensor([4.0, 2.0, 1.0, -2.0]), labels, torch.tensor(2.0), beta=0.5)
    assert found == pytest.approx(
        {
            "thumb_accuracy": (1 + 0.5 + 0 + 1) / 4,
            "kl": 2.0,
            "log_ratio": 5 / 4,
            "auc": 3 / 4,
            "reward_desirable": 0.5 * 5 / 2,
            "reward_undesirable": 0.0,
        }
    )
