"""The report of agreement on pairs: which votes count, and for how much."""

import random

import pytest

from loopwright.feedback.agreement import agreement_report
from tests.feedback.judged import prefer, rank, tie


def test_report_on_pairs_that_two_people_judged():
    said = [
        prefer("1", "x", "y", by="ann"), prefer("2", "x", "y", by="bob"),
        prefer("3", "x", "z", by="ann"), prefer("4", "z", "x", by="bob"),
        tie("5", "y", "z", by="ann"), tie("6", "z", "y", by="bob"),
        prefer("7", "v", "w", by="ann"), prefer("8", "v", "w", by=None),
    ]  # fmt: skip
    report = agreement_report(said)
    assert (report["pairs"], report["pairs_judged_twice"], report["anonymous"]) == (4, 3, 1)
    assert report["percent"]["value"] == pytest.approx(2 / 3)
    # votes (1 1) (1 -1) (0 0): coincidences 1-1: 2, 1 with -1: 1 each way, 0-0: 2; n: 3, 1, 2
    assert report["alpha_nominal"]["value"] == pytest.approx(1 - 5 * 2 / (36 - 9 - 1 - 4))
    (kappa,) = report["kappa"]
    assert kappa["annotators"] == ["ann", "bob"] and kappa["units"] == 3
    # chance: ann 1, 1, 0; bob 1, -1, 0: (2 * 1 + 1 * 1) / 9
    assert kappa["value"] == pytest.approx((2 / 3 - 3 / 9) / (1 - 3 / 9))


def test_neither_the_order_of_records_nor_that_of_a_pair_matters():
    rng = random.Random(3)
    said = [
        prefer(str(i), *rng.sample("uvwxyz", 2), prompt=rng.choice("PQ"), by=rng.choice(("ann", "bob", "cy")))
        for i in range(200)
    ]
    assert agreement_report(said) == agreement_report([one.swap() for one in rng.sample(said, len(said))])


def test_a_person_who_contradicts_themselves_is_no_second_opinion():
    said = [prefer("1", "x", "y"), prefer("2", "y", "x"), prefer("3", "x", "y", by="bob")]
    report = agreement_report(said)
    assert report["pairs_judged_twice"] == 0
    assert report["percent"]["value"] is None and "judged twice" in report["percent"]["undefined"]


def test_a_ranking_counts_as_the_pairs_it_orders():
    report = agreement_report([rank("1", "x", "y", "z"), prefer("2", "z", "x", by="bob")])
    assert (report["pairs"], report["pairs_judged_twice"], report["percent"]["value"]) == (3, 1, 0.0)
