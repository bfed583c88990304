import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from loopwright.config import build, dump_yaml
from loopwright.errors import CheckError, ConfigError
from loopwright.rewards import CallableReward, MergeConfig, Merged, RewardModel
from loopwright.rewards.combine import SAFETY_TAG, reward_models, unique
from loopwright.rewards.ensemble import Ensemble
from loopwright.rewards.normalised import Negated, Normalised, Scale
from loopwright.worlds import WORLDS
from tests.rewards.said import Says, samples

HELPFUL, SAFE = Says("helpful", [4.0, 1.0, -2.0, 3.0]), Says("safe", [-5.0, 1.0, 2.0, 0.5])
ROLES = dict(helpful="helpful", safe="safe")


def merged(*rewards, **merge):
    return Merged([(reward, 1.0) for reward in rewards], MergeConfig(**merge))


def test_parts_are_the_scores_before_they_are_merged():
    got = merged(HELPFUL, SAFE, rule="worst").score(samples(4))
    assert got.total.tolist() == [-5.0, 1.0, -2.0, 0.5]
    assert {name: part.tolist() for name, part in got.parts.items()} == {
        "helpful": [4.0, 1.0, -2.0, 3.0], "safe": [-5.0, 1.0, 2.0, 0.5],
    }  # fmt: skip


def test_llama2_reads_the_tag_of_the_prompt_and_whitens_what_is_learned_from():
    reward = merged(HELPFUL, SAFE, rule="llama2", **ROLES)
    scores = reward.score(samples(4, tagged={3}))
    chosen = torch.tensor([-5.0, 1.0, -2.0, 0.5])  # unsafe, helpful, helpful, tagged
    assert torch.equal(scores.total, chosen)
    learned, _ = reward.to_learn_from(scores)
    assert_close(learned, (chosen - chosen.mean()) / chosen.std(correction=0))
    other = merged(HELPFUL, SAFE, rule="llama2", safety_tag="attack", **ROLES)
    assert torch.equal(other.score(samples(4, tagged={3}, tag="attack")).total, chosen)
    assert other.score(samples(4, tagged={3})).total[3] == 3.0


def test_what_each_reward_had_of_the_score_is_told_by_name():
    reward = merged(SAFE, HELPFUL, rule="llama2", **ROLES)  # by role, whatever the order
    given = samples(4, tagged={3})
    assert reward.shares(reward.score(given), given) == {"decided_by_helpful": 0.5, "decided_by_safe": 0.5}
    given = samples(4)
    assert reward.shares(reward.score(given), given) == {"decided_by_helpful": 0.75, "decided_by_safe": 0.25}
    dense = Says("dense", [1.0, 1.0], per_token=[[1.0, 2.0], [3.0, 4.0]])
    summed = Merged([(dense, 0.5), (Says("plain", [1.0, 2.0]), -2.0)])
    scores = summed.score(samples(2))
    had = summed.shares(scores, samples(2))
    assert had == {"contribution_dense": 3.0, "contribution_plain": -3.0}  # tokens are part of it
    assert scores.whole().mean().item() == sum(had.values())


def test_what_each_had_is_of_normalised_scores():
    reward = Merged([(HELPFUL, 2.0), (SAFE, 1.0)], MergeConfig(normalise=True))
    reward.normalise(samples(4))
    scores = reward.score(samples(4))
    had = reward.shares(scores, samples(4))
    assert had == pytest.approx({"contribution_helpful": 0.0, "contribution_safe": 0.0}, abs=1e-6)
    part = reward.score(samples(1))
    mean, std = HELPFUL.scores.mean(), HELPFUL.scores.std(correction=0)
    expected = float(2 * (HELPFUL.scores[0] - mean) / std)
    assert reward.shares(part, samples(1))["contribution_helpful"] == pytest.approx(expected)


def test_the_tag_of_the_recipe_is_on_what_asks_for_harm_and_the_usual_one_on_nothing_to_train_on():
    recipe = (Path(__file__).parents[2] / "recipes" / "llama2.yaml").read_text(encoding="utf-8")
    assert "rule: llama2, helpful: helpful, safe: safe, safety_tag: attack}" in recipe  # and the threshold is Llama 2's
    prompts = list(WORLDS["front_desk"].prompts("train", seed=0, count=300))
    assert [bool(one.tags.get("attack")) for one in prompts] == [one.tags["task"] == "harmful" for one in prompts]
    assert not any(one.tags.get(SAFETY_TAG) for one in prompts)


def test_llama2_without_danger_is_whitened_helpfulness():
    reward = merged(HELPFUL, Says("safe", [9.0] * 4), rule="llama2", **ROLES)
    learned, _ = reward.to_learn_from(reward.score(samples(4)))
    assert_close(learned, (HELPFUL.scores - HELPFUL.scores.mean()) / HELPFUL.scores.std(correction=0))


@pytest.mark.parametrize("rule", ["llama2", "constraint"])
def test_roles_go_by_name_and_not_by_order(rule):
    one, other = (merged(*pair, rule=rule, **ROLES) for pair in ((HELPFUL, SAFE), (SAFE, HELPFUL)))
    assert torch.equal(one.score(samples(4)).total, other.score(samples(4)).total)


def test_a_constraint_pays_for_what_is_unsafe_and_its_price_moves_after_the_batch():
    reward = merged(HELPFUL, SAFE, rule="constraint", limit=0.1, multiplier=1.0, multiplier_learning_rate=0.5, **ROLES)
    scores = reward.score(samples(4))
    assert_close(scores.total, (HELPFUL.scores + SAFE.scores) / 2)  # cost = -safe
    figures = reward.learn(scores)
    cost = 1.5 / 4
    assert figures == pytest.approx({"cost": cost, "multiplier": 1.0})
    assert reward.multiplier == pytest.approx(1.0 + 0.5 * (cost - 0.1))
    assert_close(
        reward.score(samples(4)).total, (HELPFUL.scores + reward.multiplier * SAFE.scores) / (1 + reward.multiplier)
    )


def test_a_state_goes_on_where_it_was_left():
    settings = dict(rule="constraint", normalise=True, **ROLES)
    whole, first, second = (merged(HELPFUL, SAFE, **settings) for _ in range(3))
    for reward in (whole, first):
        reward.normalise(samples(3))
        reward.learn(reward.score(samples(4)))
    second.load(json.loads(json.dumps(first.state())))
    for given in (samples(2), samples(4)):
        assert whole.learn(whole.score(given)) == second.learn(second.score(given))
    assert torch.equal(whole.score(samples(4)).total, second.score(samples(4)).total)
    assert whole.state() == second.state()


def test_scaling_and_shifting_a_part_changes_nothing_after_normalising():
    def learned(part):
        reward = Merged([(part, 2.0), (SAFE, 1.0)], MergeConfig(normalise=True))
        reward.normalise(samples(3))
        return reward.score(samples(4)).total

    other = Says("helpful", (0.01 * HELPFUL.scores + 7.0).tolist())
    assert_close(learned(other), learned(HELPFUL), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(
        Merged([(other, 2.0), (SAFE, 1.0)]).score(samples(4)).total,
        Merged([(HELPFUL, 2.0), (SAFE, 1.0)]).score(samples(4)).total,
    )


def test_scores_of_tokens_are_summed_and_by_other_rules_refused():
    dense = Says("dense", [0.0, 0.0], per_token=[[1.0, 2.0], [3.0, 4.0]])
    plain = Says("plain", [1.0, 2.0])
    got = Merged([(dense, 0.5), (plain, 1.0)]).score(samples(2))
    assert got.per_token.tolist() == [[0.5, 1.0], [1.5, 2.0]] and got.total.tolist() == [1.0, 2.0]
    for rule in ("worst", "product"):
        with pytest.raises(
            CheckError, match=f"reward dense scores tokens, and {rule} merges scores of whole responses"
        ):
            merged(dense, plain, rule=rule).score(samples(2))


def test_a_lone_reward_hands_on_how_unsure_it_is():
    unsure = Says("unsure", [1.0, 2.0], std=[0.5, 1.0])
    assert Merged([(unsure, -2.0)]).score(samples(2)).std.tolist() == [1.0, 2.0]
    assert Merged([(unsure, 1.0), (HELPFUL, 1.0)]).score(samples(2)).std is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(rule="wrost"), "rule = wrost is none of weighted_sum, worst, product, llama2, constraint"),
        (dict(rule="worst", threshold=0.2), "threshold has no effect with rule = worst"),
        (dict(limit=0.2), "limit has no effect with rule = weighted_sum"),
        (dict(rule="llama2", multiplier=2.0, **ROLES), "multiplier has no effect with rule = llama2"),
        (dict(rule="llama2", normalise=True, **ROLES), "compares and whitens the scores as they are"),
        (dict(rule="llama2", helpful="a"), "needs helpful and safe"),
        (dict(rule="constraint", helpful="a", safe="a"), "needs helpful and safe"),
        (dict(normalise=False, reference_samples=9), "reference_samples has no effect where nothing is normalised"),
        (dict(rule="constraint", reference_samples=9, **ROLES), "reference_samples has no effect"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(settings, message):
    with pytest.raises(ValidationError, match=message):
        MergeConfig(**settings)


@pytest.mark.parametrize("settings", [dict(), dict(rule="llama2", **ROLES), dict(rule="worst", reference_samples=9)])
def test_a_resolved_dump_is_accepted(settings):
    import yaml

    config = MergeConfig(**settings)
    assert build(MergeConfig, yaml.safe_load(dump_yaml(config)), "x", resolved=True) == config


@pytest.mark.parametrize(
    ("rewards", "merge", "message"),
    [
        ([(HELPFUL, 0.5), (SAFE, 1.0)], dict(rule="worst"), "a weight has no effect with rule = worst"),
        ([(HELPFUL, 1.0)], dict(rule="llama2", **ROLES), "merges two rewards, .* but the rewards are helpful;"),
        ([(HELPFUL, 1.0), (SAFE, 1.0), (SAFE, 1.0)], dict(rule="constraint", **ROLES), "helpful, safe_1, safe_2"),
        ([(Says("std", [1.0]), 1.0)], dict(), "a reward is called std"),
        (
            [(merged(HELPFUL, SAFE, rule="llama2", **ROLES), 1.0)],
            dict(),
            "merged by rule = llama2, which",
        ),
    ],
)
def test_rewards_that_do_not_fit_the_rule_are_errors(rewards, merge, message):
    with pytest.raises(ConfigError, match=message):
        Merged(rewards, MergeConfig(**merge))


def test_reward_models_are_found_wherever_they_are_wrapped():
    model = RewardModel.__new__(RewardModel)
    wrapped = Normalised(Negated(Ensemble([model, HELPFUL], name="e")), Scale(0.0, 1.0, 1))
    model.name = "model"
    assert list(reward_models(Merged([(wrapped, 1.0), (model, 1.0)]))) == [model, model]
    assert not list(reward_models(CallableReward(lambda p, r: [], "none")))


def test_what_a_reward_remembers_is_in_the_state_however_it_is_wrapped():
    class Remembers(Says):
        seen = 0

        def state(self):
            return {"seen": self.seen}

        def load(self, state):
            self.seen = state["seen"]

    def make(seen):
        one, other = Remembers("one", [1.0, 2.0]), Remembers("other", [3.0, 5.0])
        one.seen, other.seen = seen
        inner = Merged([(Ensemble([Negated(other), SAFE]), 1.0)], name="inner")
        return Merged([(one, 1.0), (HELPFUL, 1.0), (inner, 1.0)], MergeConfig(normalise=True)), one, other

    whole, *_ = make((3, 4))
    whole.normalise(samples(2))
    again, one, other = make((0, 0))
    again.load(json.loads(json.dumps(whole.state())))
    assert (one.seen, other.seen) == (3, 4)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "b", "a"], ["a_1", "b", "a_2"]),
        (["a", "a", "a_1"], ["a_2", "a_3", "a_1"]),
        (["a_1", "a", "a_1", "a"], ["a_1_1", "a_1", "a_1_2", "a_2"]),
    ],
)
def test_names_are_numbered_until_they_are_free(names, expected):
    assert unique(names) == expected
    given = [(Says(name, [float(i)]), 1.0) for i, name in enumerate(names)]
    assert list(Merged(given).score(samples(1)).parts) == expected


def test_samples_to_normalise_on_that_nobody_uses_are_an_error():
    merge = MergeConfig(reference_samples=9)
    with pytest.raises(ConfigError, match="reference_samples has no effect on rewards from Python"):
        Merged([(HELPFUL, 1.0)], merge)
    assert Merged([(HELPFUL, 1.0)], MergeConfig(reference_samples=9, normalise=True)).merge.reference_samples == 9
