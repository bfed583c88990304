import math

import pytest
import torch
from torch.testing import assert_close

from loopwright.errors import CheckError, ConfigError
from loopwright.models.heads import reward_model_from
from loopwright.models.loading import save_model
from loopwright.rewards import Ensemble, RewardModel, Sample
from loopwright.rewards.ensemble import ENSEMBLE_RULES, PENALISED
from loopwright.rewards.sources import RewardSource, load_source
from loopwright.schemas import Prompt
from tests.rewards.said import Says, samples
from tests.tiny import tiny_model, tiny_tokenizer

MEMBERS = [Says("a", [1.0, 2.0]), Says("b", [3.0, 2.0]), Says("c", [8.0, 2.0])]


@pytest.mark.parametrize(
    ("rule", "penalty", "expected"),
    [
        ("mean", None, 4.0),
        ("worst", None, 1.0),
        ("mean_less_variance", 0.25, 4.0 - 0.25 * 26 / 3),  # (9 + 1 + 16) / 3
        ("mean_less_std", 0.5, 4.0 - 0.5 * math.sqrt(26 / 3)),
    ],
)
def test_by_hand(rule, penalty, expected):
    got = Ensemble(MEMBERS, rule=rule, penalty=penalty).score(samples(2))
    assert_close(got.total, torch.tensor([expected, 2.0]))  # equal members: whatever the rule, their score
    assert_close(got.std, torch.tensor([math.sqrt(26 / 3), 0.0]))
    assert {name: part.tolist() for name, part in got.parts.items()} == {
        "ensemble_1": [1.0, 2.0], "ensemble_2": [3.0, 2.0], "ensemble_3": [8.0, 2.0],
    }  # fmt: skip


@pytest.mark.parametrize("rule", ENSEMBLE_RULES)
def test_one_member_is_that_member_and_the_order_of_members_never_matters(rule):
    settings = dict(rule=rule, penalty=3.0 if rule in PENALISED else None)
    one = Ensemble(MEMBERS[:1], **settings).score(samples(2))
    assert torch.equal(one.total, MEMBERS[0].scores) and one.std.tolist() == [0.0, 0.0]
    forward, backward = (Ensemble(order, **settings).score(samples(2)) for order in (MEMBERS, MEMBERS[::-1]))
    assert_close(forward.total, backward.total)
    assert_close(forward.std, backward.std)


@pytest.mark.parametrize(
    ("members", "settings", "message"),
    [
        ([], {}, "has no members"),
        (MEMBERS, dict(rule="median"), "median is none of mean, worst"),
        (MEMBERS, dict(rule="worst", penalty=1.0), "worst has no penalty; drop it"),
        (MEMBERS, dict(rule="mean_less_std"), "mean_less_std needs a penalty"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_errors(members, settings, message):
    with pytest.raises(ConfigError, match=message):
        Ensemble(members, **settings)


@pytest.fixture
def three_heads():
    lm = tiny_model("llama")
    lm.config.pad_token_id = 257
    return reward_model_from(lm, seed=0, heads=3)


def test_the_heads_of_one_model_are_members_that_are_read_at_once(three_heads, tmp_path):
    save_model(three_heads, tiny_tokenizer(), tmp_path)
    model = RewardModel(tmp_path)
    said = [Sample(Prompt.user("p", "Hi"), text, [], [], True, None) for text in ("0", "1")]
    plain = model.score(said)
    assert plain.heads.shape == (3, 2) and model.heads == 3
    assert_close(plain.total, plain.heads.mean(0))
    assert_close(plain.std, plain.heads.std(0, correction=0))
    source = RewardSource(kind="ensemble", path=tmp_path, rule="mean_less_std", penalty=0.5)
    got = load_source(source, torch.device("cpu")).score(said)
    assert_close(got.total, plain.total - 0.5 * plain.std)
    assert_close(got.std, plain.std)
    turned = load_source(source.model_copy(update={"direction": "lower_is_better"}), torch.device("cpu")).score(said)
    assert_close(turned.total, -plain.total - 0.5 * plain.std)
    with_one_more = Ensemble([model, Says("a", [1.0, 2.0])], rule="worst").score(said)
    assert_close(with_one_more.total, torch.minimum(plain.heads.min(0).values, torch.tensor([1.0, 2.0])))


def test_one_head_is_no_ensemble(tmp_path):
    save_model(reward_model_from(tiny_model("llama"), seed=0), tiny_tokenizer(), tmp_path)
    with pytest.raises(ConfigError, match="has one head, which is no ensemble"):
        load_source(RewardSource(kind="ensemble", path=tmp_path), torch.device("cpu"))


def test_scores_of_tokens_are_refused():
    with pytest.raises(CheckError, match="a member of ensemble scores tokens"):
        Ensemble([Says("a", [1.0], per_token=[[1.0]])]).score(samples(1))
