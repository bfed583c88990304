import pytest
import torch
from torch.testing import assert_close

from loopwright.errors import CheckError, DataError
from loopwright.models.heads import reward_model_from, scores_at_last_token
from loopwright.models.loading import save_model
from loopwright.rewards import CallableReward, RewardModel, Sample, WeightedSum
from loopwright.rewards import reward_model as module
from loopwright.schemas import Message, Prompt
from tests.tiny import tiny_model, tiny_tokenizer


def sample(question, answer, finished=True):
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(answer, add_special_tokens=False) + [tokenizer.eos_token_id] * finished
    return Sample(Prompt.user("p", question), answer, tokenizer.encode(question), ids, finished)


SAMPLES = [sample("How late is it?", "Six."), sample("Hi", "Hello there, dear guest", False), sample("A long one", "")]


@pytest.fixture
def model():
    lm = tiny_model("llama")
    lm.config.pad_token_id = 257
    return reward_model_from(lm, seed=0)


@torch.no_grad()
def test_a_reward_model_scores_the_sampled_tokens(model, tmp_path):
    got = RewardModel(model, tiny_tokenizer()).score(SAMPLES).total
    for row, one in enumerate(SAMPLES):
        ids = torch.tensor([one.prompt_ids + one.response_ids])
        assert_close(got[row : row + 1], scores_at_last_token(model, ids, torch.ones_like(ids).bool()))
    save_model(model, tiny_tokenizer(), tmp_path)
    assert_close(RewardModel(tmp_path).score(SAMPLES).total, got)


def test_neither_order_nor_batches_matter(model, monkeypatch):
    reward = RewardModel(model, tiny_tokenizer())
    got = reward.score(SAMPLES).total
    assert_close(reward.score(SAMPLES[::-1]).total.flip(0), got)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 1)
    assert_close(reward.score(SAMPLES).total, got)


def test_a_sample_beyond_the_context(model):
    with pytest.raises(DataError, match="a row of 101 tokens exceeds the reward model's context of 64"):
        RewardModel(model, tiny_tokenizer()).score([sample("x" * 50, "y" * 50)])


def test_a_callable_reads_text():
    reward = CallableReward(lambda ps, rs: [len(p) + 100 * len(r) for p, r in zip(ps, rs, strict=True)], "n")
    assert reward.score(SAMPLES).total.tolist() == [15 + 400, 2 + 2300, 10]
    conversation = Prompt(
        id="c", messages=(Message(role="system", content="Be kind."), Message(role="user", content="Hi"))
    )
    seen = []
    CallableReward(lambda p, r: seen.append(p) or [0.0], "see").score([Sample(conversation, "", [], [], True)])
    assert seen == [["system: Be kind.\nuser: Hi"]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "reward r gave 1 scores for 3 responses"),
        ([1.0, float("nan"), 2.0], "gave nan to 'Hello there, dear guest'"),
        ([1.0, None, 2.0], "something other than numbers"),
    ],
)
def test_a_callable_that_gives_something_else(scores, message):
    with pytest.raises(CheckError, match=message):
        CallableReward(lambda prompts, responses: scores, "r").score(SAMPLES)


def test_a_weighted_sum_by_hand():
    first = CallableReward(lambda p, r: [1.0, 2.0, 3.0], "first")
    second = CallableReward(lambda p, r: [10.0, 0.0, -10.0], "second")
    got = WeightedSum([(first, 0.5), (second, -0.1)]).score(SAMPLES)
    assert_close(got.total, torch.tensor([-0.5, 1.0, 2.5]))
    assert got.parts["first"].tolist() == [1, 2, 3] and got.parts["second"].tolist() == [10, 0, -10]


def test_one_reward_of_weight_one_is_that_reward():
    reward = CallableReward(lambda p, r: [1.0, 2.0, 3.0], "first")
    assert torch.equal(WeightedSum([(reward, 1.0)]).score(SAMPLES).total, reward.score(SAMPLES).total)


def test_parts_of_one_name_are_numbered():
    reward = CallableReward(lambda p, r: [1.0, 2.0, 3.0], "judge")
    got = WeightedSum([(reward, 1.0), (reward, 2.0)]).score(SAMPLES)
    assert list(got.parts) == ["judge_1", "judge_2"]
    assert got.total.tolist() == [3, 6, 9]


def test_a_sum_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum([])
