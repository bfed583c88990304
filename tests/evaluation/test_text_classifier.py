import gzip
import json

import pytest

from loopwright.data.labelled import read_labelled
from loopwright.evaluation.text_classifier import TextClassifier
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
