"""What is learned of labels beside the scores."""

import math

import pytest
import torch
from torch.testing import assert_close

from loopwright.objectives.preference import bradley_terry_loss, preference_loss
from loopwright.training.label_model import AnnotatorConfig, LabelModel, Prior, priors_of, reliabilities, spread_of
from loopwright.training.preference_pairs import KINDS, Labels, Pairs


def pairs_of(count, **columns):
    """Pairs of response 0 and 1."""
    given = {
        "chosen": torch.zeros(count, dtype=torch.int64),
        "rejected": torch.ones(count, dtype=torch.int64),
        "probability": torch.ones(count),
        "tie": torch.zeros(count, dtype=torch.bool),
        "margin": torch.zeros(count),
        "weight": torch.ones(count),
        "annotator": torch.zeros(count, dtype=torch.int64),
        "position": torch.zeros(count),
        "length": torch.zeros(count),
    }
    return Pairs(**(given | columns))


def labels_of(*said):
    """Labels (response, kind, target, annotator)."""
    places, kinds, targets, who = zip(*said, strict=True) if said else ((), (), (), ())
    return Labels(
        place=torch.tensor(places, dtype=torch.int64),
        target=torch.tensor(targets, dtype=torch.float32),
        weight=torch.ones(len(said)),
        kind=torch.tensor([KINDS.index(kind) for kind in kinds], dtype=torch.int64),
        annotator=torch.tensor(who, dtype=torch.int64),
    )


def logsig(x):
    return -math.log1p(math.exp(-x))


def test_with_nothing_to_learn_it_is_bradley_terry():
    model, scores = LabelModel([], (), 1.0, ties=False), torch.tensor([1.2, 0.4])
    assert not list(model.parameters()) and model.figures() == {}
    assert_close(model(scores, pairs_of(2)), bradley_terry_loss(scores[:1], scores[1:]).expand(2))
    assert float(model.prior_loss()) == 0.0


def test_margins_and_soft_labels_by_hand():
    model, scores = LabelModel([], (), 1.0, ties=False), torch.tensor([1.2, 0.4])
    pairs = pairs_of(2, margin=torch.tensor([0.3, 1.0]), probability=torch.tensor([0.9, 1.0]))
    soft, hard = -(0.9 * logsig(0.8 - 0.3) + 0.1 * logsig(0.3 - 0.8)), -logsig(0.8 - 1.0)
    assert_close(model(scores, pairs), torch.tensor([soft, hard]))


def test_labels_by_hand():
    model, scores = LabelModel([], (), 1.0, ties=False), torch.tensor([1.2, 0.4])
    labels = labels_of((0, "thumb", 1.0, -1), (1, "safety", 0.0, -1), (1, "rating", 2.4, -1), (1, "thumb", 0.0, -1))
    expected = [-logsig(1.2 + 0.5), -logsig(-0.4), (0.4 - 2.4) ** 2 / 2, -logsig(-0.4 - 0.5)]
    assert_close(model.of_labels(scores, labels, 0.5), torch.tensor(expected))  # the prior is that of thumbs alone


def test_a_thumb_is_what_its_annotator_saw_or_the_opposite():
    model, scores = LabelModel([Prior(8.0, 2.0), Prior(6.0, 4.0)], (), 1.0, ties=False), torch.tensor([1.2, 0.4])
    labels = labels_of((0, "thumb", 1.0, 1), (1, "thumb", 0.0, 0), (1, "safety", 0.0, 0), (1, "rating", 2.4, -1))
    up, down = (1 / (1 + math.exp(-score - 0.5)) for score in (1.2, 0.4))
    expected = [-math.log(0.6 * up + 0.4 * (1 - up)), -math.log(0.8 * (1 - down) + 0.2 * down), -logsig(-0.4), 2.0]
    assert_close(model.of_labels(scores, labels, 0.5), torch.tensor(expected))
    model.of_labels(scores.requires_grad_(), labels, 0.5, unseen=False).sum().backward()
    assert model.log_odds.grad is None and scores.grad.abs().sum() > 0
    model.of_labels(scores, labels, 0.5).sum().backward()
    assert (model.log_odds.grad != 0).all()


def test_covariates_by_hand():
    model, scores = LabelModel([], ("position", "length"), 4.0, ties=False), torch.tensor([1.0, 0.0])
    with torch.no_grad():
        model.position.fill_(0.5)
        model.length.fill_(2.0)
    pairs = pairs_of(2, position=torch.tensor([1.0, -1.0]), length=torch.tensor([2.0, -4.0]))
    assert_close(model.differences(scores, pairs), torch.tensor([1 + 0.5 + 1.0, 1 - 0.5 - 2.0]))
    assert model.figures() == {"position_nats": 0.5, "length_nats": 2.0, "length_words": 4.0}


def test_an_annotator_has_a_reliability_and_a_prior():
    model = LabelModel([Prior(9.0, 1.0), Prior(6.0, 4.0)], (), 1.0, ties=True)
    scores, pairs = torch.tensor([1.0, 0.0]), pairs_of(2, annotator=torch.tensor([1, 0]))
    expected = preference_loss(torch.ones(2), log_nu=torch.zeros(()), reliability=torch.tensor([0.6, 0.9]))
    assert_close(model(scores, pairs), expected)
    by_hand = -(9 * math.log(0.9) + math.log(0.1) + 6 * math.log(0.6) + 4 * math.log(0.4))
    assert_close(model.prior_loss(), torch.tensor(by_hand))
    model.prior_loss().backward()
    assert_close(model.log_odds.grad, torch.zeros(2))  # it starts where the prior is highest


def test_gold_answers_count_as_they_are():
    config = AnnotatorConfig(accuracy=0.75, labels=4)
    assert priors_of(["ann", "bob"], config, {"ann": (10, 2)}) == [Prior(13.0, 3.0), Prior(3.0, 1.0)]


def judged(model, difference, who):
    """What labels say of annotators when the response called better has so much higher a score."""
    count = len(difference)
    pairs = pairs_of(count, annotator=who, chosen=torch.arange(count), rejected=torch.full((count,), count))
    return found_in(model, torch.cat((difference, torch.zeros(1))), pairs)


def found_in(model, scores, pairs, labels=None, log_odds=0.0):
    return reliabilities(model, *model.evidence(scores, pairs, labels or labels_of(), log_odds).values())


def test_reliabilities_are_found_and_their_intervals_hold():
    truth, labels = torch.tensor([0.95, 0.75, 0.5]), 2000
    model = LabelModel(priors_of(["a", "b", "c"], AnnotatorConfig(), {}), (), 1.0, ties=False)
    who = torch.arange(3).repeat(labels)
    inside = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        difference = torch.randn(len(who), generator=generator) * 2
        better = torch.rand(len(who), generator=generator) < difference.sigmoid()
        says_so = torch.rand(len(who), generator=generator) < truth[who]
        found = judged(model, torch.where(better == says_so, difference, -difference), who)
        inside += sum(person.low < true < person.high for person, true in zip(found, truth.tolist(), strict=True))
        assert all(abs(person.accuracy - true) < 0.06 for person, true in zip(found, truth.tolist(), strict=True))
        assert {person.labels for person in found} == {labels}
    assert inside >= 53  # of 60: 57 are to be expected


def test_one_sure_label_by_hand():
    """A uniform prior and a label that is certainly right: the posterior is Beta(2, 1)."""
    model = LabelModel([Prior(1e-9, 1e-9)], (), 1.0, ties=False)
    (person,) = judged(model, torch.tensor([40.0]), torch.tensor([0]))
    assert person.accuracy == pytest.approx(2 / 3, abs=0.005)
    assert (person.low, person.high) == (pytest.approx(0.025**0.5, abs=0.005), pytest.approx(0.975**0.5, abs=0.005))


def test_a_soft_label_is_a_witness_of_both_sides():
    """A uniform prior and a label of 0.7 where it is certain: the posterior is Beta(1.7, 1.3)."""
    model, sure = LabelModel([Prior(1e-9, 1e-9)], (), 1.0, ties=False), torch.tensor([40.0, 0.0])
    for probability in (0.51, 0.7, 1.0):
        (person,) = found_in(model, sure, pairs_of(1, probability=torch.tensor([probability])))
        assert person.accuracy == pytest.approx((1 + probability) / 3, abs=0.005)
    doubtful = torch.tensor([0.4, 0.0])  # a label that is as sure as the scores says that they were read well
    chance = 1 / (1 + math.exp(-0.4))
    (person,) = found_in(model, doubtful, pairs_of(2000, probability=torch.full((2000,), chance)))
    assert person.accuracy > 0.8


def test_a_thumb_is_a_witness_as_a_pair_is():
    model, scores = LabelModel([Prior(1e-9, 1e-9)] * 2, (), 1.0, ties=False), torch.tensor([40.0, -3.0])
    labels = labels_of((0, "thumb", 1.0, 1), (1, "thumb", 0.0, 0), (0, "safety", 0.0, 1), (0, "rating", 0.0, -1))
    nobody, somebody = found_in(model, scores, pairs_of(0), labels, log_odds=3.0)
    assert somebody.accuracy == pytest.approx(2 / 3, abs=0.005) and somebody.labels == 1
    assert nobody.accuracy == pytest.approx(1 / 2, abs=0.005)  # -3 + 3: up is as likely as down


def test_labels_that_say_nothing_leave_the_prior():
    model = LabelModel([Prior(8.0, 2.0)], (), 1.0, ties=False)
    nothing, unsure = (judged(model, torch.zeros(n), torch.zeros(n, dtype=torch.int64))[0] for n in (0, 500))
    assert nothing.accuracy == pytest.approx(unsure.accuracy) == pytest.approx(9 / 12, abs=1e-3)  # Beta(9, 3)
    assert (nothing.labels, unsure.labels) == (0, 500)


def test_ties_say_nothing_of_an_annotator():
    model = LabelModel([Prior(8.0, 2.0)], (), 1.0, ties=True)
    pairs = pairs_of(3, tie=torch.tensor([True, True, False]))
    found = model.evidence(torch.tensor([2.0, 0.0]), pairs, labels_of(), 0.0)
    assert found["labels"].tolist() == [1]


def test_reliability_is_learned_from_unseen_labels_only():
    model, scores = LabelModel([Prior(8.0, 2.0)], (), 1.0, ties=False), torch.tensor([2.0, 0.0], requires_grad=True)
    model(scores, pairs_of(1), unseen=False).sum().backward()
    assert model.log_odds.grad is None and scores.grad.abs().sum() > 0
    model(scores, pairs_of(1)).sum().backward()
    assert model.log_odds.grad.abs().sum() > 0


def test_the_spread_of_lengths_does_not_depend_on_who_comes_first():
    assert spread_of([3, -4]) == spread_of([-3, -4]) == pytest.approx(12.5**0.5)
    assert spread_of([]) == spread_of([0, 0]) == 1.0
