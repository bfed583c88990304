import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.advantages import (
    STD_EPS,
    gae,
    group_relative,
    leave_one_out,
    on_every_token,
    reinforce_plus_plus,
    token_rewards,
)
from loopwright.objectives.masking import whiten

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


# ---- without a critic: hand-worked cases, and the papers' formulas with loops over responses and tokens

SHAPES = dict(seed=seeds, prompts=st.integers(1, 5), samples=st.integers(2, 6))


def doubles(*shape, seed):
    return normal(*shape, seed=seed).double()


def leave_one_out_by_loops(rewards):
    out = torch.zeros_like(rewards)
    for p in range(rewards.shape[0]):
        for i in range(rewards.shape[1]):
            others = [rewards[p, j].item() for j in range(rewards.shape[1]) if j != i]
            out[p, i] = rewards[p, i] - sum(others) / len(others)
    return out


def group_relative_by_loops(rewards, divide_by_std):
    out = torch.zeros_like(rewards)
    for p, of_prompt in enumerate(rewards.tolist()):
        mean = sum(of_prompt) / len(of_prompt)
        std = math.sqrt(sum((r - mean) ** 2 for r in of_prompt) / (len(of_prompt) - 1))
        for i, r in enumerate(of_prompt):
            out[p, i] = (r - mean) / (std + 1e-6) if divide_by_std else r - mean
    return out


def reinforce_plus_plus_by_loops(rewards, mask, group):
    raw = {}
    for row in range(len(rewards)):
        length = int(mask[row].sum())
        first = row - row % (group or 1)
        totals = [sum(rewards[i, : int(mask[i].sum())].tolist()) for i in range(first, first + (group or 1))]
        baseline = sum(totals) / len(totals) if group else 0.0
        for t in range(length):
            raw[row, t] = sum(rewards[row, t:length].tolist()) - baseline
    mean = sum(raw.values()) / len(raw)
    std = math.sqrt(sum((x - mean) ** 2 for x in raw.values()) / len(raw) + 1e-8)
    out = torch.zeros_like(rewards)
    for (row, t), x in raw.items():
        out[row, t] = (x - mean) / std
    return out


def test_rules_without_a_critic_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    assert_close(leave_one_out(rewards), torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))
    assert_close(group_relative(rewards, divide_by_std=False), torch.tensor([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]))
    # the deviation of 1, 2, 6 is sqrt((4 + 1 + 9) / 2) = sqrt(7)
    assert_close(
        group_relative(rewards, divide_by_std=True), torch.tensor([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]) / math.sqrt(7)
    )
    # Two tokens with KL penalties of 1 and 2 before a score of 6, one token with a score of 1; the rest is padding.
    tokens = torch.tensor([[-1.0, -2.0 + 6.0, 9.0], [1.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    # still to come: 3, 4 and 1, of mean 8/3 and variance 14/9; less the group's mean reward of 2 the same
    expected = torch.tensor([[1 / 3, 4 / 3, 0.0], [-5 / 3, 0.0, 0.0]]) / math.sqrt(14 / 9)
    assert_close(reinforce_plus_plus(tokens, mask), expected)
    assert_close(reinforce_plus_plus(tokens, mask, group=2), expected)
    assert_close(on_every_token(torch.tensor([[1.0, -1.0]]), mask), torch.tensor([[1.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]))


@given(**SHAPES)
def test_group_rules_agree_with_loops(seed, prompts, samples):
    rewards = doubles(prompts, samples, seed=seed)
    assert_close(leave_one_out(rewards), leave_one_out_by_loops(rewards), rtol=0, atol=1e-6)
    for divide in (True, False):
        got, expected = group_relative(rewards, divide_by_std=divide), group_relative_by_loops(rewards, divide)
        assert_close(got, expected, rtol=0, atol=1e-6)


@given(**SHAPES, grouped=st.booleans())
def test_reinforce_plus_plus_agrees_with_loops(seed, prompts, samples, grouped):
    rewards, group = doubles(prompts * samples, 5, seed=seed), samples if grouped else None
    lengths = torch.randint(1, 6, (prompts * samples,), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(5) < lengths[:, None]
    expected = reinforce_plus_plus_by_loops(rewards, mask, group)
    assert_close(reinforce_plus_plus(rewards, mask, group=group), expected, rtol=0, atol=1e-6)


@given(seed=seeds)
def test_two_responses_are_compared_by_their_difference(seed):
    rewards = doubles(3, 2, seed=seed)
    difference = rewards[:, 0] - rewards[:, 1]
    assert_close(leave_one_out(rewards), torch.stack((difference, -difference), 1))
    assert_close(group_relative(rewards, divide_by_std=False), leave_one_out(rewards) / 2)
    better = (difference / 2) / (difference.abs() / math.sqrt(2) + STD_EPS)  # +-1 / sqrt 2 but for nearly equal scores
    assert_close(group_relative(rewards, divide_by_std=True), torch.stack((better, -better), 1))


@given(**SHAPES)
def test_dr_grpo_is_rloo_but_for_a_constant(seed, prompts, samples):
    rewards = doubles(prompts, samples, seed=seed)
    assert_close(leave_one_out(rewards) * (samples - 1) / samples, group_relative(rewards, divide_by_std=False))


@given(seed=seeds)
def test_without_kl_and_at_one_length_reinforce_plus_plus_whitens_scores(seed):
    scores, mask = doubles(6, seed=seed), torch.ones(6, 3).bool()
    rewards = token_rewards(scores, mask, finished=torch.ones(6).bool(), missing_eos_penalty=0.0).double()
    standard = (scores - scores.mean()) / scores.std(correction=0)
    assert_close(reinforce_plus_plus(rewards, mask), standard[:, None].expand(6, 3), rtol=0, atol=1e-5)


@given(seed=seeds)
def test_reinforce_plus_plus_is_ppo_with_a_critic_that_says_nothing(seed):
    rewards, mask = doubles(3, 5, seed=seed), prefix_mask(2, 5, 3, width=5)
    silent = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    assert_close(reinforce_plus_plus(rewards, mask), whiten(silent.advantages, mask))


@given(**SHAPES, junk=st.sampled_from([1e6, math.nan]))
def test_neither_order_nor_padding_nor_a_constant_matters(seed, prompts, samples, junk):
    rewards = doubles(prompts, samples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    groups, places = torch.randperm(prompts, generator=generator), torch.randperm(samples, generator=generator)
    for rule in (leave_one_out, lambda r: group_relative(r, divide_by_std=True)):
        assert_close(rule(rewards[groups][:, places]), rule(rewards)[groups][:, places])
        assert_close(rule(rewards + 3.0), rule(rewards))
    tokens, mask = doubles(prompts * samples, 4, seed=seed), prefix_mask(*[1 + i % 4 for i in range(30)], width=4)
    mask = mask[: prompts * samples]
    whole = reinforce_plus_plus(tokens, mask, group=samples)
    assert_close(reinforce_plus_plus(tokens.masked_fill(~mask, junk), mask, group=samples), whole)
    wider = [torch.nn.functional.pad(x, (0, 2)) for x in (tokens, mask)]
    assert_close(reinforce_plus_plus(*wider, group=samples)[:, :4], whole)
    rows = (groups[:, None] * samples + places).flatten()
    assert_close(reinforce_plus_plus(tokens[rows], mask[rows], group=samples), whole[rows])


@pytest.mark.parametrize("rewards", [torch.zeros(4, 1), torch.zeros(4)])
def test_a_lone_response_has_nothing_to_be_compared_with(rewards):
    for rule in (leave_one_out, lambda r: group_relative(r, divide_by_std=False)):
        with pytest.raises(ValueError, match="at least n = 2 responses"):
            rule(rewards)
    with pytest.raises(ValueError, match="at least n = 2 responses"):
        reinforce_plus_plus(torch.zeros(4, 2), torch.ones(4, 2).bool(), group=1)
