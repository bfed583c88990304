import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.preference import bradley_terry_loss, centering_penalty, ranking_loss, ranking_pairs


def test_bradley_terry_by_hand():
    got = bradley_terry_loss(torch.tensor([1.0, math.log(3.0)]), torch.tensor([1.0, 0.0]))
    assert_close(got, torch.tensor([math.log(2.0), -math.log(0.75)]))
    margin = torch.tensor([0.0, math.log(3.0)])
    assert_close(
        bradley_terry_loss(torch.tensor([1.0, math.log(3.0)]), torch.tensor([1.0, 0.0]), margin=margin)[1], got[0]
    )


def test_a_huge_difference_neither_overflows_nor_stops_the_gradient():
    rejected = torch.tensor([1e4], requires_grad=True)
    loss = bradley_terry_loss(torch.tensor([0.0]), rejected)
    loss.sum().backward()
    assert_close(loss.detach(), torch.tensor([1e4]))
    assert rejected.grad == 1.0


@given(seed=st.integers(0, 2**31), shift=st.floats(-5, 5))
def test_only_differences_matter(seed, shift):
    chosen, rejected = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed))
    shifted = bradley_terry_loss(chosen + shift, rejected + shift)
    assert_close(shifted, bradley_terry_loss(chosen, rejected), rtol=1e-4, atol=1e-5)


def test_pairs_of_a_ranking_drop_ties():
    assert ranking_pairs([1, 1]) == []
    assert ranking_pairs([2, 1, 2]) == [(1, 0), (1, 2)]
    assert len(ranking_pairs([3, 1, 4, 2])) == 6


def test_two_responses_are_one_pair():
    scores = torch.tensor([0.3, 1.1])
    assert_close(ranking_loss(scores, [2, 1]), bradley_terry_loss(scores[1:], scores[:1])[0])


def test_ranking_by_hand():
    scores = torch.tensor([2.0, 1.0, 0.0])
    expected = sum(math.log1p(math.exp(-d)) for d in (1.0, 1.0, 2.0)) / 3
    assert_close(ranking_loss(scores, [1, 2, 3]), torch.tensor(expected))
    tied = sum(math.log1p(math.exp(-d)) for d in (1.0, 2.0)) / 2
    assert_close(ranking_loss(scores, [1, 2, 2]), torch.tensor(tied))


@given(seed=st.integers(0, 2**31), order=st.permutations(range(4)))
def test_the_order_of_responses_does_not_matter(seed, order):
    scores, ranks = torch.randn(4, generator=torch.Generator().manual_seed(seed)), [1, 3, 2, 3]
    assert_close(ranking_loss(scores[order], [ranks[i] for i in order]), ranking_loss(scores, ranks))


def test_an_all_tied_ranking_has_no_loss_and_no_gradient():
    scores = torch.ones(3, requires_grad=True)
    loss = ranking_loss(scores, [1, 1, 1])
    loss.backward()
    assert loss == 0.0 and not scores.grad.any()


def test_one_rank_per_score():
    with pytest.raises(ValueError, match="3 scores and 2 ranks"):
        ranking_loss(torch.ones(3), [1, 2])


def test_centering_by_hand():
    assert_close(centering_penalty(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0])), torch.tensor([0.0, 9.0]))
