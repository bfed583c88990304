"""Which documents say the same as another one: MinHash finds candidates, exact Jaccard decides.

Broder 1997 (shingles and min-wise hashing); Lee et al. 2022, arXiv:2107.06499 (why language models want it).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from datasketch import MinHash, MinHashLSH

SHINGLE_WORDS = 5
PERMUTATIONS = 64
RECALL = 0.98  # of the pairs right at the threshold, how many become candidates; more similar ones fare better
# Words; a character each in scripts that write no spaces between them.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_EDGE = 0  # stands before the first and after the last word


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation: what near-duplicates are compared by."""
    return _WORD.findall(text.lower())


def near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Index of each near-duplicate -> index of the document that stays in its place.

    Similarity is the Jaccard index of 5-word shingles. A document is a near-duplicate of one that stays when

    - it only adds something (the other's words are among its own), and their similarity reaches the
      threshold: a repost with a byline, a whole text beside a cut one; or
    - words were replaced, and the similarity reaches the threshold although every word counts in five
      shingles, those at the edges too. One word replaced in n makes (n - 1) / (n + 9): at 0.9, documents of
      up to 90 words that differ in one value ("closes at six", "closes at seven") all stay.

    Shorter documents stay first (what a copy adds is seldom worth keeping, and is under a tenth), ties by
    content hash: the result does not depend on the order of `texts`, and a chain of small differences never
    collapses to one document.
    """
    words = [words_of(text) for text in texts]
    hashed = _hash_words(words)
    signatures = MinHash.bulk(
        (_shingles(row).tolist() for row in hashed), num_perm=PERMUTATIONS, seed=1, hashfunc=_fold, scheme="affine32"
    )
    index = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(threshold))
    replaced_by: dict[int, int] = {}
    for i in _shortest_first(texts, words):
        candidates = sorted(index.query(signatures[i]))
        twin = next((j for j in candidates if _same(hashed[i], hashed[j], threshold)), None)
        if twin is None:
            index.insert(i, signatures[i], check_duplication=False)
        else:
            replaced_by[i] = twin
    return replaced_by


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): the most rows, hence the fewest false candidates, that keep the recall.

    Two documents are candidates when all the rows of one band agree, each with probability J: 1 - (1 - J^r)^b.
    """
    for rows in range(PERMUTATIONS // 2, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def _same(longer: np.ndarray, shorter: np.ndarray, threshold: float) -> bool:
    only_adds = not Counter(shorter.tolist()) - Counter(longer.tolist())
    if only_adds and _jaccard(_shingles(longer), _shingles(shorter)) >= threshold:
        return True
    return _jaccard(_shingles(_edged(longer)), _shingles(_edged(shorter))) >= threshold


def _shortest_first(texts: Sequence[str], words: Sequence[list[str]]) -> list[int]:
    return sorted(range(len(texts)), key=lambda i: (len(words[i]), blake2b(texts[i].encode(errors="replace")).digest()))


def _hash_words(documents: Sequence[list[str]]) -> list[np.ndarray]:
    """Each document as [words] uint64, equal words equal; 0 is kept for the edge."""
    known: dict[str, int] = {}
    for word in (word for words in documents for word in words):
        if word not in known:
            known[word] = int.from_bytes(blake2b(word.encode(errors="replace"), digest_size=8).digest(), "big") | 1
    return [np.array([known[word] for word in words], dtype=np.uint64) for words in documents]


def _shingles(words: np.ndarray) -> np.ndarray:
    """[words] -> distinct hashes of the runs of five words; a shorter text is one run."""
    size = min(SHINGLE_WORDS, max(len(words), 1))
    count = max(len(words) - size + 1, 0)
    runs = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        runs = (runs ^ words[offset : offset + count]) * np.uint64(0x9E3779B97F4A7C15)
        runs ^= runs >> np.uint64(29)
    return np.unique(runs)


def _edged(words: np.ndarray) -> np.ndarray:
    return np.pad(words, SHINGLE_WORDS - 1, constant_values=_EDGE)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - common
    return common / union if union else 1.0


def _fold(shingle: int) -> int:
    return shingle >> 32
