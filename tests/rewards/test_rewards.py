from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from loopwright.data.chat import ensure_chat_template, render_prompt
from loopwright.data.tokenizer import encode_text, train_tokenizer
from loopwright.errors import CheckError, DataError
from loopwright.models import batching
from loopwright.models.heads import reward_model_from, scores_at_last_token
from loopwright.models.loading import load_tokenizer, save_model
from loopwright.models.tokens import ensure_pad
from loopwright.rewards import CallableReward, RewardModel, Sample, Scores, WeightedSum
from loopwright.schemas import Message, Prompt
from tests.tiny import Elsewhere, saved, tiny_model, tiny_tokenizer


def sample(question, answer, finished=True):
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(answer, add_special_tokens=False) + [tokenizer.eos_token_id] * finished
    return Sample(Prompt.user("p", question), answer, tokenizer.encode(question), ids, finished, tokenizer)


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


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_neither_order_nor_batches_matter(model, monkeypatch, threads):
    reward = RewardModel(model, tiny_tokenizer())
    got = reward.score(SAMPLES).total
    assert_close(reward.score(SAMPLES[::-1]).total.flip(0), got)
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", 1)
    assert_close(reward.score(SAMPLES).total, got)


def test_rows_of_like_length_share_a_batch():
    lengths = [2, 2, 30, 2, 10, 2, 11, 12]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    assert list(batching._batches(order, lengths, 16_384)) == [order]  # too few to be worth a second batch
    lengths *= 16
    batches = list(batching._batches(sorted(range(len(lengths)), key=lengths.__getitem__), lengths, 16_384))
    assert sorted(i for batch in batches for i in batch) == list(range(128))
    assert [{lengths[i] for i in batch} for batch in batches] == [{2}, {10, 11, 12}, {30}]


def test_a_sample_beyond_the_context(model):
    with pytest.raises(DataError, match="a row of 101 tokens exceeds the reward model's context of 64"):
        RewardModel(model, tiny_tokenizer()).score([sample("x" * 50, "y" * 50)])


def from_text(model, tokenizer, one, end):
    """The score of prompt and response as the reward model's own tokenizer renders them."""
    ids = render_prompt(tokenizer, one.prompt.messages) + encode_text(tokenizer, one.response) + end
    return scores_at_last_token(model, torch.tensor([ids]), torch.ones(1, len(ids)).bool())


def foreign_tokenizer(kind):
    """As many tokens as the samples', but other ones: without a chat template, or with one."""
    tokenizer = train_tokenizer([one.prompt.messages[0].content + one.response for one in SAMPLES], 260)
    if kind == "template":
        ensure_chat_template(tokenizer)
    return tokenizer


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "template"])
@pytest.mark.parametrize("append_eos", [True, False])
def test_a_reward_model_of_another_tokenizer_scores_the_text(model, kind, append_eos):
    tokenizer = foreign_tokenizer(kind)
    model.config.append_eos = append_eos
    reward = RewardModel(model, tokenizer)
    assert len(tokenizer) == len(tiny_tokenizer()) and not reward.reads(SAMPLES[0].tokenizer)
    got = reward.score(SAMPLES).total
    for row, one in enumerate(SAMPLES):
        end = [tokenizer.eos_token_id] if append_eos and one.finished else []
        assert_close(got[row : row + 1], from_text(model, tokenizer, one, end))


def test_of_another_chat_template_only_the_prompt_is_rendered_anew(model):
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    reward = RewardModel(model, tokenizer)
    odd = replace(SAMPLES[0], response_ids=[11, 12, 13])  # not how its text would be tokenized
    assert reward.row(odd) == [*render_prompt(tokenizer, odd.prompt.messages), 11, 12, 13]
    assert not reward.reads(odd.tokenizer)


def test_of_the_same_tokenizer_the_tokens_go_in_as_they_are(model, tmp_path):
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    odd = replace(SAMPLES[0], prompt_ids=[21, 22], response_ids=[11, 12, 13], tokenizer=load_tokenizer(tmp_path))
    reward = RewardModel(model, tokenizer)
    assert reward.reads(odd.tokenizer) and reward.row(odd) == [21, 22, 11, 12, 13]


def test_padding_of_its_own_makes_no_other_tokenizer(model):
    tokenizer, padded = tiny_tokenizer(pad=False), tiny_tokenizer(pad=False)
    ensure_pad(padded)
    assert len(padded) == len(tokenizer) + 1
    assert RewardModel(model, tokenizer).reads(padded) and RewardModel(model, padded).reads(tokenizer)


def test_another_end_makes_another_tokenizer(model):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|assistant|>"
    reward = RewardModel(model, tokenizer)
    assert not reward.reads(tiny_tokenizer())
    assert reward.row(SAMPLES[0])[-1] == tokenizer.eos_token_id != SAMPLES[0].response_ids[-1]


def test_a_folder_without_padding_is_given_a_row_for_it(tmp_path):
    model = reward_model_from(tiny_model("llama", vocab_size=259), seed=0)
    folder = saved(model, tiny_tokenizer(pad=False), tmp_path)
    got = RewardModel(folder).score(SAMPLES).total
    assert_close(got, RewardModel(model, tiny_tokenizer(pad=False)).score(SAMPLES).total)


def test_a_callable_reads_text():
    reward = CallableReward(lambda ps, rs: [len(p) + 100 * len(r) for p, r in zip(ps, rs, strict=True)], "n")
    assert reward.score(SAMPLES).total.tolist() == [15 + 400, 2 + 2300, 10]
    conversation = Prompt(
        id="c", messages=(Message(role="system", content="Be kind."), Message(role="user", content="Hi"))
    )
    seen = []
    CallableReward(lambda p, r: seen.append(p) or [0.0], "see").score(
        [Sample(conversation, "", [], [], True, tiny_tokenizer())]
    )
    assert seen == [["system: Be kind.\nuser: Hi"]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "reward r gave 1 scores for 3 responses"),
        ([1.0, float("nan"), 2.0], "gave nan to 'Hello there, dear guest'"),
        ([1.0, None, 2.0], "something other than numbers"),
        (None, "reward r gave None for 3 responses; give a list of numbers"),
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


class ElsewhereReward:
    name = "elsewhere"

    def score(self, samples):
        total, per_token = (part.as_subclass(Elsewhere) for part in (torch.arange(3.0), torch.arange(6.0).view(3, 2)))
        return Scores(total, per_token=per_token, parts={"inner": total})


def test_what_a_reward_leaves_on_a_gpu_is_summed_on_the_cpu():
    here = CallableReward(lambda p, r: [1.0, 2.0, 3.0], "here")
    got = WeightedSum([(ElsewhereReward(), 2.0), (here, 1.0)]).score(SAMPLES)
    assert {type(part) for part in (got.total, got.per_token, *got.parts.values())} == {torch.Tensor}
    assert got.total.tolist() == [1.0, 4.0, 7.0]
    assert got.per_token.tolist() == [[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_come_back_from_a_gpu(model):
    on_gpu = CallableReward(lambda p, r: torch.ones(3, device="cuda"), "gpu")
    got = WeightedSum([(on_gpu, 1.0), (RewardModel(model.cuda(), tiny_tokenizer()), 1.0)]).score(SAMPLES)
    assert {part.device.type for part in (got.total, *got.parts.values())} == {"cpu"}


def test_parts_of_one_name_are_numbered():
    reward = CallableReward(lambda p, r: [1.0, 2.0, 3.0], "judge")
    got = WeightedSum([(reward, 1.0), (reward, 2.0)]).score(SAMPLES)
    assert list(got.parts) == ["judge_1", "judge_2"]
    assert got.total.tolist() == [3, 6, 9]


def test_a_sum_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum([])
