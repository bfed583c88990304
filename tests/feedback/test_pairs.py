"""What people said, as what is trained on."""

import pytest
from pydantic import ValidationError

from loopwright.errors import ConfigError, DataError
from loopwright.feedback.pairs import (
    JudgementConfig,
    check_conversion,
    convert,
    gold_answers,
    of_criterion,
    ranking_pairs,
)
from loopwright.schemas import Comparison, Correction, Message, Ranking, Rating, Thumb

ASK = (Message(role="user", content="Hi"),)


def compare(a, b, choice, **more):
    return Comparison(id=f"{a}{b}", prompt=ASK, responses=(a, b), choice=choice, **more)


def rate(response, annotator="ann", *, low_is_good=False, turned=(), **scores):
    return Rating(
        id=response,
        prompt=ASK,
        responses=(response,),
        scores=scores,
        higher_is_better=not low_is_good,
        directions={name: low_is_good for name in turned},
        annotator=annotator,
    )


def converted(judgements, **settings):
    config = JudgementConfig(**settings)
    found = convert(judgements, config)
    check_conversion(config, found)
    return found


def winners(found):
    """(better, worse) of each pair; a tie as a set."""
    named = []
    for pair in found.pairs:
        a, b = pair.responses
        named.append({a, b} if pair.choice is None else ((a, b) if pair.choice == 0 else (b, a)))
    return named


def test_pairs_of_a_ranking_drop_ties():
    assert ranking_pairs([1, 1]) == []
    assert ranking_pairs([2, 1, 2]) == [(1, 0), (1, 2)]
    assert len(ranking_pairs([3, 1, 4, 2])) == 6


def test_comparisons_keep_what_is_known_of_them():
    (pair,) = converted([compare("a", "b", 1, order_shown=(1, 0), annotator="ann", weight=3.0)]).pairs
    assert (pair.choice, pair.shown_first, pair.annotator, pair.weight) == (1, 1, "ann", 3.0)


def test_ties_are_dropped_and_counted_or_kept():
    said = [compare("a", "b", None), compare("a", "c", 0)]
    dropped, kept = converted(said), converted(said, ties="davidson")
    assert (len(dropped.pairs), dropped.counts["ties"]) == (1, 1)
    assert winners(kept) == [{"a", "b"}, ("a", "c")]


@pytest.mark.parametrize(
    ("margins", "expected"), [("small", [1.0, 2 / 3, 1 / 3, 0.0]), ("large", [3.0, 2.0, 1.0, 0.0])]
)
def test_margins_of_llama_2(margins, expected):
    said = [
        compare("a", str(i), 0, strength=s) for i, s in enumerate(("significantly", "better", "slightly", "negligibly"))
    ]
    assert [pair.margin for pair in converted(said, margins=margins).pairs] == expected
    assert {pair.margin for pair in converted(said).pairs} == {0.0}


def test_margins_of_a_criterion_are_those_of_its_own_strength():
    both = {"criteria": {"kind": 1, "brief": 0}, "strengths": {"kind": "slightly"}, "strength": "significantly"}
    said = [compare("a", "b", 0, margin=5.0, **both), compare("a", "b", 0, strength="better")]
    found = converted(said, criterion="kind", margins="small")
    assert [(pair.choice, pair.margin) for pair in found.pairs] == [(1, 1 / 3)]
    for idle in ({"criterion": "brief", "margins": "small"}, {"criterion": "kind", "margins": "given"}):
        with pytest.raises(ConfigError, match="margins .* no effect: no comparison says how much better"):
            converted(said, **idle)


def test_margins_as_numbers():
    assert [pair.margin for pair in converted([compare("a", "b", 0, margin=0.7)], margins="given").pairs] == [0.7]


def test_a_ranking_is_all_the_pairs_it_orders_or_one_list():
    ranking = Ranking(id="r", prompt=ASK, responses=("a", "b", "c"), ranks=(2, 1, 2), order_shown=(2, 0, 1))
    found = converted([ranking])
    assert winners(found) == [("b", "a"), ("b", "c")] and found.counts["ties"] == 1
    assert [pair.shown_first for pair in found.pairs] == [0, 1]  # a before b, c before b
    (listing,) = converted([ranking], rankings_as="plackett_luce").listings
    assert listing.ranks == (2, 1, 2)
    tied = Ranking(id="s", prompt=ASK, responses=("a", "b"), ranks=(1, 1))
    assert len(converted([ranking, tied], rankings_as="plackett_luce")) == 1


def test_a_criterion_takes_only_what_was_judged_by_it():
    said = [
        compare("a", "b", 0, criteria={"kind": 1}),
        compare("a", "b", 0),
        Ranking(id="r", prompt=ASK, responses=("c", "d"), ranks=(1, 2), criterion="kind"),
        Ranking(id="s", prompt=ASK, responses=("c", "d"), ranks=(2, 1)),
        rate("e", kind=3, true=1),
        rate("f", kind=1, true=3),
    ]
    found = converted(said, criterion="kind")
    assert winners(found) == [("b", "a"), ("c", "d"), ("e", "f")]
    assert found.counts["left_out_of_another_criterion"] == 2
    assert winners(converted(said)) == [("a", "b"), ("a", "b"), ("d", "c")]  # e and f have the same mean


def test_ratings_are_compared_within_a_prompt_and_an_annotator():
    said = [rate("a", kind=3), rate("b", kind=1), rate("c", "bob", kind=1), rate("d", "bob", kind=2, low_is_good=False)]
    assert winners(converted(said)) == [("a", "b"), ("d", "c")]


def test_the_direction_of_a_scale_is_heeded():
    said = [rate("a", kind=1, low_is_good=True), rate("b", kind=3, low_is_good=True)]
    assert winners(converted(said)) == [("a", "b")]
    assert [label.target for label in converted(said, ratings_as="thumbs").labels] == [1.0, 0.0]
    assert [label.target for label in converted(said, ratings_as="regression").labels] == [1.0, -1.0]


@pytest.mark.parametrize("low_is_good", [False, True])
def test_criteria_of_either_direction_stand_in_one_record(low_is_good):
    """Of `kind` more is better, of `rude` less, however the record says so."""
    turned = ("kind",) if low_is_good else ("rude",)

    def said(response, kind, rude):
        return rate(response, low_is_good=low_is_good, turned=turned, kind=kind, rude=rude)

    rated = [said("a", 3, 1), said("b", 2, 2), said("c", 1, 3)]
    assert winners(converted(rated)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert winners(converted(rated, criterion="rude")) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert winners(converted(rated, criterion="kind")) == [("a", "b"), ("a", "c"), ("b", "c")]
    for criterion in (None, "kind", "rude"):
        found = converted(rated, criterion=criterion, ratings_as="thumbs")
        assert [(label.response, label.target) for label in found.labels] == [("a", 1.0), ("c", 0.0)]
        targets = [label.target for label in converted(rated, criterion=criterion, ratings_as="regression").labels]
        assert targets == pytest.approx([1.5**0.5, 0.0, -(1.5**0.5)])
    mixed = [said("a", 3, 3), said("b", 1, 1), said("c", 3, 2)]  # a and b are worth the same, c more
    assert winners(converted(mixed, ties="davidson")) == [{"a", "b"}, ("c", "a"), ("c", "b")]
    assert convert(mixed[:1], JudgementConfig(ratings_as="thumbs")).labels == []  # in the middle, exactly


def test_a_direction_is_of_a_score():
    with pytest.raises(ValidationError, match="directions names rude, which has no score"):
        rate("a", turned=("rude",), kind=1)


def test_the_middle_of_the_scale_is_no_thumb():
    said = [rate("a", kind=3), rate("b", kind=2), rate("c", kind=1)]
    found = converted(said, ratings_as="thumbs")
    assert [(label.response, label.target) for label in found.labels] == [("a", 1.0), ("c", 0.0)]
    assert found.counts["left_out_in_the_middle_of_the_scale"] == 1


def test_a_scale_may_have_any_ends():
    def likert(response, mark, low=1):
        about = dict(scale_low=low, scale_high=7, higher_is_better=True)
        return Rating(id=response, prompt=ASK, responses=(response,), scores={"good": mark}, **about)

    said = [likert("a", 3), likert("b", 4), likert("c", 5)]
    found = converted(said, ratings_as="thumbs")
    assert [(label.response, label.target) for label in found.labels] == [("a", 0.0), ("c", 1.0)]
    scale = converted([*said, likert("d", 7, low=-2)], ratings_as="regression").rating_scale
    assert scale.mean == pytest.approx((2 / 6 + 3 / 6 + 4 / 6 + 1) / 4)


def test_regression_targets_have_mean_0_and_deviation_1():
    said = [rate("a", kind=1), rate("b", kind=2), rate("c", kind=3)]
    targets = [label.target for label in converted(said, ratings_as="regression").labels]
    assert targets == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5])
    with pytest.raises(DataError, match="all 2 ratings are the same"):
        converted([rate("a", kind=2), rate("b", kind=2)], ratings_as="regression")


def test_corrections_are_above_what_they_were_made_from():
    correction = Correction(id="c", prompt=ASK, responses=("bad", "good", "worse"), chosen=1, edited="best")
    assert winners(converted([correction])) == [
        ("best", "good"), ("best", "bad"), ("good", "bad"), ("best", "worse"), ("good", "worse")
    ]  # fmt: skip


def test_thumbs_of_one_kind_teach_nothing():
    down = [Thumb(id=str(i), prompt=ASK, responses=(str(i),), good=False) for i in range(3)]
    with pytest.raises(DataError, match=r"all 3 thumbs are down.*add answers of the other kind, or compare these"):
        converted(down)
    with pytest.raises(DataError, match=r"all 3 thumbs are up: nothing tells good from bad; add answers of .* kind$"):
        converted([one.model_copy(update={"good": True}) for one in down])
    assert len(converted([*down, Thumb(id="up", prompt=ASK, responses=("yes",), good=True)]).labels) == 4


def test_safety_labels_come_with_their_weight():
    said = [compare("a", "b", 1, safe=(True, False))]
    assert not converted(said).labels
    assert [(one.kind, one.target) for one in converted(said, safety_weight=0.3).labels] == [
        ("safety", 1.0),
        ("safety", 0.0),
    ]


def test_safety_labels_of_one_kind_teach_nothing():
    said = [compare("a", "b", 1, safe=(True, True)), compare("a", "c", 1, safe=(True, True))]
    with pytest.raises(DataError, match="all 4 safety labels say safe.*leave judgements.safety_weight out"):
        converted(said, safety_weight=0.3)
    assert len(converted(said).pairs) == 2  # nobody asked for safety


def test_ties_alone_teach_nothing():
    said = [compare("a", str(i), None, probability=0.5 if i else None) for i in range(3)]
    with pytest.raises(DataError, match="all 3 pairs are ties"):
        converted(said, ties="davidson")
    for more in (
        [compare("a", "b", 0)],
        [compare("a", "b", 1, probability=0.4)],
        [Thumb(id=str(good), prompt=ASK, responses=("x",), good=good) for good in (True, False)],
    ):
        assert len(converted([*said, *more], ties="davidson").pairs) >= 3


def test_identical_responses_make_no_pair():
    found = converted([compare("a", "a", 0)])
    assert not len(found) and found.counts["left_out_identical_responses"] == 1


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"margins": "large"}, "no comparison says how much better"),
        ({"ties": "davidson"}, "there is no tie"),
        ({"rankings_as": "plackett_luce"}, "there is no ranking"),
        ({"ratings_as": "thumbs"}, "there is no rating"),
        ({"safety_weight": 0.1}, "no comparison says what is safe"),
        ({"criterion": "kind"}, "nothing was judged by it"),
    ],
)
def test_a_setting_without_effect_is_an_error(setting, reason):
    with pytest.raises(ConfigError, match=f"reward.judgements.{next(iter(setting))} .*no effect: {reason}"):
        converted([compare("a", "b", 0)], **setting)


def test_other_ratings_are_measured_on_the_same_scale():
    first = converted([rate("a", kind=1), rate("b", kind=3)], ratings_as="regression")
    same = convert([rate("c", kind=3), rate("d", kind=3)], JudgementConfig(ratings_as="regression"), first.rating_scale)
    assert [label.target for label in same.labels] == [1.0, 1.0]


def test_judgements_of_a_criterion_take_the_place_of_overall_ones():
    said = [
        compare("a", "b", 0, criteria={"kind": 1}, strengths={"kind": "slightly"}, strength="better", probability=0.9),
        compare("a", "b", 0),
        Ranking(id="r", responses=("a", "b"), ranks=(1, 2), criterion="kind"),
        Ranking(id="s", responses=("a", "b"), ranks=(1, 2)),
    ]
    kind, overall = of_criterion(said, "kind"), of_criterion(said, None)
    assert [(one.id, getattr(one, "choice", None), getattr(one, "strength", None)) for one in kind] == [
        ("ab", 1, "slightly"),
        ("r", None, None),
    ]
    assert kind[1].criterion is None and [one.id for one in overall] == ["ab", "ab", "s"]


def test_gold_items_show_who_is_right():
    gold = [compare("a", "b", 0), compare("c", "d", 1)]
    said = [
        compare("b", "a", 1, annotator="ann"),
        compare("c", "d", 1, annotator="ann"),
        compare("c", "d", 0, annotator="bob"),
        compare("a", "b", None, annotator="bob"),
        compare("x", "y", 0, annotator="cid"),
    ]
    assert gold_answers(said, gold) == {"ann": (2, 0), "bob": (0, 1)}
