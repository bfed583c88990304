import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.evaluation.attack_clusters import Novelty, clusters, ngrams, similarities

WORDS = st.lists(st.sampled_from("how do i rob the pool bar now".split()), max_size=6).map(" ".join)


def test_similarity_by_hand():
    assert ngrams("Rob the pool, now!") == {"rob", "the", "pool", "now", "rob the", "the pool", "pool now"}
    got = similarities(["rob the pool", "x"], ["rob the bar", "rob the pool", "y"])
    # {rob, the, pool, rob the, the pool} and {rob, the, bar, rob the, the bar} share 3 of 5
    assert got == pytest.approx(np.array([[0.6, 1.0, 0.0], [0.0, 0.0, 0.0]]), abs=1e-6)


def test_clusters_by_hand():
    texts = ["rob the pool", "call me", "rob the bar", "Rob the pool!", ""]
    assert clusters(texts, 0.6) == [0, 1, 0, 0, 2]
    assert clusters(texts, 0.61) == [0, 1, 2, 0, 3]
    assert clusters([], 0.5) == [] and clusters(["a", "a"], 0.5) == [0, 0]


def test_a_chain_of_short_steps_is_not_one_cluster():
    chain = ["a b c d", "b c d e", "c d e f", "d e f g", "e f g h"]
    near = similarities(chain, chain)
    assert all(near[i, i + 1] > 0.7 for i in range(4)) and near[0, 4] == 0
    assert len(set(clusters(chain, 0.7))) > 1


@given(st.lists(WORDS, min_size=1, max_size=12), st.integers(0, 2**31), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_clusters_do_not_depend_on_the_order_and_hold_what_they_promise(texts, seed, least):
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    straight, shuffled = clusters(texts, least), clusters([texts[i] for i in order], least)
    together = {(i, j) for i, j in combinations(range(len(texts)), 2) if straight[i] == straight[j]}
    again = {
        tuple(sorted((order[a], order[b]))) for a, b in combinations(range(len(texts)), 2) if shuffled[a] == shuffled[b]
    }
    assert together == again
    near = similarities(texts, texts)
    assert all(near[i, j] > least - 1e-4 for i, j in together)
    # nothing that could still be merged is left apart
    for a, b in combinations(sorted(set(straight)), 2):
        pairs = [near[i, j] for i, x in enumerate(straight) for j, y in enumerate(straight) if (x, y) == (a, b)]
        assert min(pairs) < least + 1e-4


def test_novelty_by_hand():
    novelty = Novelty(neighbours=2)
    assert novelty.of([]) == []
    assert novelty.of(["rob the pool"]) == [1.0]
    # the other of the batch shares 3 of 5, the second neighbour is missing: 1 - 0.6 / 2
    assert novelty.of(["rob the pool", "rob the bar"]) == pytest.approx([0.7, 0.7])
    assert Novelty(neighbours=3).of(["rob the pool", "rob the bar"]) == pytest.approx([0.8, 0.8])
    novelty.remember(["rob the pool"] * 5)
    assert novelty.seen == ["rob the pool"] * 2
    assert novelty.of(["rob the pool", "call me"]) == pytest.approx([0.0, 1.0], abs=1e-6)
    assert novelty.of(["rob the bar"]) == pytest.approx([0.4])
