"""Which attacks are alike: similarity of wordings, clusters of them, and how new one is beside earlier ones.

Texts are compared by their words and pairs of neighbouring words, as sets: the cosine of two is |A and B| /
sqrt(|A| |B|). It needs no model, and nothing that a model wrote can upset it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering

Matrix = NDArray[np.float32]


def ngrams(text: str) -> frozenset[str]:
    """Words and pairs of neighbouring words, in lower case; of a text without words, the text itself."""
    words = re.findall(r"[\w{}]+", text.lower())
    pairs = {f"{first} {second}" for first, second in zip(words, words[1:], strict=False)}
    return frozenset({*words, *pairs} or {text.strip()})


def similarities(texts: Sequence[str], others: Sequence[str]) -> Matrix:
    """[N, M] cosine of each text with each of the others, in [0, 1]."""
    sets = [ngrams(text) for text in (*texts, *others)]
    columns = {gram: i for i, gram in enumerate(sorted(set().union(*sets)))}
    found = np.zeros((len(sets), len(columns)), dtype=np.float32)
    for row, grams in enumerate(sets):
        found[row, [columns[gram] for gram in grams]] = len(grams) ** -0.5
    return found[: len(texts)] @ found[len(texts) :].T


def clusters(texts: Sequence[str], least_similarity: float) -> list[int]:
    """The number of each text's cluster, counted from 0 in the order of the texts.

    Complete linkage (Sorensen 1948): any two texts of a cluster have at least this similarity. Single linkage would
    make one cluster of all: a chain of short steps leads from any wording to any other. Texts are put in alphabetical
    order first, so that ties fall the same way whatever order they come in.
    """
    different = sorted(set(texts))
    if len(different) < 2:
        return [0] * len(texts)
    distances = np.clip(1.0 - similarities(different, different).astype(np.float64), 0.0, None).round(6)
    threshold = 1.0 - least_similarity + 1e-5  # what is just as similar as asked belongs together
    grouped = AgglomerativeClustering(None, metric="precomputed", linkage="complete", distance_threshold=threshold)
    label_of = dict(zip(different, grouped.fit(distances).labels_.tolist(), strict=True))
    first_seen = {label: i for i, label in enumerate(dict.fromkeys(label_of[text] for text in texts))}
    return [first_seen[label_of[text]] for text in texts]


class Novelty:
    """How unlike an attack is to those before it: the diversity part of an attacker's reward.

    Sparseness as in novelty search (Lehman and Stanley 2011): the mean distance, 1 - similarity, to the k nearest.
    """

    def __init__(self, neighbours: int) -> None:
        self.neighbours = neighbours
        self.seen: list[str] = []

    def of(self, attacks: Sequence[str]) -> list[float]:
        """In [0, 1], beside all earlier attacks and the others of this batch; where there are too few, they count
        as unlike."""
        if not attacks:
            return []
        near = similarities(attacks, [*attacks, *self.seen])
        near[np.arange(len(attacks)), np.arange(len(attacks))] = 0.0
        nearest = -np.sort(-near, axis=1)[:, : self.neighbours]
        return np.clip(1.0 - nearest.sum(1) / self.neighbours, 0.0, 1.0).tolist()

    def remember(self, attacks: Sequence[str]) -> None:
        """Take them into account from now on; of one wording no more than can be among the nearest."""
        for text in attacks:
            if self.seen.count(text) < self.neighbours:
                self.seen.append(text)
