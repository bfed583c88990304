"""An independent judge of text: TF-IDF and logistic regression, trained on labelled passages.

It shares no weights, data or features with the reward model, so what a policy learned to please the one
need not please the other.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright.errors import DataError
from loopwright.schemas import Prompt

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

LABELS = {"pos": 1, "positive": 1, "1": 1, "true": 1, "neg": 0, "negative": 0, "0": 0, "false": 0}
WORD = r"(?u)[\w']+|[!?]"


@dataclass(frozen=True)
class Labelled:
    """Passages and their labels, 1 for positive."""

    texts: list[str]
    labels: list[int]


class TextClassifier:
    """`TextClassifier.train(read_labelled(path))`, then `probability(texts)` or use as a judge."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @classmethod
    def train(cls, data: Labelled) -> TextClassifier:
        """Fit on words and pairs of words. Deterministic: the solver draws nothing at random."""
        # Imported here: it takes a second, and only runs with such a judge need it.
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        least = 2 if len(data.texts) >= 100 else 1  # a word seen once teaches nothing, unless there is little to see
        words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD, ngram_range=(1, 2), min_df=least)
        pipeline = make_pipeline(words, LogisticRegression(C=3.0, max_iter=1_000, solver="liblinear", random_state=0))
        pipeline.fit(data.texts, data.labels)
        return cls(pipeline)

    def probability(self, texts: Sequence[str]) -> list[float]:
        """How likely each text is positive."""
        return [float(p) for p in self._pipeline.predict_proba(list(texts))[:, 1]] if texts else []

    def accuracy(self, data: Labelled) -> float:
        """The share of passages that it calls by their label."""
        called = [int(p > 0.5) for p in self.probability(data.texts)]
        return sum(a == b for a, b in zip(called, data.labels, strict=True)) / len(data.labels)

    def __call__(self, prompt: Prompt, response: str) -> float:
        """As a judge: 1 when the response, read without its prompt, is called positive, else 0."""
        return float(self.probability([response])[0] > 0.5)


def read_labelled(path: Path) -> Labelled:
    """Labelled passages: JSON lines {"text", "label"} or tab-separated "text<tab>label", .gz of either.

    Labels are pos/neg, positive/negative, 1/0 or true/false.

    Raises:
        DataError: the file is missing or holds one class only, or a line is none of the above.
    """
    texts: list[str] = []
    labels: list[int] = []
    for text, label in _rows(path):
        texts.append(text)
        labels.append(label)
    if len(set(labels)) < 2:
        raise DataError(f"{path}: a judge needs passages of both labels, found {len(texts)} of {len(set(labels))}")
    return Labelled(texts, labels)


def _rows(path: Path) -> Iterator[tuple[str, int]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; name the labelled passages of the judge")
    tabbed = ".tsv" in path.suffixes
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            text, label = _tabbed(line) if tabbed else _json(line)
            if text is None or str(label).lower() not in LABELS:
                shape = "text<tab>label" if tabbed else '{"text": …, "label": …}'
                raise DataError(f"{path}:{number}: not {shape} with a label among {', '.join(LABELS)}")
            yield text, LABELS[str(label).lower()]


def _tabbed(line: str) -> tuple[str | None, object]:
    text, tab, label = line.rstrip("\r\n").rpartition("\t")
    return (text if tab else None), label


def _json(line: str) -> tuple[str | None, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None, None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return None, None
    return row["text"], row.get("label")
