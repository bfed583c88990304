import collections
import gzip

import pytest

from loopwright.data.labelled import Labelled, comparisons_of, distinct, read_labelled
from loopwright.data.readers import Quarantine
from loopwright.errors import DataError


def test_tab_separated_labels(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("one long string\t0\nlovely\twith a tab\t1\n")
    got = read_labelled(path)
    assert got.texts == ["one long string", "lovely\twith a tab"] and got.labels == [0, 1]


@pytest.mark.parametrize("line", ['{"text": "x", "label": "maybe"}', '{"label": "pos"}', "{", "[]"])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"text": "x", "label": "pos"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"reviews\.jsonl:2: not .* with a label among"):
        read_labelled(path)


def test_one_class_cannot_be_told_apart(tmp_path):
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"text": "x", "label": "pos"}\n')
    with pytest.raises(DataError, match="both labels"):
        read_labelled(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "none.jsonl")


def test_bad_lines_are_set_aside_with_their_place(tmp_path):
    path = tmp_path / "train.tsv.gz"
    with gzip.open(path, "wt") as file:
        file.write("good\t1\nno label\nbad\t0\n\nwrong\t7\n")
    quarantine = Quarantine(tmp_path / "bad.jsonl", max_bad_share=0.5)
    assert read_labelled(path, quarantine) == Labelled(["good", "bad"], [1, 0])
    assert [row.where for row in quarantine.bad] == [f"{path}:2", f"{path}:5"]
    assert "wrong" in (tmp_path / "bad.jsonl").read_text()
    with pytest.raises(DataError, match=r"train\.tsv\.gz:2: .*2 of 4 rows are bad"):
        read_labelled(path, Quarantine(max_bad_share=0.25))


def test_distinct_by_hand():
    data = Labelled(["a", "b", "a", "c", "b", "d", "e", " "], [1, 0, 1, 1, 1, 0, 0, 1])
    assert distinct(data, without={"e"}) == Labelled(["a", "c", "d"], [1, 1, 0])  # b has both labels
    with pytest.raises(DataError, match="both labels"):
        distinct(data, without={"d", "e"})


@pytest.mark.parametrize(("good", "bad", "each"), [(6, 6, 2), (6, 6, 3), (7, 5, 2), (9, 2, 1), (1, 4, 2)])
def test_every_sentence_meets_so_many_of_the_other_label(good, bad, each):
    labels = {f"good {i}": 1 for i in range(good)} | {f"bad {i}": 0 for i in range(bad)}
    found = comparisons_of(Labelled(list(labels), list(labels.values())), each, seed=3)
    for comparison in found:
        assert not comparison.prompt
        assert [labels[text] for text in comparison.responses] == [1 - comparison.choice, comparison.choice]
    pairs = {frozenset(comparison.responses) for comparison in found}
    met = collections.Counter(text for pair in pairs for text in pair)
    assert len(pairs) == len(found) and set(met) == set(labels)
    assert min(met.values()) >= min(each, good, bad)
    if good == bad:
        assert set(met.values()) == {each}


def test_pairs_follow_from_the_seed():
    data = Labelled([str(i) for i in range(40)], [i % 2 for i in range(40)])
    assert comparisons_of(data, 2, seed=1) == comparisons_of(data, 2, seed=1) != comparisons_of(data, 2, seed=2)
    assert {comparison.choice for comparison in comparisons_of(data, 2, seed=1)} == {0, 1}
