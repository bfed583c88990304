"""Our formulas against numbers of verl, OpenRLHF, torchtune and TRL, which benchmarks/golden.py recorded.

What the peers do otherwise on purpose is undone in code, where the two are compared.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from loopwright.objectives.advantages import (
    gae,
    group_relative,
    leave_one_out,
    on_every_token,
    reinforce_plus_plus,
    token_rewards,
)
from loopwright.objectives.kl import AdaptiveKLController, kl_estimate
from loopwright.objectives.logprobs import token_logprobs
from loopwright.objectives.masking import loss_divisors, masked_mean, whiten
from loopwright.objectives.ppo import clipped_policy_loss, clipped_value_loss
from loopwright.training.ppo_batch import Episodes

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "peers.json").read_text())
INPUTS, PEERS = SimpleNamespace(**GOLDEN["inputs"]), GOLDEN["peers"]


def right_padded(rows, pad=0):
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def left_padded(rows, pad=0):
    return right_padded([row[::-1] for row in rows], pad).flip(1)


MASK = right_padded([[True] * len(row) for row in INPUTS.responses], pad=False)
TOKENS = int(MASK.sum())
FINISHED, SCORES = torch.tensor(INPUTS.finished), torch.tensor(INPUTS.scores)
LOGPROBS, REFERENCE_LOGPROBS, REWARDS, VALUES = (
    right_padded(rows) for rows in (INPUTS.logprobs, INPUTS.reference_logprobs, INPUTS.rewards, INPUTS.values)
)


def peers_with(quantity, output):
    """What each peer says that has this output of this quantity."""
    found = {name: peer[quantity] for name, peer in PEERS.items() if quantity in peer}
    return {name: theirs for name, theirs in found.items() if theirs.get(output) is not None}


def each_peer(quantity, output):
    """The test for every peer that has this output of this quantity."""
    found = peers_with(quantity, output)
    assert found
    return pytest.mark.parametrize("theirs", list(found.values()), ids=list(found))


OF_PPO = {
    "token_rewards": ("rewards",),
    "gae": ("returns", "returns_padded_on_the_left"),
    "whiten": ("whitened", "mean_kept", "one_token"),
    "kl": ("k1", "k2", "k3"),
    "adaptive_kl": ("coefficients",),
    "policy_loss": ("loss", "gradient", "clip_fraction"),
    "value_loss": ("loss", "gradient", "clip_fraction"),
    "logprobs": ("positions", "logprobs"),
    "rollout": ("rewards", "returns", "whitened_advantages"),
}
# The whole rollout is TRL's alone: its penalty for a missing EOS is in no other, and its parts are asked of two above.
# One token is OpenRLHF's alone: the others divide by n - 1, which is 0. The share of clipped values is verl's alone:
# the others report none.
ALONE = {("rollout", output): "trl" for output in OF_PPO["rollout"]}
ALONE |= {("whiten", "one_token"): "openrlhf", ("value_loss", "clip_fraction"): "verl"}


@pytest.mark.parametrize("case", [(quantity, output) for quantity in OF_PPO for output in OF_PPO[quantity]], ids=str)
def test_two_independent_peers_are_asked_but_where_only_one_answers(case):
    found = set(peers_with(*case))
    assert found == {ALONE[case]} if case in ALONE else len(found) >= 2


def test_the_peers_are_asked_about_every_end_of_a_response():
    width, lengths = MASK.shape[1], MASK.sum(1).tolist()
    ends = set(zip(lengths, FINISHED.tolist(), strict=True))
    assert {
        (width, False),
        (width, True),
        (1, True),
        (0, False),
    } < ends  # truncated, in the last place, EOS alone, empty
    assert any(1 < length < width and finished for length, finished in ends)  # EOS early
    assert len({len(prompt) for prompt in INPUTS.prompts}) > 1  # so that some are padded on the left


def same(ours, theirs):
    """[B, R] of ours, which must be 0 in padding, and rows of theirs without padding."""
    assert_close(ours, right_padded(theirs), rtol=1e-6, atol=1e-6)


def biased(whitened):
    """Theirs, whitened by the variance divided by n - 1, as it comes out with the variance divided by n."""
    return [[x * math.sqrt(TOKENS / (TOKENS - 1)) for x in row] for row in whitened]


@each_peer("token_rewards", "rewards")
def test_token_rewards(theirs):
    got = token_rewards(
        SCORES,
        MASK,
        finished=FINISHED,
        missing_eos_penalty=0.0,
        kl_penalty=INPUTS.kl_coef * kl_estimate(LOGPROBS, REFERENCE_LOGPROBS, "k1"),
    )
    same(got, theirs["rewards"])


@each_peer("gae", "returns")
def test_gae(theirs):
    got = gae(REWARDS, VALUES, MASK, gamma=INPUTS.gamma, lam=INPUTS.lam)
    same(got.returns, theirs["returns"])
    same(got.advantages + VALUES, theirs["returns"])
    if "advantages" in theirs:
        same(got.advantages, theirs["advantages"])
    if "whitened_advantages" in theirs:
        same(whiten(got.advantages, MASK), biased(theirs["whitened_advantages"]))


@each_peer("gae", "returns_padded_on_the_left")
def test_gae_of_rows_padded_on_the_left(theirs):
    got = gae(REWARDS, VALUES, MASK, gamma=INPUTS.gamma, lam=INPUTS.lam)
    same(got.returns, theirs["returns_padded_on_the_left"])


def test_trl_pays_the_score_one_place_later():
    theirs = PEERS["trl"]["rollout"]
    given = dict(finished=FINISHED, missing_eos_penalty=INPUTS.missing_eos_penalty)
    score = token_rewards(SCORES, MASK, **given)
    penalty = INPUTS.kl_coef * kl_estimate(LOGPROBS, REFERENCE_LOGPROBS, "k1")
    # Behind EOS where a place is left; and behind an empty response, for which ours has no token to pay.
    lengths = MASK.sum(1)
    later = FINISHED & (lengths < MASK.shape[1])
    moved = torch.where(later[:, None], score.roll(1, dims=1), score)
    (empty,) = (lengths == 0).nonzero().flatten().tolist()
    assert not score[empty].any()
    moved[empty, 0] = SCORES[empty] - INPUTS.missing_eos_penalty
    same(moved - penalty, theirs["rewards"])

    one_longer = torch.arange(MASK.shape[1]) <= lengths[:, None]
    got = gae(moved - penalty, VALUES, one_longer, gamma=INPUTS.gamma, lam=INPUTS.lam)
    same(got.returns, theirs["returns"])
    same(whiten(got.advantages, MASK), biased(theirs["whitened_advantages"]))


@each_peer("whiten", "whitened")
def test_whitening(theirs):
    unbiased = theirs["variance"] == "unbiased"
    same(whiten(REWARDS, MASK), biased(theirs["whitened"]) if unbiased else theirs["whitened"])


@each_peer("whiten", "mean_kept")
def test_whitening_that_keeps_the_mean(theirs):
    mean = masked_mean(REWARDS, MASK).item()
    centred = biased([[x - mean for x in row] for row in theirs["mean_kept"]])
    same(whiten(REWARDS, MASK, shift_mean=False), [[x + mean for x in row] for row in centred])


@each_peer("whiten", "one_token")  # not of those whose variance is unbiased: one token has none
def test_whitening_one_token(theirs):
    assert whiten(torch.tensor([[0.7, 9.0]]), torch.tensor([[True, False]]))[0, 0] == theirs["one_token"]


@each_peer("kl", "k1")
def test_k1(theirs):
    same(kl_estimate(LOGPROBS, REFERENCE_LOGPROBS, "k1"), theirs["k1"])


@each_peer("kl", "k2")
def test_k2(theirs):
    same(kl_estimate(LOGPROBS, REFERENCE_LOGPROBS, "k2"), theirs["k2"])


@each_peer("kl", "k3")
def test_k3(theirs):
    same(kl_estimate(LOGPROBS, REFERENCE_LOGPROBS, "k3"), theirs["k3"])


@each_peer("adaptive_kl", "coefficients")
def test_adaptive_controller(theirs):
    controller = AdaptiveKLController(INPUTS.kl_coef, target=INPUTS.kl_target, horizon=INPUTS.kl_horizon)
    for kl, expected in zip(INPUTS.kl_nats_per_response, theirs["coefficients"], strict=True):
        controller.update(kl, INPUTS.episodes)
        assert math.isclose(controller.coefficient, expected, abs_tol=1e-8)


def same_loss(got, new, theirs):
    """The token mean over the minibatch, its gradient and the share of clipped tokens."""
    loss = got.loss[MASK].sum() / TOKENS
    loss.backward()
    assert math.isclose(loss.item(), theirs["loss"], abs_tol=1e-6)
    same(new.grad, theirs["gradient"])
    if "clip_fraction" in theirs:
        assert math.isclose(got.clipped[MASK].float().mean().item(), theirs["clip_fraction"], abs_tol=1e-6)


@each_peer("policy_loss", "loss")
def test_policy_loss(theirs):
    new = right_padded(INPUTS.new_logprobs).requires_grad_()
    got = clipped_policy_loss(new, LOGPROBS, right_padded(INPUTS.advantages), clip_range=INPUTS.clip_range)
    same_loss(got, new, theirs)


@each_peer("value_loss", "loss")
def test_value_loss(theirs):
    new = right_padded(INPUTS.new_values).requires_grad_()
    got = clipped_value_loss(new, VALUES, right_padded(INPUTS.returns), clip_range=INPUTS.value_clip_range)
    same_loss(got, new, theirs)


GROUPED_MASK = right_padded([[True] * len(row) for row in INPUTS.grouped_rewards], pad=False)
GROUPED_REWARDS = right_padded(INPUTS.grouped_rewards).double()
PER_RESPONSE = GROUPED_REWARDS.sum(1).view(-1, INPUTS.samples_per_prompt)


@each_peer("groups", "rloo")
def test_leave_one_out(theirs):
    same(on_every_token(leave_one_out(PER_RESPONSE), GROUPED_MASK).float(), theirs["rloo"])


@each_peer("groups", "grpo")
def test_group_relative(theirs):
    for name, divide in (("grpo", True), ("dr_grpo", False)):
        got = group_relative(PER_RESPONSE, divide_by_std=divide)
        same(on_every_token(got, GROUPED_MASK).float(), theirs[name])


@each_peer("groups", "reinforce_plus_plus")
def test_reinforce_plus_plus(theirs):
    """verl whitens by the variance divided by n - 1."""
    tokens = int(GROUPED_MASK.sum())
    outcomes = torch.zeros_like(GROUPED_REWARDS)
    outcomes[torch.arange(len(outcomes)), GROUPED_MASK.sum(1) - 1] = GROUPED_REWARDS.sum(1)
    free = reinforce_plus_plus(GROUPED_REWARDS, GROUPED_MASK)
    based = reinforce_plus_plus(outcomes, GROUPED_MASK, group=INPUTS.samples_per_prompt)
    for got, name in ((free, "reinforce_plus_plus"), (based, "reinforce_plus_plus_baseline")):
        same((got * math.sqrt((tokens - 1) / tokens)).float(), theirs[name])


@each_peer("groups", "to_come")
def test_rewards_to_come(theirs):
    got = reinforce_plus_plus(GROUPED_REWARDS, GROUPED_MASK)
    same(got.float(), whiten(right_padded(theirs["to_come"]).double(), GROUPED_MASK).tolist())


@each_peer("aggregation", "token_mean")
def test_aggregation_of_losses(theirs):
    width = GROUPED_MASK.shape[1]
    for name in {"token_mean", "response_mean", "response_sum"} & theirs.keys():
        divisors = loss_divisors(GROUPED_MASK, name, most_tokens=width)
        per_row = divisors if isinstance(divisors, int) else divisors[:, None]
        got = (GROUPED_REWARDS * GROUPED_MASK / per_row).sum().item()
        assert math.isclose(got, theirs[name], abs_tol=1e-6), name


@each_peer("logprobs", "logprobs")
def test_rows_without_gaps_read_like_prompts_padded_on_the_left(theirs):
    prompts = left_padded(INPUTS.prompts, INPUTS.pad)
    sampled = SimpleNamespace(
        prompt_ids=prompts,
        prompt_mask=prompts != INPUTS.pad,
        response_ids=right_padded(INPUTS.responses, INPUTS.pad),
        response_mask=MASK,
        logprobs=LOGPROBS,
        finished=FINISHED,
    )
    episodes = Episodes.of(sampled, torch.device("cpu"))
    tokens, predicts = episodes.tokens()
    assert tokens.positions.tolist() == sum(theirs["positions"], [])
    logits = torch.tensor(INPUTS.next_token_logits)[tokens.ids] / (1 + tokens.positions)[:, None]
    got = token_logprobs(logits[predicts], None, episodes.response_ids())
    assert_close(got.logprobs, torch.tensor(sum(theirs["logprobs"], [])), rtol=1e-6, atol=1e-6)
