"""Judgements grouped by prompt, as token rows and as batches."""

import pytest
import torch
from torch.testing import assert_close

from loopwright.feedback.pairs import JudgementConfig, convert
from loopwright.models.heads import reward_model_from
from loopwright.objectives.preference import bradley_terry_loss, ranking_loss
from loopwright.schemas import Comparison, Correction, Message, Ranking, Thumb
from loopwright.training import preference_pairs
from loopwright.training.judged_groups import as_continuations, group, keys_of, that_fit
from loopwright.training.preference_pairs import bootstrap, collate, may_branch, pairs_of, rows_in_use
from tests.tiny import tiny_model, tiny_tokenizer

ASK = (Message(role="user", content="Hi"),)
OTHER = (Message(role="user", content="Bye"),)


def compare(prompt, a, b, choice, **more):
    return Comparison(id=f"{a}{b}", prompt=prompt, responses=(a, b), choice=choice, **more)


def grouped(judgements, *, safety_weight=0.0, **settings):
    config = JudgementConfig(safety_weight=safety_weight, **settings)
    return group(convert(judgements, config))


def tokenized(groups, *, append_eos=True, max_length=10, by_prompt=False, safety_weight=0.0):
    as_continuations(groups, tiny_tokenizer(), append_eos=append_eos)
    return that_fit(groups, max_length=max_length, by_prompt=by_prompt, safety_weight=safety_weight)


def test_grouping_by_hand():
    groups = grouped([compare(ASK, "a", "b", 0), compare(OTHER, "a", "c", 1), compare(ASK, "c", "a", 1)])
    assert [(g.responses, [pair[:3] for pair in g.pairs]) for g in groups] == [
        (["a", "b", "c"], [(0, 1, 0), (2, 0, 1)]),
        (["a", "c"], [(0, 1, 1)]),
    ]


def test_texts_without_a_prompt_stay_with_those_they_were_compared_to():
    said = [compare((), "a", "b", 0), compare((), "x", "y", 0), compare((), "c", "b", 1)]
    assert [sorted(own.responses) for own in grouped(said)] == [["a", "b", "c"], ["x", "y"]]
    assert keys_of(said)[0] == keys_of(said)[2] != keys_of(said)[1]
    edited = Correction(id="e", responses=("y",), edited="a")  # connects them all
    assert len(set(keys_of([*said, edited]))) == 1


def test_a_prompt_counts_as_one_however_much_was_said():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "b", "c"), ranks=(1, 2, 2))
    said = [ranking, compare(ASK, "a", "b", 0), compare(OTHER, "a", "b", 0)]
    for by_prompt, expected in ((False, [[1.0] * 3, [1.0]]), (True, [[1 / 3] * 3, [1.0]])):
        kept, _ = tokenized(grouped(said), by_prompt=by_prompt)
        assert [[pair.weight for pair in own.pairs] for own in kept] == expected
    longer = Ranking(id="s", prompt=ASK, responses=("a", "b", "c" * 20), ranks=(1, 2, 3))
    (own,), skipped = tokenized(grouped([longer]), by_prompt=True)
    assert own.weight() == 1.0 and skipped == 2 and own.responses == ["a", "b"]  # what is left weighs one, too


def test_weights_count_within_a_prompt_and_between_prompts():
    said = [compare(ASK, "a", "b", 0, weight=2.0), compare(ASK, "a", "c", 0, weight=4.0), compare(OTHER, "a", "b", 0)]
    kept, _ = tokenized(grouped(said), by_prompt=True)
    # ASK weighs the mean, 3, OTHER 1: beside their mean of 2, 3/2 and 1/2, which ASK deals out as 1 to 2
    assert [pair.weight for own in kept for pair in own.pairs] == pytest.approx([0.5, 1.0, 0.5])
    alike = [one.model_copy(update={"weight": 7.0}) for one in said]
    kept, _ = tokenized(grouped(alike), by_prompt=True)
    assert [pair.weight for own in kept for pair in own.pairs] == pytest.approx([0.5, 0.5, 1.0])


def test_safety_labels_weigh_what_their_comparison_does():
    said = [
        compare(ASK, "a", "b", 0, weight=3.0, safe=(True, False)),
        compare(ASK, "a", "c", 0, safe=(True, True)),
        compare(OTHER, "a", "b", 0, weight=2.0),
    ]
    for by_prompt, expected in ((True, [0.3 * 3 / 8] * 2 + [0.3 / 8] * 2), (False, [0.9, 0.9, 0.3, 0.3])):
        kept, _ = tokenized(grouped(said, safety_weight=0.3), by_prompt=by_prompt, safety_weight=0.3)
        assert [label.weight for own in kept for label in own.labels] == pytest.approx(expected)


def test_the_weighted_pairs_of_a_ranking_are_the_loss_of_instructgpt():
    ranks, scores = (3, 1, 2, 2), torch.tensor([0.3, 1.1, -0.4, 0.2])
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "b", "c", "d"), ranks=ranks)
    pairs = pairs_of(tokenized(grouped([ranking]), by_prompt=True)[0], {})
    total = (pairs.weight * bradley_terry_loss(scores[pairs.chosen], scores[pairs.rejected])).sum()
    assert_close(total, ranking_loss(scores, ranks))


def test_safety_labels_stand_beside():
    said = [compare(ASK, "a", "b", 0, safe=(True, False))]
    (own,), _ = tokenized(grouped(said, safety_weight=0.5), by_prompt=True, safety_weight=0.5)
    assert [(label.target, label.weight) for label in own.labels] == [(1.0, 0.25), (0.0, 0.25)]
    batch = collate([own], 257, torch.device("cpu"))
    assert own.weight() == batch.weight() == 1.0
    alone = [compare(ASK, "a", "b", None, safe=(True, False))]  # a tie that is dropped leaves nothing to stand beside
    assert tokenized(grouped(alone, safety_weight=0.5), safety_weight=0.5) == ([], 2)


def test_pairs_in_the_order_of_their_texts():
    groups = tokenized(
        grouped([compare(ASK, "b", "a", 0, probability=0.9, order_shown=(1, 0)), compare(ASK, "a", "c", 1)])
    )[0]
    groups[0].order_by_text()
    texts = groups[0].responses
    assert [(texts[p.first], texts[p.second], p.choice, p.shown_first) for p in groups[0].pairs] == [
        ("a", "b", 1, 0),
        ("a", "c", 1, None),
    ]
    assert groups[0].pairs[0].probability == pytest.approx(0.1)


def test_what_a_batch_says_of_a_pair():
    said = [
        compare(ASK, "a", "b c", 1, annotator="ann", order_shown=(0, 1), margin=0.5),
        compare(ASK, "a", "b c", 0, annotator="bob", order_shown=(1, 0), probability=0.9),
        compare(ASK, "a", "b c", None),
    ]
    groups = tokenized(grouped(said, ties="davidson", margins="given"))[0]
    pairs = pairs_of(groups, {"ann": 0, "bob": 1})
    assert (pairs.chosen.tolist(), pairs.rejected.tolist()) == ([1, 0, 0], [0, 1, 1])
    assert pairs.probability.tolist() == pytest.approx([1.0, 0.9, 1.0])
    assert pairs.tie.tolist() == [False, False, True]
    assert pairs.margin.tolist() == [0.5, 0.0, 0.0]
    assert pairs.annotator.tolist() == [0, 1, -1]
    assert pairs.position.tolist() == [-1.0, -1.0, 0.0]  # both times the one that was not chosen was shown first
    assert pairs.length.tolist() == [1.0, -1.0, -1.0]


def test_a_swapped_comparison_is_the_same_pair():
    one = compare(ASK, "a", "b c", 1, annotator="ann", order_shown=(0, 1), probability=0.3)
    batches = []
    for said in (one, one.swap()):
        (own,) = tokenized(grouped([said]))[0]
        pairs = pairs_of([own], {"ann": 0})
        batches.append(({own.responses[pairs.chosen[0]]}, *(column.tolist() for column in pairs[2:])))
    assert batches[0] == batches[1]


def test_lists_and_labels_in_a_batch():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "b", "c"), ranks=(3, 1, 2))
    said = [Thumb(id="t", prompt=OTHER, responses=("yes",), good=True), Thumb(id="u", responses=("no",), good=False)]
    groups = tokenized(grouped([ranking, *said], rankings_as="plackett_luce"))[0]
    batch = collate(groups, 257, torch.device("cpu"))
    assert [(one.places, one.ranks) for one in batch.listings] == [((0, 1, 2), (3, 1, 2))]
    assert (batch.labels.place.tolist(), batch.labels.target.tolist()) == ([3, 4], [1.0, 0.0])
    assert batch.labels.annotator.tolist() == [-1, -1]
    named = grouped([one.model_copy(update={"annotator": name}) for one, name in zip(said, "ab", strict=True)])
    labels = collate(tokenized(named)[0], 257, torch.device("cpu"), annotators={"b": 0, "a": 1}).labels
    assert labels.annotator.tolist() == [1, 0]
    assert len(rows_in_use(groups)) == len(batch.inputs.input_ids) == 5


def test_tokens_by_hand():
    tokenizer = tiny_tokenizer()
    kept, skipped = tokenized(grouped([compare(ASK, "yes", "no", 0), compare(ASK, "yes", "n" * 30, 0)]))
    ask, yes, no = (tokenizer.encode(text) for text in ("Hi", "yes", "no"))
    assert skipped == 1 and kept[0].rows[:2] == [ask + yes + [256], ask + no + [256]]
    batch = collate(kept, pad_id=257, device=torch.device("cpu"))
    assert batch.inputs.input_ids.tolist() == [ask + yes + [256], ask + no + [256, 257]]
    assert batch.inputs.attention_mask.sum(1).tolist() == [6, 5]
    assert (batch.pairs.chosen.tolist(), batch.pairs.rejected.tolist()) == ([0], [1])
    kept, _ = tokenized(grouped([compare((), "yes", "no", 0)]), append_eos=False)
    assert kept[0].rows == [yes, no]


def test_each_response_is_read_once():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "b", "c", "d"), ranks=(1, 2, 3, 4))
    kept, _ = tokenized(grouped([ranking]))
    batch = collate(kept, pad_id=257, device=torch.device("cpu"))
    assert len(batch.inputs.input_ids) == 4 and len(batch.pairs.chosen) == 6


def test_branches_by_hand():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "bc", ""), ranks=(1, 2, 3))
    tokenizer = tiny_tokenizer()  # of bytes
    kept, _ = tokenized(grouped([compare(OTHER, "yes", "no", 0), ranking]), append_eos=False)
    assert [own.tokens() for own in kept] == [8, 5]
    batch = collate(kept, pad_id=257, device=torch.device("cpu"), branches=True)
    read = batch.inputs
    texts = [tokenizer.decode(ids[segments >= 0]) for ids, segments in zip(read.input_ids, read.segments, strict=True)]
    assert texts == ["Byeyesno", "Hiabc"]
    assert read.segments.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 2, 2, -1, -1, -1]]
    assert read.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4], [0, 1, 2, 2, 3, 0, 0, 0]]
    assert (read.rows.tolist(), read.ends.tolist()) == ([0, 0, 1, 1, 1], [5, 7, 2, 4, 1])
    assert (batch.pairs.chosen.tolist(), batch.pairs.rejected.tolist()) == ([0, 2, 2, 3], [1, 3, 4, 4])


def test_rows_branch_only_where_it_changes_no_score(monkeypatch):
    model, cpu = reward_model_from(tiny_model("llama"), seed=0), torch.device("cpu")
    prompted, plain = (
        tokenized(grouped([judged]))[0] for judged in (compare(ASK, "yes", "no", 0), compare((), "yes", "no", 0))
    )
    assert may_branch(model, prompted, 257, cpu)
    assert not may_branch(model, prompted + plain, 257, cpu)
    long = Ranking(id="r", prompt=ASK, responses=("a" * 20, "b" * 20, "c" * 20, "d" * 20), ranks=(1, 2, 3, 4))
    longer = tokenized(grouped([long]), max_length=40)[0]
    assert longer and not may_branch(model, longer, 257, cpu)  # 86 squared, for four times 23 squared
    # A model that does not heed the mask, as those that make their own do.
    monkeypatch.setattr(preference_pairs, "scores_of_branches", lambda model, branches: torch.ones(len(branches.rows)))
    assert not may_branch(model, prompted, 257, cpu)


def test_each_head_learns_from_a_bootstrap_of_its_own():
    drawn = bootstrap(200, 3, seed=7)
    assert drawn.shape == (200, 3) and drawn.sum(0).tolist() == [200.0] * 3
    assert torch.equal(drawn, bootstrap(200, 3, seed=7)) and not torch.equal(drawn[:, 0], drawn[:, 1])
    assert 0.25 < float((drawn == 0).float().mean()) < 0.5  # e^-1 of the prompts are not in it
    assert bootstrap(200, 1, seed=7) is None
    said = [compare(ASK, "a", "b", 0), compare(OTHER, "a", "c", 1), compare(ASK, "c", "a", 1)]
    kept, _ = tokenized(grouped(said))
    batch = collate(kept, 257, torch.device("cpu"), drawn=torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    assert batch.drawn.tolist() == [[1.0, 2.0]] * 3 + [[0.0, 3.0]] * 2  # for each response
