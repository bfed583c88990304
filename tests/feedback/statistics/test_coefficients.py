"""Coefficients of agreement: textbook tables, other implementations, invariances, and what is not defined."""

import json
import warnings

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa as their_fleiss_kappa

from loopwright.feedback.intervals import wilson_interval
from loopwright.feedback.statistics.agreement import cohen_kappas, fleiss_kappa, krippendorff_alpha, percent_agreement
from loopwright.feedback.statistics.votes import Votes
from tests.feedback.statistics.tables import of_units, random_table, votes_of

LEVELS = ("nominal", "ordinal", "interval")
_ = None
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability": four observers, twelve units
FOUR_OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3),
    (_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _),
)
# the three coders and fifteen units with which implementations of alpha are compared
THREE_CODERS = (
    (_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3),
    (1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _),
    (_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4),
)


@pytest.mark.parametrize(
    ("coders", "level", "alpha"),
    [
        (FOUR_OBSERVERS, "nominal", 0.743),
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (FOUR_OBSERVERS, "interval", 0.849),
        (THREE_CODERS, "nominal", 0.691),
        (THREE_CODERS, "ordinal", 0.807),
        (THREE_CODERS, "interval", 0.811),
    ],
)
def test_alpha_of_the_textbooks(coders, level, alpha):
    assert krippendorff_alpha(of_units(zip(*coders, strict=True)), level).value == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_hand():
    # Units (0 0) (1 1) (0 1): n_0 = n_1 = 3, n = 6. Of the ordered pairs of a unit 0, 0 and 2 differ, each unit over
    # m - 1 = 1; of all 36 pairs of votes 2 * 9 differ: alpha = 1 - 2 / (18 / 5)
    found = krippendorff_alpha(of_units([(0, 0), (1, 1), (0, 1), (1,)]))
    assert found.value == pytest.approx(1 - 2 / 3.6)
    assert (found.undefined, found.units) == (None, 3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(20))
def test_alpha_equals_the_reference_implementation(seed, level):
    values = [(0, 1), (-1, 0, 1), (1, 2, 3, 5, 8), (-2.5, 0.25, 1e3)][seed % 4]
    table = {
        key: values[v] for key, v in random_table(seed, values=range(len(values)), missing=0.1 * (seed % 7)).items()
    }
    people, items = sorted({p for _, p in table}), sorted({i for i, _ in table})
    matrix = [[table.get((item, person), np.nan) for item in items] for person in people]
    expected = krippendorff.alpha(matrix, level_of_measurement=level)
    assert krippendorff_alpha(votes_of(table), level).value == pytest.approx(expected, abs=1e-12)


def test_two_values_have_one_alpha_at_every_level():
    votes = votes_of(random_table(0, items=40, values=(0, 1)))
    nominal = krippendorff_alpha(votes).value
    for level in LEVELS:
        assert krippendorff_alpha(votes, level).value == pytest.approx(nominal)


def test_alpha_of_distances_does_not_depend_on_zero_and_unit():
    table = random_table(1, values=(1, 2, 3, 7))
    alpha = krippendorff_alpha(votes_of(table), "interval").value
    for zero, unit in ((0, -1), (1e6, 1), (0, 1e300), (-3, 1e-3)):
        moved = {key: zero + unit * value for key, value in table.items()}
        assert krippendorff_alpha(votes_of(moved), "interval").value == pytest.approx(alpha, rel=1e-6)


@given(
    units=st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3), max_size=5),
    stray=st.sampled_from([1e300, -1e300, 5e-324]),
)
def test_distances_of_any_numbers_give_a_number_or_a_reason(units, stray):
    alpha = krippendorff_alpha(of_units([*units, [stray], [1.0, 2.0]]), "interval").value
    assert alpha is None or np.isfinite(alpha)


def test_a_stray_vote_that_nobody_shares_changes_nothing():
    units = [(1, 2), (2, 2), (1, 3)]
    alpha = krippendorff_alpha(of_units(units), "interval").value
    assert krippendorff_alpha(of_units([*units, (1e300,)]), "interval").value == pytest.approx(alpha)


def test_distances_need_numbers():
    with pytest.raises(ValueError, match="no distances between votes that are not numbers"):
        krippendorff_alpha(of_units([("a", "b"), ("a", "a")]), "interval")
    with pytest.raises(ValueError, match="infinite"):
        krippendorff_alpha(of_units([(1.0, float("inf")), (1.0, 1.0)]), "interval")
    assert krippendorff_alpha(of_units([("a", "b"), ("a", "a")]), "ordinal").value is not None


def test_kappa_by_hand():
    # 20 both yes, 15 both no, 5 yes-no, 10 no-yes: observed 0.7, chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    (kappa,) = cohen_kappas(of_units(zip(first, second, strict=True)))
    assert kappa.agreement.value == pytest.approx(0.4)
    assert (kappa.annotators, kappa.agreement.units) == ((0, 1), 50)


@pytest.mark.parametrize("seed", range(10))
def test_kappas_equal_scikit_learns(seed):
    table = random_table(seed, items=30, people=6, missing=0.1 * (seed % 8))
    found = {frozenset(two): kappa for two, kappa in cohen_kappas(votes_of(table))}
    people = sorted({person for _, person in table})
    for a in people:
        for b in people[people.index(a) + 1 :]:
            both = [item for item, person in table if person == a and (item, b) in table]
            if not both:
                assert frozenset((a, b)) not in found
                continue
            kappa = found.pop(frozenset((a, b)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = cohen_kappa_score([table[item, a] for item in both], [table[item, b] for item in both])
            assert kappa.units == len(both)
            assert (kappa.value is None) == bool(np.isnan(expected))
            if kappa.value is not None:
                assert kappa.value == pytest.approx(expected, abs=1e-12)
    assert not found


def test_pairs_with_little_in_common_are_not_listed():
    table = (
        {(i, "ann"): i % 2 for i in range(10)} | {(i, "bob"): 1 for i in range(6)} | {(i, "cy"): 0 for i in range(4)}
    )
    votes = votes_of(table)
    assert {two for two, _ in cohen_kappas(votes, at_least=5)} == {("ann", "bob")}
    assert len(cohen_kappas(votes, at_least=4)) == 3
    assert cohen_kappas(votes, at_least=7) == []


def test_two_who_each_say_one_thing():
    (same,) = cohen_kappas(of_units([(1, 1), (1, 1)]))
    assert same.agreement.value is None and "same answer" in same.agreement.undefined
    (different,) = cohen_kappas(of_units([(1, 2), (1, 2)]))
    assert different.agreement.value == 0.0  # no better than chance


# Fleiss 1971: 10 subjects, 14 raters, 5 categories
FLEISS = (
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
)  # fmt: skip


def test_fleiss_kappa_of_the_textbook():
    units = [[value for value, count in enumerate(counts) for _ in range(count)] for counts in FLEISS]
    found = fleiss_kappa(of_units(units))
    assert found.agreement.value == pytest.approx(0.210, abs=5e-4)
    assert (found.raters, found.agreement.units, len(found.left_out)) == (14, 10, 0)


@pytest.mark.parametrize("seed", range(10))
def test_fleiss_kappa_equals_statsmodels_on_the_items_that_are_not_left_out(seed):
    votes = votes_of(random_table(seed, items=30, people=5))
    for raters in (None, 2, 3, 4):
        found = fleiss_kappa(votes, raters=raters)
        table = np.zeros((len(votes.items), len(votes.values)), dtype=int)
        np.add.at(table, (votes.item, votes.value), 1)
        kept = table.sum(axis=1) == found.raters
        assert found.left_out.tolist() == np.flatnonzero(~kept).tolist()
        assert found.agreement.units == kept.sum()
        assert found.agreement.value == pytest.approx(their_fleiss_kappa(table[kept]), abs=1e-12)


def test_the_usual_number_of_raters_is_kept():
    units = [(1, 2), (1, 1), (1, 1, 2), (1, 2, 2), (1,), (2,), (2,), (1, 2, 1, 2)]
    found = fleiss_kappa(of_units(units))
    assert found.raters == 3  # two items have two, two have three: the larger
    assert found.left_out.tolist() == [0, 1, 4, 5, 6, 7]
    none = fleiss_kappa(of_units(units), raters=9)
    assert none.agreement.value is None and "exactly 9" in none.agreement.undefined and len(none.left_out) == 8
    with pytest.raises(ValueError, match="at least 2"):
        fleiss_kappa(of_units(units), raters=1)


def test_percent_agreement_by_hand():
    found = percent_agreement(of_units([(1, 1, 2), (2, 2), (1,)]))
    assert found.value == pytest.approx(2 / 4)  # of three pairs one agrees, of one pair one
    assert found.comparisons == 4 and found.low < 0.5 < found.high
    # three votes on an item hang together: their pairs are no more independent than the items
    thirds = percent_agreement(of_units([(1, 1, 2), (2, 1, 2)] * 15))
    assert thirds.comparisons == 90 and thirds[:3] == pytest.approx(wilson_interval(1 / 3, 30))
    # what hangs together counts as less
    units = [(1, 1), (1, 1), (1, 2), (1, 2)] * 10
    alone = percent_agreement(of_units(units))
    together = percent_agreement(of_units(units), clusters=["a", "a", "b", "b"] * 5 + ["c", "c", "d", "d"] * 5)
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="40 items needs its cluster, got 3"):
        percent_agreement(of_units(units), clusters=[1, 2, 3])


def test_what_is_not_defined_says_why():
    single = of_units([(1,), (2,)])
    unanimous = of_units([(1, 1), (1, 1)])
    for votes, reason in ((single, "two people"), (Votes.of([]), "two people"), (unanimous, "same answer")):
        found = [krippendorff_alpha(votes, level) for level in LEVELS] + [fleiss_kappa(votes).agreement]
        assert all(one.value is None and reason in one.undefined for one in found)
    assert cohen_kappas(single) == cohen_kappas(Votes.of([])) == []
    found = percent_agreement(single)
    assert found.value is None and "two people" in found.undefined
    # unanimous where two judged, though not elsewhere
    assert krippendorff_alpha(of_units([(1, 1), (2,)])).value is None
    assert krippendorff_alpha(of_units([(0.1,) * 3, (0.1,) * 7]), "interval").value is None


def figures(votes):
    return [
        *(krippendorff_alpha(votes, level).value for level in LEVELS),
        fleiss_kappa(votes).agreement.value,
        percent_agreement(votes).value,
        percent_agreement(votes).low,
        *sorted((kappa.value is None, kappa.value or 0.0, kappa.units) for _, kappa in cohen_kappas(votes)),
    ]


@given(seed=st.integers(0, 2**31), missing=st.floats(0, 0.9))
def test_order_and_names_never_matter(seed, missing):
    table = random_table(seed, missing=missing)
    rng = np.random.default_rng(seed)
    keys = list(table)
    item_names, people = rng.permutation(100), dict(zip(sorted({p for _, p in keys}), "qwerty", strict=False))
    renamed = {(int(item_names[i]), people[p]): table[i, p] for i, p in (keys[k] for k in rng.permutation(len(keys)))}
    close(figures(votes_of(table)), figures(votes_of(renamed)))


@given(seed=st.integers(0, 2**31))
def test_names_of_values_do_not_matter_where_they_are_only_names(seed):
    table = random_table(seed)
    names = dict(zip((1, 2, 3), np.random.default_rng(seed).permutation(["x", "y", "z"]).tolist(), strict=True))
    votes, renamed = votes_of(table), votes_of({key: names[value] for key, value in table.items()})
    close([krippendorff_alpha(votes).value], [krippendorff_alpha(renamed).value])
    close([fleiss_kappa(votes).agreement.value], [fleiss_kappa(renamed).agreement.value])
    close([k.value for _, k in cohen_kappas(votes)], [k.value for _, k in cohen_kappas(renamed)])


def close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or one == pytest.approx(other, abs=1e-9)


def test_figures_are_plain_numbers_that_can_be_sent():
    votes = votes_of(random_table(0))
    fleiss = fleiss_kappa(votes)
    agreements = (krippendorff_alpha(votes), percent_agreement(votes), fleiss.agreement)
    figures = [one.as_dict() for one in (*agreements, *(kappa for _, kappa in cohen_kappas(votes)))]
    others = [fleiss.raters, fleiss.left_out.tolist()]
    assert json.loads(json.dumps([figures, others])) == [figures, others]


@given(seed=st.integers(0, 2**31), missing=st.floats(0, 1))
def test_no_figure_is_ever_nan(seed, missing):
    votes = votes_of(random_table(seed, items=3, people=3, values=(1, 2), missing=missing))
    for figure in figures(votes):
        assert figure is None or np.isfinite(figure).all()
