import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.advantages import gae, token_rewards

seeds = st.integers(0, 2**31)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prefix_mask(*lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, 0.0, 1.0, 9.0]])  # the last column is padding
    values = torch.tensor([[0.5, 0.5, 0.5, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    got = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    # deltas 0, 0, 0.5, so A_2 = 0.5, A_1 = 0.25, A_0 = 0.125
    assert_close(got.advantages, torch.tensor([[0.125, 0.25, 0.5, 0.0]]))
    assert_close(got.returns, torch.tensor([[0.625, 0.75, 1.0, 0.0]]))


@given(seed=seeds, length=st.integers(1, 7), gamma=st.floats(0, 1))
def test_lam_one_is_return_minus_value(seed, length, gamma):
    rewards, values = normal(2, 1, length, seed=seed)
    got = gae(rewards, values, torch.ones_like(rewards).bool(), gamma=gamma, lam=1.0)
    discounted_return = sum(gamma**t * rewards[:, t] for t in range(length))
    assert_close(got.advantages[:, 0], discounted_return - values[:, 0])


@given(seed=seeds)
def test_lam_zero_is_the_temporal_difference(seed):
    rewards, values = normal(2, 3, 5, seed=seed)
    got = gae(rewards, values, torch.ones_like(rewards).bool(), gamma=0.9, lam=0.0)
    next_values = torch.nn.functional.pad(values[:, 1:], (0, 1))
    assert_close(got.advantages, rewards + 0.9 * next_values - values)


@given(seed=seeds)
def test_a_perfect_critic_has_no_advantage(seed):
    rewards = normal(2, 5, seed=seed)
    values = rewards.flip(1).cumsum(1).flip(1)
    got = gae(rewards, values, torch.ones_like(rewards).bool(), gamma=1.0, lam=0.95)
    assert_close(got.advantages, torch.zeros(2, 5), rtol=0, atol=1e-5)


@given(seed=seeds, junk=st.sampled_from([1e6, math.inf, math.nan]))
def test_padding_never_leaks(seed, junk):
    rewards, values = normal(2, 3, 6, seed=seed)
    mask = prefix_mask(2, 4, 6, width=6)
    dirty = [x.masked_fill(~mask, junk) for x in (rewards, values)]
    args = dict(mask=mask, gamma=0.99, lam=0.95)
    assert_close(gae(*dirty, **args), gae(rewards, values, **args))


def test_empty_and_single_token_responses():
    got = gae(
        torch.tensor([[5.0, 5.0], [2.0, 7.0]]), torch.full((2, 2), 0.5), prefix_mask(0, 1, width=2), gamma=1.0, lam=0.95
    )
    assert_close(got.advantages, torch.tensor([[0.0, 0.0], [1.5, 0.0]]))
    assert_close(got.returns, torch.tensor([[0.0, 0.0], [2.0, 0.0]]))


def test_gae_names_the_shapes_it_got():
    with pytest.raises(ValueError, match=r"rewards \(1, 2\), values \(1, 3\)"):
        gae(torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 2).bool(), gamma=1.0, lam=1.0)


def test_token_rewards_by_hand():
    # finished early, truncated at full width, one token, none
    mask = prefix_mask(2, 3, 1, 0, width=3)
    got = token_rewards(
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
        mask,
        finished=torch.tensor([True, False, True, False]),
        missing_eos_penalty=1.0,
        kl_penalty=torch.full((4, 3), 0.1),
        per_token=torch.tensor([[0.5, 0.0, 9.0]] * 4),
    )
    expected = torch.tensor([[0.4, 0.9, 0.0], [0.4, -0.1, 9.9], [3.4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert_close(got, expected)


def test_the_score_lands_once_on_the_last_token():
    mask = prefix_mask(1, 4, 2, width=4)
    scores = torch.tensor([1.0, -2.0, 3.0])
    got = token_rewards(scores, mask, finished=torch.ones(3).bool(), missing_eos_penalty=5.0)
    assert_close(got.sum(1), scores)
    assert_close(got[torch.arange(3), mask.sum(1) - 1], scores)


@given(seed=seeds, junk=st.sampled_from([1e6, math.inf, math.nan]))
def test_junk_in_padding_never_reaches_the_rewards(seed, junk):
    mask = prefix_mask(2, 4, 0, width=5)
    kl = normal(3, 5, seed=seed)
    common = dict(finished=torch.tensor([True, False, True]), missing_eos_penalty=1.0)
    clean = token_rewards(torch.ones(3), mask, kl_penalty=kl, per_token=kl, **common)
    dirty = kl.masked_fill(~mask, junk)
    assert_close(token_rewards(torch.ones(3), mask, kl_penalty=dirty, per_token=dirty, **common), clean)


def test_token_rewards_names_the_shapes_it_got():
    with pytest.raises(ValueError, match="scores"):
        token_rewards(torch.ones(3), torch.ones(2, 4).bool(), finished=torch.ones(3).bool(), missing_eos_penalty=0.0)
