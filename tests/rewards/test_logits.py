"""Rules on raw logits: what a reward model was normalised by is undone."""

import pytest
import torch
from torch.testing import assert_close

from loopwright.models.heads import reward_model_from
from loopwright.models.normalisation import fold_normalisation
from loopwright.rewards import CallableReward, Ensemble, MergeConfig, Merged, Negated, RewardModel, Sample
from loopwright.rewards.logits import as_logits
from loopwright.rewards.reward_model import features_of_rows
from loopwright.schemas import Prompt
from tests.tiny import tiny_model, tiny_tokenizer

TEXTS = ["", "a", "Six.", "hello there", "no, thank you", "zzz?"]
ROLES = dict(helpful="helpful", safe="safe")


def samples():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("Hi")
    return [
        Sample(
            Prompt.user(f"p{i}", "Hi"), text, ids, [*tokenizer.encode(text), 256], finished=True, tokenizer=tokenizer
        )
        for i, text in enumerate(TEXTS)
    ]


def trained(family="gpt2", *, heads=1, seed=1, name="safe"):
    lm = tiny_model(family)
    lm.config.pad_token_id = 257
    return RewardModel(reward_model_from(lm, seed=seed, heads=heads), tiny_tokenizer(), name=name)


def normalise(reward):
    """As the reward stage does it, on the samples."""
    rows = [reward.row(sample) for sample in samples()]
    folded = fold_normalisation(reward.model, features_of_rows(reward.model, rows, reward.pad_id))
    reward.model.config.preference_scale, reward.model.config.preference_mean = folded.scale, folded.mean
    return folded


def test_a_layer_norm_gives_every_logit_back():
    reward = trained()
    before = reward.score(samples()).total
    folded = normalise(reward)
    assert abs(folded.mean) > 1e-3 and folded.scale != pytest.approx(1.0, abs=1e-3)
    assert_close(reward.score(samples()).total.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    undone = as_logits(reward)
    assert undone.name == "safe"
    assert_close(undone.score(samples()).total, before, rtol=1e-4, atol=1e-5)


def test_an_rms_norm_gives_back_their_mean_on_the_reference_samples():
    reward = trained("llama")
    before = reward.score(samples()).total
    normalise(reward)
    assert_close(as_logits(reward).score(samples()).total.mean(), before.mean(), rtol=1e-4, atol=1e-5)


def test_of_several_heads_their_mean_and_how_far_they_differ():
    reward = trained(heads=3)
    before = reward.score(samples())
    folded = normalise(reward)
    normal, got = reward.score(samples()), as_logits(reward).score(samples())
    assert_close(got.total, before.total, rtol=1e-4, atol=1e-5)
    assert_close(got.std, folded.scale * normal.std)
    assert_close(got.heads.mean(0), got.total)
    members = as_logits(Ensemble([reward], rule="mean_less_std", penalty=1.0)).score(samples())
    assert_close(members.total, got.total - got.std, rtol=1e-4, atol=1e-5)


def test_a_reward_turned_around_and_one_that_was_never_normalised():
    reward, plain = trained(), trained(seed=2)
    before = reward.score(samples()).total
    normalise(reward)
    assert_close(as_logits(Negated(reward)).score(samples()).total, -before, rtol=1e-4, atol=1e-5)
    called = CallableReward(lambda prompts, responses: [1.0] * len(responses), "called")
    assert as_logits(plain) is plain and as_logits(called) is called


def test_the_threshold_of_llama2_is_compared_with_the_logit_that_the_safety_model_learned():
    safe = trained()
    helpful = CallableReward(lambda prompts, responses: [9.0] * len(responses), "helpful")
    folded = normalise(safe)
    safe.model.config.preference_mean = -1.7346  # whose sigmoid is 0.15: the mean answer is at the threshold
    scores = safe.score(samples()).total
    unsafe = scores < 0
    assert int(unsafe.sum()) >= 2 and not torch.equal(unsafe, scores < -1.7346)  # the scores would decide otherwise
    got = Merged([(helpful, 1.0), (safe, 1.0)], MergeConfig(rule="llama2", **ROLES)).score(samples())
    logits = folded.scale * scores - 1.7346
    assert_close(got.total, torch.where(unsafe, logits, 9.0))
    assert_close(got.parts["safe"], logits)


@pytest.mark.parametrize("rule", ["weighted_sum", "worst", "constraint"])
def test_other_rules_read_the_scores_as_they_are(rule):
    safe = trained()
    normalise(safe)
    helpful = CallableReward(lambda prompts, responses: [0.5] * len(responses), "helpful")
    roles = ROLES if rule == "constraint" else {}
    got = Merged([(helpful, 1.0), (safe, 1.0)], MergeConfig(rule=rule, **roles)).score(samples())
    assert torch.equal(got.parts["safe"], safe.score(samples()).total)
