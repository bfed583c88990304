import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from loopwright.errors import CheckError, ModelError
from loopwright.models.heads import (
    Branches,
    Critic,
    can_branch,
    head_of,
    last_token_features,
    reward_model_from,
    scores_at_last_token,
    scores_of_branches,
    scores_of_rows,
)
from loopwright.models.loading import load_reward_model, save_model, without_dropout
from loopwright.models.normalisation import fold_normalisation
from loopwright.models.padding import last_token_index, pad_rows, padding_gap, position_ids
from loopwright.models.trainable import TrainableConfig, make_trainable
from tests.tiny import FAMILIES, saved, tiny_model, tiny_tokenizer

ROWS = [[72, 101, 108], [70, 1, 2, 3, 4, 5, 6], [9, 8, 7, 6, 5]]


@pytest.fixture(params=FAMILIES)
def reward_model(request):
    lm = without_dropout(tiny_model(request.param))
    lm.config.pad_token_id = 257
    return reward_model_from(lm, seed=0)


def many_rows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 20, (count,), generator=generator).tolist()
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


def test_positions_by_hand():
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
    assert last_token_index(mask).tolist() == [3, 2]


def test_pad_rows_by_hand():
    ids, mask = pad_rows([[1, 2], [3]], pad_id=9, left=True)
    assert ids.tolist() == [[1, 2], [9, 3]] and mask.tolist() == [[True, True], [False, True]]
    assert pad_rows([[1, 2], [3]], pad_id=9)[0].tolist() == [[1, 2], [3, 9]]


@torch.no_grad()
def test_the_body_is_the_lms_and_the_head_has_the_published_spread(reward_model):
    """The last hidden state is the LM's; N(0, 1 / (d + 1)) has deviation 1 / sqrt(17) at d = 16."""
    heads = torch.cat([head_of(reward_model_from(tiny_model("llama"), seed=s)).weight for s in range(60)])
    assert abs(float(heads.std()) * 17**0.5 - 1) < 0.1
    family = reward_model.config.model_type
    ids, mask = pad_rows(ROWS[:1], 257)
    hidden = tiny_model(family).base_model(ids).last_hidden_state[0, -1]
    assert_close(last_token_features(reward_model, ids, mask)[0], hidden)
    assert head_of(reward_model).bias is None


@torch.no_grad()
def test_scores_are_those_of_transformers(reward_model):
    ids, mask = pad_rows(ROWS, 257)
    expected = reward_model(input_ids=ids, attention_mask=mask).logits[:, 0]
    assert_close(scores_at_last_token(reward_model, ids, mask), expected)


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_padding_changes_neither_scores_nor_values(reward_model, left):
    ids, mask = pad_rows(ROWS, 257, left=left)
    critic = Critic.from_reward_model(reward_model)
    assert padding_gap(lambda i, m: scores_at_last_token(reward_model, i, m), ids, mask, junk_id=5) < 1e-5
    assert padding_gap(critic, ids, mask, junk_id=5) < 1e-5


def branched(*prompts_with_responses):
    """Rows of a prompt and all its responses, and the same as a row for each."""
    longest = max(len(prompt + sum(responses, [])) for prompt, responses in prompts_with_responses)
    ids, positions, segments, rows, ends, whole = [], [], [], [], [], []
    for row, (prompt, responses) in enumerate(prompts_with_responses):
        lengths = [len(prompt), *map(len, responses)]
        padding = longest - sum(lengths)
        ids.append(prompt + sum(responses, []) + [257] * padding)
        positions.append(
            [*range(len(prompt))] + [len(prompt) + i for r in responses for i in range(len(r))] + [0] * padding
        )
        segments.append([n for n, length in enumerate(lengths) for _ in range(length)] + [-1] * padding)
        for n, response in enumerate(responses, start=1):
            rows.append(row)
            ends.append(sum(lengths[: n + 1]) - 1 if response else len(prompt) - 1)
            whole.append(prompt + response)
    return Branches(*map(torch.tensor, (ids, positions, segments, rows, ends))), pad_rows(whole, 257)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("adapters", [False, True])
def test_responses_in_one_row_score_as_in_rows_of_their_own_and_give_the_same_gradients(
    reward_model, adapters, attention
):
    reward_model.set_attn_implementation(attention)
    if adapters:
        reward_model = make_trainable(reward_model, TrainableConfig(mode="lora"), seed=0)
    branches, rows = branched(([7], [[9, 8, 7], [5]]), ([70, 1, 2, 3], [[4, 3], [], [2, 1, 0, 6]]))
    assert can_branch(reward_model)
    trained = [parameter for parameter in reward_model.parameters() if parameter.requires_grad]
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.5])
    found = []
    for scores in (scores_at_last_token(reward_model, *rows), scores_of_branches(reward_model, branches)[:, 0]):
        found.append((scores, torch.autograd.grad((scores * weights).sum(), trained, allow_unused=True)))
    assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_branch_depends_on_its_own_prompt_and_response_alone(reward_model):
    alone, _ = branched(([7, 1], [[9, 8, 7]]))
    crowd, _ = branched(([7, 1], [[5, 5], [9, 8, 7], [6]]), ([5, 4, 3, 2, 1], [[1, 2, 3, 4, 5, 6], [8]]))
    expected = scores_of_branches(reward_model, alone)
    assert_close(scores_of_branches(reward_model, crowd)[1:2], expected, atol=1e-5, rtol=1e-4)


def test_a_model_that_does_not_see_all_tokens_cannot_branch():
    assert can_branch(tiny_model("qwen2"))
    assert not can_branch(tiny_model("gemma2"))  # every other layer looks through a window


@torch.no_grad()
def test_the_padding_check_sees_positions_that_shift():
    lm = tiny_model("gpt2")
    ids, mask = pad_rows(ROWS, 257, left=True)
    wrong = padding_gap(lambda i, m: lm(i, attention_mask=m).logits.logsumexp(-1), ids, mask, junk_id=5)
    assert wrong > 1e-2


@torch.no_grad()
def test_the_critics_last_value_is_the_score_it_starts_from(reward_model):
    ids, mask = pad_rows(ROWS, 257)
    values = Critic.from_reward_model(reward_model)(ids, mask)
    assert values.shape == ids.shape
    last = values[torch.arange(3), last_token_index(mask)]
    assert_close(last, scores_at_last_token(reward_model, ids, mask))


@torch.no_grad()
def test_the_critic_is_its_own_copy_and_survives_saving(reward_model, tmp_path):
    critic = Critic.from_reward_model(reward_model)
    ids, mask = pad_rows(ROWS, 257)
    before = scores_at_last_token(reward_model, ids, mask)
    for parameter in critic.parameters():
        parameter.add_(0.1)
    assert torch.equal(scores_at_last_token(reward_model, ids, mask), before)
    critic.save(tiny_tokenizer(), tmp_path)
    assert_close(Critic.load(tmp_path)(ids, mask), critic(ids, mask))


@torch.no_grad()
def test_what_plain_transformers_loads_gives_the_normalised_score(reward_model, tmp_path):
    ids, mask = pad_rows(many_rows(200), 257)
    scores = scores_at_last_token(reward_model, ids, mask)
    folded = fold_normalisation(reward_model, last_token_features(reward_model, ids, mask))
    assert_close(folded.mean, float(scores.mean()), atol=1e-5, rtol=0)
    assert_close(folded.std, float(scores.std(correction=0)), atol=1e-5, rtol=0)
    save_model(reward_model, tiny_tokenizer(), tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.num_labels == 1
    got = theirs(input_ids=ids, attention_mask=mask).logits[:, 0]
    assert abs(float(got.mean())) < 1e-5 and abs(float(got.std(correction=0)) - 1) < 1e-5
    assert_close(scores_at_last_token(load_reward_model(tmp_path), ids, mask), got)
    if reward_model.config.model_type == "gpt2":  # LayerNorm has a bias: the fold is exact
        assert_close(got, (scores - folded.mean) / folded.std, atol=1e-4, rtol=0)
        assert folded.correlation == 1.0
    else:
        assert_close(torch.corrcoef(torch.stack((got, scores)))[0, 1].item(), folded.correlation, atol=1e-4, rtol=0)
        assert folded.correlation > 0.9


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_several_heads_are_centred_each_and_scaled_together(family, tmp_path):
    """Preferences leave the mean of each head free; how far apart heads are may not depend on that."""
    lm = without_dropout(tiny_model(family))
    lm.config.pad_token_id = 257
    reward_model = reward_model_from(lm, seed=0, heads=3)
    ids, mask = pad_rows(many_rows(200), 257)
    before = scores_of_rows(reward_model, ids, mask)
    folded = fold_normalisation(reward_model, last_token_features(reward_model, ids, mask))
    after = scores_of_rows(reward_model, ids, mask)
    assert after.shape == (200, 3) and float(after.mean(0).abs().max()) < 1e-5
    score = scores_at_last_token(reward_model, ids, mask)
    assert_close(score, after.mean(1))
    assert float(score.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert folded.mean == pytest.approx(float(before.mean()), abs=1e-5)
    if family == "gpt2":  # exact, whatever the row
        assert_close(after, (before - before.mean(0)) / folded.scale, atol=1e-4, rtol=0)
    save_model(reward_model, tiny_tokenizer(), tmp_path)
    assert_close(scores_of_rows(load_reward_model(tmp_path), ids, mask), after)
    critic = Critic.from_reward_model(reward_model)
    assert head_of(critic.model).weight.shape[0] == 1 and head_of(reward_model).weight.shape[0] == 3
    values = critic(ids, mask)
    assert_close(values[torch.arange(200), last_token_index(mask)], score, atol=1e-5, rtol=1e-5)
    critic.save(tiny_tokenizer(), tmp_path / "critic")
    assert_close(Critic.load(tmp_path / "critic")(ids, mask), values)


def test_a_classifier_of_several_labels_is_no_reward_model_of_several_heads(tmp_path):
    reward_model = reward_model_from(tiny_model("llama"), seed=0, heads=3)
    reward_model.config.reward_heads = 1
    save_model(reward_model, tiny_tokenizer(), tmp_path)
    with pytest.raises(ModelError, match="has 3 labels; a reward model has one"):
        load_reward_model(tmp_path)


def test_a_causal_lm_is_no_reward_model_with_a_head_of_chance(tmp_path):
    model = tiny_model("llama")
    model.config.num_labels = 1
    with pytest.raises(
        ModelError, match="holds a LlamaForCausalLM, which scores nothing; give a reward model's folder"
    ):
        load_reward_model(saved(model, tiny_tokenizer(), tmp_path))


@torch.no_grad()
def test_a_head_ten_times_larger_normalises_to_the_same(reward_model):
    ids, mask = pad_rows(many_rows(100), 257)
    features = last_token_features(reward_model, ids, mask)
    larger = Critic.from_reward_model(reward_model).model
    head_of(larger).weight.mul_(10)
    fold_normalisation(reward_model, features)
    fold_normalisation(larger, features)
    assert_close(scores_at_last_token(larger, ids, mask), scores_at_last_token(reward_model, ids, mask))


@torch.no_grad()
def test_scores_already_centred_keep_their_order_exactly(reward_model):
    """With mean 0 there is nothing to shift, only to scale."""
    ids, mask = pad_rows(many_rows(100), 257)
    features = last_token_features(reward_model, ids, mask)
    mean = features.mean(0)
    weight = head_of(reward_model).weight
    weight.sub_((weight[0] @ mean) * mean / mean.dot(mean))
    assert fold_normalisation(reward_model, features).correlation > 1 - 1e-9


@torch.no_grad()
def test_the_same_score_for_everything_is_refused(reward_model):
    ids, mask = pad_rows(many_rows(20), 257)
    features = last_token_features(reward_model, ids, mask)
    with pytest.raises(CheckError, match="the same score to all 20 reference samples"):
        fold_normalisation(reward_model, features[:1].expand(20, -1))
    head_of(reward_model).weight.zero_()
    with pytest.raises(CheckError, match="the same score"):
        fold_normalisation(reward_model, features)
    head_of(reward_model).weight.fill_(float("nan"))
    with pytest.raises(CheckError, match="not finite"):
        fold_normalisation(reward_model, features)
