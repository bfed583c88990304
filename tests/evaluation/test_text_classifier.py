import gzip
import json

import pytest

from loopwright.errors import DataError
from loopwright.evaluation.text_classifier import TextClassifier, read_labelled
from loopwright.schemas import Prompt

GOOD, BAD = ("a lovely film", "lovely and warm", "warm, funny film"), ("a dull film", "dull and cold", "cold, sad film")


@pytest.fixture
def labelled(tmp_path):
    rows = [{"text": t, "label": "pos"} for t in GOOD] + [{"text": t, "label": "neg"} for t in BAD]
    path = tmp_path / "reviews.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_it_learns_and_judges(labelled):
    classifier = TextClassifier.train(read_labelled(labelled))
    assert classifier.accuracy(read_labelled(labelled)) == 1.0
    prompt = Prompt.user("p", "dull dull dull")  # the prompt is not judged
    assert classifier(prompt, "so warm and lovely") == 1.0
    assert classifier(prompt, "so cold and dull") == 0.0
    assert classifier.probability([]) == []


def test_training_twice_gives_the_same_judge(labelled):
    texts = ["warm and dull", "a film"]
    a, b = (TextClassifier.train(read_labelled(labelled)).probability(texts) for _ in range(2))
    assert a == b


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
