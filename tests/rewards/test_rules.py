import math

import pytest
import torch
from torch.testing import assert_close

from loopwright.rewards import rules
from loopwright.rewards.combine import MergeConfig
from loopwright.rewards.rules import RULES, Case

SCORES = torch.tensor([[1.0, -2.0, 0.0, 3.0], [2.0, 0.5, -1.0, -3.0]])


def case(scores=SCORES, **changed):
    rows, columns = scores.shape
    none = torch.zeros(columns, dtype=torch.bool)
    return Case(scores, torch.ones(rows), none, scores[0], scores[1], 0.15, 1.0)._replace(**changed)


def test_weighted_sum_by_hand():
    got = rules.weighted_sum(SCORES, torch.tensor([2.0, -1.0]))
    assert got.tolist() == [0.0, -4.5, 1.0, 9.0]


def test_weights_one_and_nothing_are_the_first_reward():
    assert torch.equal(rules.weighted_sum(SCORES, torch.tensor([1.0, 0.0])), SCORES[0])


def test_worst_by_hand():
    assert rules.worst(SCORES).tolist() == [1.0, -2.0, -1.0, -3.0]
    assert torch.equal(rules.worst(SCORES[:1]), SCORES[0])


def test_product_by_hand():
    got = rules.product(torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(4.0)]]))
    assert_close(got, torch.tensor([0.25, 0.75 * 0.8]))


def test_two_bad_scores_make_no_good_product():
    bad, good = torch.tensor([[-5.0], [-5.0]]), torch.tensor([[5.0], [5.0]])
    assert rules.product(bad) < 0.001 < 0.98 < rules.product(good)
    assert torch.isfinite(rules.product(torch.full((3, 1), -300.0))).all()


def test_a_product_rises_with_each_of_its_parts():
    base = rules.product(SCORES)
    for row in range(2):
        higher = SCORES.clone()
        higher[row] += 0.5
        assert (rules.product(higher) > base).all()


def test_llama2_by_hand():
    # sigmoid(-1.7346) = 0.15
    helpful, safe = torch.tensor([5.0, 6.0, 7.0, 8.0]), torch.tensor([-1.73, -1.74, 9.0, 9.0])
    adversarial = torch.tensor([False, False, False, True])
    got = rules.llama2(helpful, safe, adversarial, 0.15)
    assert_close(got, torch.tensor([5.0, -1.74, 7.0, 9.0]))


def test_llama2_without_danger_is_helpfulness():
    never = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(rules.llama2(SCORES[0], SCORES[1] + 9.0, never, 0.15), SCORES[0])
    assert torch.equal(rules.llama2(SCORES[0], SCORES[1], ~never, 0.15), SCORES[1])


def test_a_constraint_by_hand():
    got = rules.constrained(torch.tensor([4.0, 4.0]), torch.tensor([1.0, -1.0]), 3.0)
    assert got.tolist() == [0.25, 1.75]


def test_a_constraint_that_costs_nothing_is_helpfulness():
    assert torch.equal(rules.constrained(SCORES[0], SCORES[1], 0.0), SCORES[0])


def test_the_multiplier_by_hand():
    assert rules.ascend(1.0, cost=0.5, limit=0.2, learning_rate=0.1) == pytest.approx(1.03)
    assert rules.ascend(0.01, cost=-1.0, limit=0.0, learning_rate=0.1) == 0.0  # projected
    assert rules.ascend(2.0, cost=0.3, limit=0.3, learning_rate=9.0) == 2.0  # on the constraint


def test_the_multiplier_finds_the_price_at_which_the_constraint_holds():
    """A policy that answers with cost 2 - lambda pays lambda = 1.5 where the cost may be 0.5."""
    multiplier = 0.0
    for _ in range(200):
        multiplier = rules.ascend(multiplier, cost=2.0 - multiplier, limit=0.5, learning_rate=0.1)
    assert multiplier == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_rows_never_matters(rule):
    order = torch.tensor([2, 0, 3, 1])
    tagged = torch.tensor([True, False, False, False])
    got = RULES[rule].merge(case(adversarial=tagged))
    shuffled = case(SCORES[:, order], adversarial=tagged[order])
    assert torch.equal(RULES[rule].merge(shuffled), got[order])


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_rewards_never_matters(rule):
    weights = torch.tensor([0.3, 0.7])
    got = RULES[rule].merge(case(weights=weights))
    turned = case(SCORES.flip(0), weights=weights.flip(0), helpful=SCORES[0], safe=SCORES[1])
    assert_close(RULES[rule].merge(turned), got)


@pytest.mark.parametrize("rule", RULES)
def test_the_settings_that_a_rule_names_are_settings(rule):
    assert set(RULES[rule].settings) <= set(MergeConfig.model_fields)


# ---- what each reward had of the number


def shares(rule, **changed):
    return RULES[rule].shares.of(case(**changed))


def test_what_each_reward_had_of_the_number_by_hand():
    weights = torch.tensor([2.0, -1.0])
    assert shares("weighted_sum", weights=weights).tolist() == [[2.0, -4.0, 0.0, 6.0], [-2.0, -0.5, 1.0, 3.0]]
    assert shares("worst").tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert_close(shares("product"), torch.sigmoid(SCORES))
    # The first is tagged, of the last sigmoid(-3) < 0.15: there safety decides.
    tagged = torch.tensor([True, False, False, False])
    assert shares("llama2", adversarial=tagged).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert shares("constraint", multiplier=3.0).tolist() == [[0.25, -0.5, 0.0, 0.75], [1.5, 0.375, -0.75, -2.25]]


@pytest.mark.parametrize("rule", RULES)
def test_shares_make_up_the_number(rule):
    given = case(weights=torch.tensor([0.5, -2.0] if rule == "weighted_sum" else [1.0, 1.0]), multiplier=0.7)
    had, merged = RULES[rule].shares.of(given), RULES[rule].merge(given)
    if RULES[rule].shares.name == "decided_by":  # of one reward each
        assert_close((had * SCORES).sum(0), merged)
        assert had.sum(0).tolist() == [1] * 4
    else:
        assert_close(had.prod(0) if RULES[rule].shares.name == "factor" else had.sum(0), merged)
