"""An independent judge of text: TF-IDF and logistic regression, trained on labelled passages.

It shares no weights, data or features with the reward model, so what a policy learned to please the one
need not please the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loopwright.data.labelled import Labelled
from loopwright.schemas import Prompt

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

WORD = r"(?u)[\w']+|[!?]"


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
