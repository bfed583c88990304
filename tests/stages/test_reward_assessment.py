"""Figures of a reward model on what it was not trained on."""

import pytest
import torch

from loopwright.rewards.base import Scores
from loopwright.schemas import Message
from loopwright.stages import reward_assessment
from loopwright.stages.reward_assessment import agreement
from loopwright.training.judged_groups import Group


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
