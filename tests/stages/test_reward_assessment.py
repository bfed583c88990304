"""Figures of a reward model on what it was not trained on."""

import pytest
import torch

from loopwright.rewards.base import Scores
from loopwright.schemas import Message
from loopwright.stages import reward_assessment
from loopwright.stages.reward_assessment import accuracy_with_covariates, agreement
from loopwright.training.judged_groups import Group, Pair
from loopwright.training.label_model import LabelModel


class Teacher:
    """Scores answers by what stands after their letter."""

    def score(self, samples):
        return Scores(torch.tensor([float(one.response[1:]) for one in samples]))


def test_agreement_with_a_teacher_by_hand(monkeypatch):
    """Of the teacher's five orders, the model has three, and one half where it cannot tell."""
    groups = [
        Group(str(i), (Message(role="user", content="Q"),), list(texts), rows=[[1]] * len(texts))
        for i, texts in enumerate((("a3", "b2", "c1"), ("d1", "e1"), ("f0", "g1"), ("h5", "i4")))
    ]
    ours = torch.tensor([3.0, 1.0, 2.0, 0.0, 9.0, 4.0, 4.0, 7.0, -7.0])
    monkeypatch.setattr(reward_assessment, "score_rows", lambda model, rows, pad_id: ours)
    found = agreement(None, Teacher(), groups, type("Tokenizer", (), {"pad_token_id": 0})())
    assert found == {"teacher_agreement": pytest.approx(3.5 / 5), "teacher_pairs": 5}
    assert agreement(None, Teacher(), groups[1:2], type("Tokenizer", (), {"pad_token_id": 0})()) == {}


class OnCPU:
    device = "cpu"


def test_accuracy_with_covariates_by_hand(monkeypatch):
    """Length alone decides the first pair, the score the second; in the third both say nothing."""
    texts, pairs = ["a", "b b b", "c", "d d d"], [Pair(0, 1, 1), Pair(2, 3, 0), Pair(0, 2, 0)]
    group = Group("0", (Message(role="user", content="Q"),), texts, pairs, rows=[[1]] * 4)
    scores = torch.tensor([0.0, -0.5, 0.0, -1.5])
    monkeypatch.setattr(reward_assessment, "score_rows", lambda model, rows, pad_id: scores)
    label_model = LabelModel([], ("length",), 2.0, ties=False)
    with torch.no_grad():
        label_model.length.fill_(2.0)  # nats of two words, so 2 of each of the first two pairs
    for scale, right in ((1.0, 1 + 0 + 0.5), (2.0, 1 + 1 + 0.5), (5.0, 0 + 1 + 0.5)):
        found = accuracy_with_covariates(OnCPU, label_model, [group], scale, 0)
        assert found == {"accuracy_with_covariates": pytest.approx(right / 3)}
    assert accuracy_with_covariates(OnCPU, label_model, [], 1.0, 0) == {}
    assert accuracy_with_covariates(OnCPU, LabelModel([], (), 1.0, ties=False), [group], 1.0, 0) == {}
