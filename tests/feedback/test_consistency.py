"""What is wrong with judgements: each fault is found where it is and nowhere else, however records are stored."""

import json
import random

import pytest

from loopwright.errors import DataError
from loopwright.feedback.consistency import consistency_report, label_classes
from loopwright.feedback.habits import length_bias, position_bias
from loopwright.feedback.intervals import effective_number
from loopwright.feedback.leaks import leaks, require_no_leak
from loopwright.feedback.preference_graph import contradictions, cycles, duplicates, strongly_connected
from loopwright.feedback.statistics.pulls import comparisons_needed
from loopwright.feedback.verdicts import verdicts
from loopwright.schemas import Comparison, Thumb
from tests.feedback.judged import ask, prefer, rank, tie


def test_pairs_judged_both_ways_are_found_with_their_ids():
    said = [
        prefer("1", "x", "y", by="ann"), prefer("2", "y", "x", by="bob"), prefer("3", "x", "y", by="cy"),
        prefer("4", "x", "z", by="ann"), prefer("5", "z", "x", by="ann"),
        prefer("6", "x", "y", prompt="other"), tie("7", "y", "x", prompt="other"),
    ]  # fmt: skip
    people, one = contradictions(verdicts(said))
    assert (people.for_a, people.for_b, people.same_annotator) == (("1", "3"), ("2",), False)
    assert (one.for_a, one.for_b, one.same_annotator) == (("4",), ("5",), True)


def test_two_judgements_of_nobody_known_are_not_one_persons():
    (found,) = contradictions(verdicts([prefer("1", "x", "y", by=None), prefer("2", "y", "x", by=None)]))
    assert not found.same_annotator


def test_a_circle_is_found_with_the_judgements_that_make_it():
    circle = [prefer("1", "x", "y"), prefer("2", "y", "z"), prefer("3", "z", "x"), prefer("4", "z", "bad")]
    (found,) = cycles(verdicts(circle))
    assert (set(found.answers), set(found.ids), found.size) == ({"x", "y", "z"}, {"1", "2", "3"}, 3)
    assert found.same_annotator
    order = "".join(found.answers)
    assert order in ("xyzxyz") and len(order) == 3
    assert not cycles(verdicts(circle[:2] + [prefer("3", "x", "z")]))
    assert not cycles(verdicts([*circle[:2], prefer("3", "z", "x", prompt="other")]))


def test_a_circle_is_of_the_majority():
    circle = [prefer("1", "x", "y"), prefer("2", "y", "z"), prefer("3", "z", "x")]
    assert not cycles(verdicts([*circle, prefer("4", "x", "z", by="bob")]))  # one against one: no arrow
    outvoted = [*circle, *(prefer(str(i), "x", "z", by=f"b{i}") for i in range(4, 6))]
    assert not cycles(verdicts(outvoted))
    assert not cycles(verdicts([prefer("1", "x", "y"), prefer("2", "y", "x")]))


def test_components_equal_mutual_reachability():
    for seed in range(30):
        rng = random.Random(seed)
        nodes = range(9)
        edges = {node: [other for other in nodes if rng.random() < 0.18] for node in nodes}
        reach = {node: _reachable(node, edges) for node in nodes}
        expected = {frozenset(b for b in nodes if b == a or (b in reach[a] and a in reach[b])) for a in nodes}
        assert {frozenset(component) for component in strongly_connected(edges)} == expected


def test_a_chain_of_any_length_needs_no_recursion():
    edges = {i: [i + 1] for i in range(50_000)} | {50_000: [0]}
    (component,) = strongly_connected(edges)
    assert len(component) == 50_001


def _reachable(start, edges):
    found, waiting = set(), [start]
    while waiting:
        new = [other for other in edges.get(waiting.pop(), ()) if other not in found]
        found.update(new)
        waiting += new
    return found


def test_duplicates_are_one_persons_same_words_again():
    said = [prefer("1", "x", "y"), prefer("2", "x", "y").swap(), prefer("3", "x", "y", by="bob")]
    assert duplicates(verdicts(said)) == [("1", "2")]
    assert duplicates(verdicts([rank("1", "x", "y", "z"), rank("2", "x", "y", "z")])) == [("1", "2")]
    assert not duplicates(verdicts([prefer("1", "x", "y"), prefer("2", "y", "x")]))


def test_the_same_pair_on_both_sides_is_a_leak_however_it_is_written():
    train = [prefer("t1", "Yes, until six.", "No.", prompt="Is it open?"), prefer("t2", "a", "b", prompt="Else?")]
    held_out = [
        prefer("h1", "no.", "yes,  until six. ", prompt=" is it  OPEN?"),  # swapped, in other space and case
        prefer("h2", "Yes, until six.", "Never.", prompt="Is it open?"),  # the prompt alone
        prefer("h3", "Yes, until six.", "No.", prompt="Is it shut?"),
    ]
    found = leaks(train, held_out)
    assert found.pairs == [("t1", "h1")]
    assert found.prompts == [("t1", "h1"), ("t1", "h2")]
    with pytest.raises(DataError, match=r"1 held-out judgements .*\(h1 is t1 .* take them out of one side"):
        require_no_leak(train, held_out)
    require_no_leak(train, held_out[1:])
    # "B" sorts before "a", and "b" after it
    assert leaks([prefer("t", "B", "a")], [prefer("h", "b", "a")]).pairs == [("t", "h")]


def test_a_ranking_leaks_through_any_of_its_pairs_and_plain_texts_share_no_prompt():
    assert leaks([rank("t", "x", "y", "z")], [prefer("h", "z", "y")]).pairs == [("t", "h")]
    plain = leaks([prefer("t", "x", "y", prompt="")], [prefer("h", "x", "z", prompt="")])
    assert plain == ([], [])


def test_only_ties_are_refused():
    with pytest.raises(DataError, match="all 2 judged pairs are ties, so there is nothing to learn"):
        consistency_report([tie("1", "x", "y"), tie("2", "x", "z")])
    report = consistency_report([tie("1", "x", "y"), prefer("2", "x", "z")])
    assert (report["ties"], report["pairs"]) == (1, 2)


def test_a_single_class_is_said():
    thumbs = [Thumb(id=str(i), prompt=ask("Q"), responses=(str(i),), good=True) for i in range(3)]
    report = consistency_report(thumbs)
    assert report["thumbs"] == {"counts": {"true": 3}, "single_class": True}
    assert "All 3 thumbs" in report["sentences"][0]
    assert label_classes([0, 1, 1]) == {"counts": {"0": 1, "1": 2}, "single_class": False}
    assert label_classes([]) is None


def test_how_many_comparisons_show_a_pull():
    # (1.95996 * 0.5 + 0.84162 * sqrt(0.55 * 0.45))^2 / 0.05^2 = 782.5
    assert comparisons_needed(0.55) == 783
    assert comparisons_needed(0.45) == 783
    assert comparisons_needed(0.60) == 194
    with pytest.raises(ValueError, match="0.5"):
        comparisons_needed(0.5)


def test_position_and_length_by_hand():
    def shown(id, choice, order):
        return Comparison(id=id, prompt=ask("Q"), responses=("one", "one two"), choice=choice, order_shown=order)

    said = [shown("1", 0, (0, 1)), shown("2", 1, (0, 1)), shown("3", 1, (1, 0)), shown("4", None, (0, 1))]
    position = position_bias([*said, prefer("5", "x", "y")])  # which was shown first is not known of the last
    assert position["mean"] == pytest.approx(2 / 3) and position["comparisons"] == 3
    assert (position["needed"], position["enough"]) == (783, False)
    length = length_bias([*said, prefer("5", "x", "y")])
    assert length["mean"] == pytest.approx(2 / 3) and length["comparisons"] == 3
    assert position_bias([tie("1", "x", "y")]) is None
    swapped = [one.swap() for one in said]
    assert (position_bias(swapped), length_bias(swapped)) == (position_bias(said), length_bias(said))


def test_a_pull_is_said_and_so_is_that_there_is_too_little_to_see_one():
    def comparisons(first, count, prompts):
        pairs = [Comparison(id=str(i), prompt=ask(f"Q{i % prompts}"), responses=(f"x{i}", f"y{i}"),
                            choice=int(i >= first), order_shown=(0, 1)) for i in range(count)]  # fmt: skip
        return consistency_report(pairs)["sentences"][-1]

    assert "pulls" in comparisons(60, 80, prompts=80)
    assert "783 comparisons are needed" in comparisons(41, 80, prompts=80)
    assert "pulls" not in comparisons(60, 80, prompts=1)  # what is said of one prompt hangs together


def test_effective_number_by_hand():
    assert effective_number([[1.0], [0.0], [1.0], [0.0]]) == pytest.approx(4.0)
    assert effective_number([[1.0, 1.0], [0.0, 0.0]] * 8) < 17  # twice the same says it once
    assert effective_number([[1.0, 1.0], [1.0]]) == 2.0


def test_the_report_is_json_names_examples_and_ignores_order():
    said = [
        prefer("1", "x", "y", by="ann"), prefer("2", "y", "x", by="bob"), prefer("2", "p", "p"),
        prefer("3", "a", "b"), prefer("4", "b", "c"), prefer("5", "c", "a"), prefer("6", "a", "b"),
    ]  # fmt: skip
    report = consistency_report(said, [prefer("h", "B", "A")])
    json.dumps(report)
    counted = ("identical_answers", "repeated_ids", "duplicates", "contradictions", "cycles")
    assert {name: report[name]["count"] for name in counted} == dict.fromkeys(counted, 1)
    text = " ".join(report["sentences"])
    for part in ("1 held-out judgement has a pair", "(1 and 2)", "preferred in a circle", "1 id stands", "with itself"):
        assert part in text, part
    turned = [one.swap() for one in reversed(said)]
    assert consistency_report(turned, [prefer("h", "B", "A")])["sentences"] == report["sentences"]


def test_clean_judgements_have_nothing_said_of_them():
    assert consistency_report([prefer("1", "x", "y"), prefer("2", "y", "z")])["sentences"] == []
