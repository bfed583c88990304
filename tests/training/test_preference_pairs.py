import torch

from loopwright.models.heads import reward_model_from
from loopwright.schemas import Comparison, Message, Ranking
from loopwright.training import preference_pairs
from loopwright.training.preference_pairs import collate, group_by_prompt, may_branch, tokenize_groups
from tests.tiny import tiny_model, tiny_tokenizer

ASK = (Message(role="user", content="Hi"),)
OTHER = (Message(role="user", content="Bye"),)


def compare(prompt, a, b, choice):
    return Comparison(id=f"{a}{b}", prompt=prompt, responses=(a, b), choice=choice)


def test_grouping_by_hand():
    groups, ties = group_by_prompt(
        [
            compare(ASK, "a", "b", 0),
            compare(OTHER, "a", "c", 1),
            compare(ASK, "c", "a", 1),
            compare(ASK, "b", "c", None),
        ]
    )
    assert ties == 1
    assert [(g.responses, [tuple(p) for p in g.pairs]) for g in groups] == [
        (["a", "b", "c"], [(0, 1, 0), (2, 0, 1)]),
        (["a", "c"], [(0, 1, 1)]),
    ]


def test_a_ranking_is_all_the_pairs_it_orders():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "b", "c"), ranks=(2, 1, 2))
    by_criterion = Ranking(id="s", prompt=ASK, responses=("a", "b"), ranks=(1, 2), criterion="short")
    groups, ties = group_by_prompt([ranking, by_criterion])
    assert ties == 1 and len(groups) == 1
    assert sorted(map(tuple, groups[0].pairs)) == [(0, 1, 1), (1, 2, 0)]


def test_a_swapped_comparison_is_the_same_pair():
    one, _ = group_by_prompt([compare(ASK, "a", "b", 0)])
    two, _ = group_by_prompt([compare(ASK, "a", "b", 0).swap()])

    def better(group):
        pair = group.pairs[0]
        return group.responses[pair.first if pair.choice == 0 else pair.second]

    assert better(one[0]) == better(two[0]) == "a"


def test_texts_without_a_prompt_stay_with_those_they_were_compared_to():
    groups, _ = group_by_prompt([compare((), "a", "b", 0), compare((), "x", "y", 0), compare((), "c", "b", 1)])
    assert [sorted(group.responses) for group in groups] == [["a", "b", "c"], ["x", "y"]]


def test_identical_responses_make_no_pair():
    assert group_by_prompt([compare(ASK, "a", "a", 0)]) == ([], 0)


def test_tokens_by_hand():
    tokenizer = tiny_tokenizer()
    groups, _ = group_by_prompt([compare(ASK, "yes", "no", 0), compare(ASK, "yes", "n" * 30, 0)])
    kept, skipped = tokenize_groups(groups, tokenizer, append_eos=True, max_length=10)
    ask, yes, no = (tokenizer.encode(text) for text in ("Hi", "yes", "no"))
    assert skipped == 1 and kept[0].rows[:2] == [ask + yes + [256], ask + no + [256]]
    batch = collate(kept, pad_id=257, device=torch.device("cpu"))
    assert batch.inputs.input_ids.tolist() == [ask + yes + [256], ask + no + [256, 257]]
    assert batch.inputs.attention_mask.sum(1).tolist() == [6, 5]
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0], [1])
    kept, _ = tokenize_groups(
        group_by_prompt([compare((), "yes", "no", 0)])[0], tokenizer, append_eos=False, max_length=10
    )
    assert kept[0].rows == [yes, no]


def test_each_response_is_read_once():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "b", "c", "d"), ranks=(1, 2, 3, 4))
    kept, _ = tokenize_groups(group_by_prompt([ranking])[0], tiny_tokenizer(), append_eos=True, max_length=10)
    batch = collate(kept, pad_id=257, device=torch.device("cpu"))
    assert len(batch.inputs.input_ids) == 4 and len(batch.chosen) == 6


def test_branches_by_hand():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "bc", ""), ranks=(1, 2, 3))
    groups, _ = group_by_prompt([compare(OTHER, "yes", "no", 0), ranking])
    tokenizer = tiny_tokenizer()  # of bytes
    kept, _ = tokenize_groups(groups, tokenizer, append_eos=False, max_length=10)
    assert [group.tokens() for group in kept] == [8, 5]
    batch = collate(kept, pad_id=257, device=torch.device("cpu"), branches=True)
    read = batch.inputs
    texts = [tokenizer.decode(ids[segments >= 0]) for ids, segments in zip(read.input_ids, read.segments, strict=True)]
    assert texts == ["Byeyesno", "Hiabc"]
    assert read.segments.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 2, 2, -1, -1, -1]]
    assert read.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4], [0, 1, 2, 2, 3, 0, 0, 0]]
    assert (read.rows.tolist(), read.ends.tolist()) == ([0, 0, 1, 1, 1], [5, 7, 2, 4, 1])
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0, 2, 2, 3], [1, 3, 4, 4])


def test_rows_branch_only_where_it_changes_no_score(monkeypatch):
    model, cpu = reward_model_from(tiny_model("llama"), seed=0), torch.device("cpu")
    prompted, plain = (
        tokenize_groups(group_by_prompt([judged])[0], tiny_tokenizer(), append_eos=True, max_length=10)[0]
        for judged in (compare(ASK, "yes", "no", 0), compare((), "yes", "no", 0))
    )
    assert may_branch(model, prompted, 257, cpu)
    assert not may_branch(model, prompted + plain, 257, cpu)
    long = Ranking(id="r", prompt=ASK, responses=("a" * 20, "b" * 20, "c" * 20, "d" * 20), ranks=(1, 2, 3, 4))
    longer = tokenize_groups(group_by_prompt([long])[0], tiny_tokenizer(), append_eos=True, max_length=40)[0]
    assert longer and not may_branch(model, longer, 257, cpu)  # 86 squared, for four times 23 squared
    # A model that does not heed the mask, as those that make their own do.
    monkeypatch.setattr(preference_pairs, "scores_of_branches", lambda model, branches: torch.ones(len(branches.rows)))
    assert not may_branch(model, prompted, 257, cpu)
