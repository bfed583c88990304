"""Who is right how often: Dawid and Skene's model against a slow one written out, gold items, and what is not known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.feedback.intervals import wilson_interval
from loopwright.feedback.statistics.reliability import SMOOTHING, dawid_skene, gold_accuracy
from loopwright.feedback.statistics.votes import Votes
from tests.feedback.statistics.tables import of_units, random_table, votes_of

GOLDEN = Path(__file__).parents[2] / "golden" / "crowd_kit.json"
ACCURACIES = (0.95, 0.9, 0.75, 0.55, 0.15)


def simulated(seed, *, items=300, kinds=2, missing=0.2):
    """Votes of people right as often as ACCURACIES, else uniformly wrong; and the truth by item."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, kinds, items)
    rows = [
        (i, a, int(truth[i] if rng.random() < right else (truth[i] + rng.integers(1, kinds)) % kinds))
        for i in range(items)
        for a, right in enumerate(ACCURACIES)
        if rng.random() >= missing
    ]
    return Votes.of(rows), truth


def written_out(votes, iterations, smoothing=SMOOTHING):
    """The same EM, one vote at a time and with plain probabilities."""
    kinds, people = range(len(votes.values)), range(len(votes.annotators))
    said = [[] for _ in votes.items]
    for item, annotator, value in zip(votes.item, votes.annotator, votes.value, strict=True):
        said[item].append((annotator, value))
    twice = [of_item for of_item in said if len(of_item) > 1]
    belief = [[sum(v == k for _, v in of_item) / len(of_item) for k in kinds] for of_item in twice]

    def fit():
        prior = [smoothing + sum(row[k] for row in belief) for k in kinds]
        confusion = [[[smoothing for _ in kinds] for _ in kinds] for _ in people]
        for row, of_item in zip(belief, twice, strict=True):
            for a, v in of_item:
                for k in kinds:
                    confusion[a][k][v] += row[k]
        prior = [one / sum(prior) for one in prior]
        return prior, [[[one / sum(row) for one in row] for row in matrix] for matrix in confusion]

    def believe(of_item, prior, confusion):
        joint = [prior[k] * math.prod(confusion[a][k][v] for a, v in of_item) for k in kinds]
        return [one / sum(joint) for one in joint]

    prior, confusion = fit()
    for _ in range(iterations):
        belief = [believe(of_item, prior, confusion) for of_item in twice]
        prior, confusion = fit()
    return prior, confusion, [believe(of_item, prior, confusion) for of_item in said]


@pytest.mark.parametrize(("kinds", "missing"), [(2, 0.0), (3, 0.3), (4, 0.6)])
def test_em_equals_the_one_written_out(kinds, missing):
    votes, _ = simulated(kinds, items=60, kinds=kinds, missing=missing)
    found = dawid_skene(votes, max_iterations=7, tolerance=1e-12)
    assert not found.converged and found.iterations == 7
    prior, confusion, posterior = written_out(votes, 7)
    np.testing.assert_allclose(found.prior, prior, rtol=1e-9)
    np.testing.assert_allclose(found.confusion, confusion, rtol=1e-9)
    np.testing.assert_allclose(found.posterior, posterior, rtol=1e-9, atol=1e-12)


def test_em_equals_crowd_kit():
    """benchmarks/golden_crowd_kit.py recorded it: the same model without smoothing, after as many iterations."""
    golden = json.loads(GOLDEN.read_text())
    votes = Votes.of([tuple(vote) for vote in golden["votes"]])
    found = dawid_skene(votes, smoothing=1e-12, max_iterations=golden["iterations"], tolerance=1e-300)
    assert votes.annotators == [0, 1, 2, 3] and votes.values == [0, 1, 2] and len(golden["votes"]) < 40 * 4
    np.testing.assert_allclose(found.prior, golden["prior"], atol=1e-8)
    np.testing.assert_allclose(found.confusion, golden["confusion"], atol=1e-8)


def test_it_finds_who_errs_and_beats_the_majority():
    found_right = majority_right = held = 0
    for seed in range(10):
        votes, truth = simulated(seed)
        truth = truth[np.array(votes.items)]
        found = dawid_skene(votes)
        assert found.converged
        shares = np.zeros_like(found.posterior)
        np.add.at(shares, (votes.item, votes.value), 1)
        kinds = np.array(votes.values)
        found_right += np.mean(kinds[found.posterior.argmax(axis=1)] == truth)
        majority_right += np.mean(kinds[shares.argmax(axis=1)] == truth)
        by_name = dict(zip(votes.annotators, found.accuracy, strict=True))
        held += sum(by_name[a].low <= right <= by_name[a].high for a, right in enumerate(ACCURACIES))
    assert found_right / 10 > 0.93 and majority_right / 10 < 0.85
    assert held >= 43  # of 50 intervals of 95 %; the others' errors are taken as known, so a little fewer


def test_with_perfect_people_everything_is_known():
    votes = of_units([(1, 1, 1), (2, 2, 2)] * 20)
    found = dawid_skene(votes)
    assert found.posterior.max(axis=1).min() > 0.99
    for accuracy in found.accuracy:
        assert accuracy.value > 0.99 and accuracy.labels == 40
        assert accuracy.low == pytest.approx(wilson_interval(1.0, 40).low, abs=0.02)


def test_many_votes_do_not_underflow():
    votes = Votes.of((item, person, item % 2) for item in range(4) for person in range(6000))
    found = dawid_skene(votes)
    assert np.isfinite(found.posterior).all() and found.posterior.max(axis=1).min() > 0.999


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_order_and_names_do_not_matter(seed):
    table = random_table(seed, items=20, missing=0.2)
    order = np.random.default_rng(seed).permutation(len(table))
    keys = list(table)
    names = {1: 30, 2: 10, 3: 20}
    votes, other = votes_of(table), votes_of({(-i, p): names[table[i, p]] for i, p in (keys[k] for k in order)})
    found, renamed = (dawid_skene(one, max_iterations=15, tolerance=1e-12) for one in (votes, other))
    columns = [other.values.index(names[value]) for value in votes.values]
    rows = [other.items.index(-item) for item in votes.items]
    np.testing.assert_allclose(found.posterior, renamed.posterior[np.ix_(rows, columns)], atol=1e-6)
    for person, accuracy in zip(votes.annotators, found.accuracy, strict=True):
        again = renamed.accuracy[other.annotators.index(person)]
        assert (again.value is None) == (accuracy.value is None)
        assert accuracy.value is None or again.value == pytest.approx(accuracy.value, abs=1e-6)


def test_items_of_one_person_say_nothing_of_that_person():
    pairs = [(item, person, item % 2) for item in range(30) for person in ("ann", "bob")]
    alone = [(100 + item, "ann", 0) for item in range(500)] + [(999, "cy", 1)]
    with_them, without = dawid_skene(Votes.of(pairs + alone)), dawid_skene(Votes.of(pairs))
    np.testing.assert_allclose(with_them.confusion[:2], without.confusion)
    assert with_them.accuracy[:2] == without.accuracy
    cy = with_them.accuracy[2]
    assert cy.value is None and "anybody else" in cy.undefined
    assert with_them.posterior.shape == (531, 2)


def test_two_who_answer_at_random_leave_it_open_who_is_right():
    rng = np.random.default_rng(0)
    votes = of_units(rng.integers(0, 2, (400, 2)).tolist())
    sure = dawid_skene(of_units([(k, k, k) for k in rng.integers(0, 2, 400).tolist()]))
    for one in dawid_skene(votes).accuracy:
        assert one.value is None or one.independent < sure.accuracy[0].independent / 2


def test_what_is_not_defined_says_why():
    for votes, reason in ((of_units([(1,), (2,)]), "two people"), (Votes.of([]), "two people"),
                          (of_units([(1, 1), (1, 1)]), "same answer")):  # fmt: skip
        found = dawid_skene(votes)
        assert found.posterior is None and found.accuracy is None and reason in found.undefined
        assert not found.converged
    with pytest.raises(ValueError, match="must be positive"):
        dawid_skene(of_units([(1, 2)]), smoothing=0.0)


def test_gold_accuracy_by_hand():
    votes = Votes.of(
        [("x", "ann", 1), ("y", "ann", 2), ("z", "ann", 1), ("x", "bob", 2), ("w", "cy", 1), ("v", "bob", 1)]
    )
    ann, bob, cy = gold_accuracy(votes, {"x": 1, "y": 2, "z": 2, "v": 9, "unseen": 1})
    assert ann[:3] == pytest.approx(wilson_interval(2 / 3, 3))
    assert bob[:3] == pytest.approx(wilson_interval(0.0, 2))  # 9 is what nobody ever says: wrong, not unknown
    assert cy.value is None and "no gold item" in cy.undefined
    assert (ann.labels, bob.labels, cy.labels) == (3, 2, 0)
