import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.ppo import approximate_kl, clipped_policy_loss, clipped_value_loss, explained_variance

seeds = st.integers(0, 2**31)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_policy_loss_by_hand():
    # ratios 1.5, 1.5, 0.5, 0.5, 1.1 with eps 0.2
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    got = clipped_policy_loss(ratio.log(), torch.zeros(5), advantages, clip_range=0.2)
    assert_close(got.loss, torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))
    assert got.clipped.tolist() == [True, False, False, True, False]
    assert_close(got.ratio, ratio)


def test_a_clipped_token_has_no_gradient_and_the_others_do():
    logprobs = torch.tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    clipped_policy_loss(logprobs, torch.zeros(4), advantages, clip_range=0.2).loss.sum().backward()
    assert_close(logprobs.grad, torch.tensor([0.0, 1.5, -0.5, 0.0]))


@given(seed=seeds, clip_range=st.floats(0.01, 0.9))
def test_at_ratio_one_the_gradient_is_the_policy_gradient(seed, clip_range):
    old, advantages = normal(2, 12, seed=seed)
    logprobs = old.clone().requires_grad_()
    clipped_policy_loss(logprobs, old, advantages, clip_range=clip_range).loss.sum().backward()
    assert_close(logprobs.grad, -advantages)


@given(seed=seeds)
def test_clipping_never_makes_the_objective_larger(seed):
    logprobs, old, advantages = normal(3, 20, seed=seed)
    got = clipped_policy_loss(logprobs, old, advantages, clip_range=0.2)
    assert (got.loss >= -advantages * got.ratio).all()


def test_value_loss_by_hand():
    # V moves from 0 to 0.5 towards R = 1: held at 0.2, the larger error counts; and from 0 to -1: free is larger
    got = clipped_value_loss(torch.tensor([0.5, -1.0]), torch.zeros(2), torch.ones(2), clip_range=0.2)
    assert_close(got.loss, torch.tensor([0.5 * 0.64, 0.5 * 4.0]))
    assert got.clipped.tolist() == [True, False]


@given(seed=seeds)
def test_a_wide_value_clip_is_the_squared_error(seed):
    values, old, returns = normal(3, 10, seed=seed)
    wide = clipped_value_loss(values, old, returns, clip_range=1e6)
    assert_close(wide.loss, 0.5 * (values - returns) ** 2)
    assert_close(clipped_value_loss(values, old, returns, clip_range=None).loss, wide.loss)


def test_approximate_kl_by_hand():
    assert_close(approximate_kl(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0])), torch.tensor([2.0, 0.0]))


def test_explained_variance_of_known_critics():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((3,), 5.0), returns) == 0.0
    assert explained_variance(-returns, returns) == -3.0
    assert explained_variance(returns, torch.ones(3)) == 0.0
    assert math.isfinite(explained_variance(returns[:0].new_zeros(1), torch.ones(1)))
