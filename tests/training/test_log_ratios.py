"""How much likelier than the reference a policy finds responses: against transformers' own logits, row by row."""

import copy

import pytest
import torch
from torch.testing import assert_close

from loopwright.data.readers import write_records
from loopwright.errors import CheckError, DataError
from loopwright.feedback.pairs import JudgementConfig, convert
from loopwright.models.tokens import forbidden_token_ids
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Message, Ranking, Thumb
from loopwright.stages.dpo import DPOConfig
from loopwright.training import log_ratios
from loopwright.training.direct_config import ThumbConfig
from loopwright.training.judged_answers import as_thumbs, read_judged
from loopwright.training.judged_groups import as_continuations, group, that_fit
from loopwright.training.log_ratios import LogRatios, mismatched
from tests.tiny import tiny_model, tiny_tokenizer


def asked(text):
    return (Message(role="user", content=text),)


SAID = [
    Comparison(id="1", prompt=asked("Hi"), responses=("yes", "no, never"), choice=0),
    Comparison(id="2", prompt=asked("Hi"), responses=("perhaps", "yes"), choice=1, probability=0.2),
    Comparison(id="3", prompt=asked("What is it?"), responses=("a", "bcd"), choice=1),
    Ranking(id="4", prompt=asked("And then?"), responses=("x", "yy", "zzz"), ranks=(3, 1, 2)),
]


def groups(said=SAID, *, by_prompt=True, **settings):
    found = group(convert(said, JudgementConfig(**settings)))
    as_continuations(found, tiny_tokenizer(), append_eos=True)
    return that_fit(found, max_length=64, by_prompt=by_prompt)[0]


def plainly(model, row, prompt_length):
    """log pi of each response token from the model's own logits, where forbidden tokens have no probability."""
    forbidden = forbidden_token_ids(tiny_tokenizer(), model.get_input_embeddings().num_embeddings)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row])).logits[0, prompt_length - 1 : -1].double()
    known = logits.index_fill(1, forbidden, -torch.inf).log_softmax(-1)
    return known.gather(1, torch.tensor(row[prompt_length:])[:, None])[:, 0]


@pytest.fixture(params=["llama", "gpt2", "gemma2"])  # gemma2 changes its logits after the head
def two(request):
    """A reference and a policy that is another model."""
    reference = tiny_model(request.param)
    policy = copy.deepcopy(reference)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return reference, policy


def test_they_are_differences_of_log_probabilities_of_responses_eos_included(two):
    reference, policy = two
    known = LogRatios(reference, tiny_tokenizer()).remember(groups())
    ratios = LogRatios(policy, tiny_tokenizer())
    batch = ratios.batch(known)
    expected, tokens = [], []
    for one in known:
        for ids in one.group.rows:
            assert ids[-1] == tiny_tokenizer().eos_token_id
            begin = len(one.group.prompt_ids)
            expected.append((plainly(policy, ids, begin) - plainly(reference, ids, begin)).sum())
            tokens.append(len(ids) - begin)
    expected, tokens = torch.stack(expected).float(), torch.tensor(tokens)
    assert expected.abs().min() > 1e-3
    assert_close(ratios.of(batch.episodes), expected, rtol=1e-4, atol=1e-4)
    assert_close(ratios.of_rows([row for one in known for row in one.rows]), expected, rtol=1e-4, atol=1e-4)
    means = LogRatios(policy, tiny_tokenizer(), per_token=True)
    assert_close(means.of(batch.episodes), expected / tokens, rtol=1e-4, atol=1e-4)


def test_rows_read_one_by_one_in_any_order_and_together_are_the_same(two):
    reference, policy = two
    known = LogRatios(reference, tiny_tokenizer()).remember(groups())
    ratios = LogRatios(policy, tiny_tokenizer())
    together = ratios.of(ratios.batch(known).episodes)
    apart = torch.cat([ratios.of(ratios.batch([one]).episodes) for one in known])
    backwards = ratios.of(ratios.batch(known[::-1]).episodes)
    order = [number for one in reversed(range(len(known))) for number in numbers_of(known, one)]
    assert_close(apart, together, rtol=1e-5, atol=1e-5)
    assert_close(backwards, together[order], rtol=1e-5, atol=1e-5)


def numbers_of(known, place):
    start = sum(len(one.rows) for one in known[:place])
    return range(start, start + len(known[place].rows))


def test_the_gradient_is_that_of_the_models_own_forward_pass():
    model = tiny_model("llama").requires_grad_()
    ratios = LogRatios(model, tiny_tokenizer())
    known = ratios.remember(groups())
    ratios.of(ratios.batch(known).episodes).sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    forbidden = forbidden_token_ids(tiny_tokenizer(), model.get_input_embeddings().num_embeddings)
    for one in known:
        for row in one.group.rows:
            begin = len(one.group.prompt_ids)
            logits = model(input_ids=torch.tensor([row])).logits[0, begin - 1 : -1]
            logits.index_fill(1, forbidden, -1e30).log_softmax(-1).gather(
                1, torch.tensor(row[begin:])[:, None]
            ).sum().backward()
    for name, parameter in model.named_parameters():
        assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_an_adapted_policy_starts_at_its_base():
    start = tiny_model("llama")
    known = LogRatios(start, tiny_tokenizer()).remember(groups())
    policy = make_trainable(start, TrainableConfig(mode="lora", lora=LoRAConfig(r=2)), seed=0)
    ratios = LogRatios(policy, tiny_tokenizer())
    ratios.check_same(known)
    assert_close(ratios.of(ratios.batch(known).episodes), torch.zeros(8), atol=1e-4, rtol=0)


def test_another_model_than_the_reference_is_noticed(two):
    reference, policy = two
    known = LogRatios(reference, tiny_tokenizer()).remember(groups())
    with pytest.raises(CheckError, match="policy and reference differ by"):
        LogRatios(policy, tiny_tokenizer()).check_same(known)


def test_no_row_of_logits_outlives_its_block(monkeypatch):
    """Responses of many tokens: blocks of logits are at most what `row_chunks` allows."""
    seen = []
    original = log_ratios.token_logprobs
    monkeypatch.setattr(
        log_ratios,
        "token_logprobs",
        lambda hidden, weight, *args, **kw: seen.append(hidden.shape) or original(hidden, weight, *args, **kw),
    )
    model = tiny_model("llama")
    LogRatios(model, tiny_tokenizer()).remember(groups())
    assert seen and all(shape[-1] == model.config.hidden_size for shape in seen)  # states, no logits


def test_each_prompt_meets_responses_to_another(two):
    reference, _ = two
    found = groups()
    rows = mismatched(found, seed=3, max_length=64)
    given = {tuple(row) for own in found for row in own.rows}
    followers = []
    for own, wrong in zip(found, rows, strict=True):
        begin = len(own.prompt_ids)
        assert len(wrong) == len(own.rows) and all(row[:begin] == own.prompt_ids for row in wrong)
        assert not given & {tuple(row) for row in wrong}
        (other,) = [
            one
            for one in found
            if {tuple(row[begin:]) for row in wrong} <= {tuple(r[len(one.prompt_ids) :]) for r in one.rows}
        ]
        followers.append(other.key)
    assert sorted(followers) == sorted(own.key for own in found)  # a ring
    assert mismatched(found, 3, 64) == rows and any(mismatched(found, seed, 64) != rows for seed in range(4))
    assert all(len(row) <= 12 for wrong in mismatched(found, 3, 12) for row in wrong)
    assert mismatched(found[:1], 3, 64) == [[]]
    known = LogRatios(reference, tiny_tokenizer()).remember(found, mismatches=rows)
    for one, own in zip(known, rows, strict=True):
        for row, ids in zip(one.mismatched, own, strict=True):
            expected = plainly(reference, ids, row.prompt_length).float()
            assert_close(row.reference, expected, rtol=1e-4, atol=1e-4)


def test_pairs_become_thumbs_by_hand():
    liked = Thumb(id="5", prompt=asked("Hi"), responses=("yes",), good=True)
    first, _, ranked = as_thumbs(groups([*SAID, liked], by_prompt=False), ThumbConfig(weigh_by="pair"))
    said = {(first.responses[one.place], round(one.target, 6), one.weight) for one in first.labels}
    assert said == {("yes", 1, 1), ("no, never", 0, 1), ("yes", 0.8, 1), ("perhaps", 0.2, 1)} and len(first.labels) == 5
    wins = {
        text: [one.target for one in ranked.labels if ranked.responses[one.place] == text]
        for text in ("x", "yy", "zzz")
    }
    assert wins == {"x": [0, 0], "yy": [1, 1], "zzz": [1, 0]}
    assert not first.pairs
    for one in as_thumbs(groups([*SAID, liked]), ThumbConfig()):
        assert one.weight() == pytest.approx(1.0)
    (same,) = as_thumbs(groups([liked]), ThumbConfig())
    assert same.labels == groups([liked])[0].labels


def read(tmp_path, given, ages=(), **config):
    runtime = Runtime.temporary(tmp_path, stage="dpo")
    given = given if isinstance(given, dict) else {"comparisons": given}
    return read_judged(DPOConfig(**config), given, ages, tiny_tokenizer(), runtime)


def test_judgements_of_earlier_rounds_weigh_less(tmp_path):
    """As for the reward stage: a prompt that was judged again counts as new."""
    for place, said in enumerate((SAID[:3], SAID[1:2])):
        write_records(tmp_path / f"{place}.jsonl", said)
    given = {"comparisons": (tmp_path / "0.jsonl", tmp_path / "1.jsonl")}
    data = read(tmp_path, given, (1, 0), earlier_rounds_weight=0.25, held_out_share=0)
    assert {one.messages[0].content: one.weight() for one in data.train} == {"Hi": 1.0, "What is it?": 0.25}
    (_, old) = as_thumbs(data.train, ThumbConfig())
    assert old.weight() == pytest.approx(0.25) and len(old.labels) == 2


def test_what_does_not_fit_is_left_out_whole_and_counted(tmp_path):
    long = Comparison(id="l", prompt=asked("Hi"), responses=("y" * 60, "no"), choice=0)
    tie = Comparison(id="t", prompt=asked("Who?"), responses=("a", "b"), choice=None)
    data = read(tmp_path, [*SAID[:3], long, tie], max_length=40, held_out_share=0)
    assert data.counts == {"prompts": 2, "prompts_held_out": 0, "ties": 1, "too_long": 1, "bad_rows": 0}
    assert all(row[-1] == tiny_tokenizer().eos_token_id for one in data.train for row in one.rows)
    with pytest.raises(DataError, match=r"no judgement is left to train on \(1 ties, 1 of responses longer"):
        read(tmp_path, [long, tie], max_length=40, held_out_share=0)


def test_a_policy_learns_to_answer_prompts(tmp_path):
    with pytest.raises(DataError, match="'a' answers no prompt, and a policy learns to answer"):
        read(tmp_path, [Comparison(id="1", responses=("a", "b"), choice=0)])
