"""Simulated annotators: without faults they are the judge; with faults they err in the stated way."""

import random

import pytest

from loopwright.feedback.annotators import VERDICT_SECONDS, SimulatedAnnotator, on_simulated_clocks, team, worth
from loopwright.schemas import Comparison, Prompt

PROMPT = Prompt.user("p", "How good?")
VALUES = {"bad": 0.0, "fair": 0.4, "good": 0.8, "a good and long one with very many more words": 0.8}
JUDGES = {"quality": lambda prompt, response: VALUES[response], "absent": lambda prompt, response: None}
PERFECT = SimulatedAnnotator(id="perfect", noise=0.0, carelessness=0.0)


def choices(annotator: SimulatedAnnotator, responses: tuple[str, str], count: int = 400):
    return [annotator.compare(PROMPT, responses, JUDGES, random.Random(i), id=str(i)) for i in range(count)]


def test_a_perfect_annotator_is_the_judge():
    assert {c.choice for c in choices(PERFECT, ("good", "bad"))} == {0}
    assert {c.choice for c in choices(PERFECT, ("bad", "good"))} == {1}
    assert {c.choice for c in choices(PERFECT, ("good", "good"))} == {None}


def test_how_much_better_follows_the_gap():
    said = {pair: {c.strength for c in choices(PERFECT, pair)} for pair in (("good", "bad"), ("bad", "fair"))}
    assert said == {("good", "bad"): {"significantly"}, ("bad", "fair"): {"better"}}
    assert {c.strength for c in choices(PERFECT, ("good", "good"))} == {None}


def test_ranks_with_ties():
    ranking = PERFECT.rank(PROMPT, ("fair", "good", "bad", "good"), JUDGES, None, random.Random(0), id="r")
    assert ranking.ranks == (3, 1, 4, 1)
    assert sorted(ranking.order_shown) == [0, 1, 2, 3]


def test_ranks_by_one_criterion():
    two = JUDGES | {"shortness": lambda prompt, response: 1.0 - VALUES[response]}
    ranking = PERFECT.rank(PROMPT, ("fair", "good", "bad"), two, "shortness", random.Random(0), id="r")
    assert ranking.ranks == (2, 3, 1)
    assert ranking.criterion == "shortness"


def test_time_is_spent_on_reading_once_and_on_each_verdict():
    two = {"quality": JUDGES["quality"], "more": JUDGES["quality"]}
    compared = PERFECT.compare(PROMPT, ("good", "bad"), two, random.Random(0), id="c")
    by_both = PERFECT.compare_by(two, compared, PROMPT, two, random.Random(1))
    assert by_both.seconds == pytest.approx(compared.seconds + 2 * VERDICT_SECONDS)
    timeless = compared.model_copy(update={"seconds": None})
    assert PERFECT.compare_by(two, timeless, PROMPT, two, random.Random(1)).seconds is None
    ranked = PERFECT.rank(PROMPT, ("good", "bad"), two, "more", random.Random(0), id="r")
    assert ranked.seconds > VERDICT_SECONDS
    again = PERFECT.rank(PROMPT, ("good", "bad"), two, "more", random.Random(0), again=True, id="r")
    assert again == ranked.model_copy(update={"seconds": VERDICT_SECONDS})
    once, twice = (PERFECT.rate(PROMPT, "good", judges, random.Random(0), id="x").seconds for judges in (JUDGES, two))
    assert twice - once == pytest.approx(VERDICT_SECONDS, abs=0.3)  # reading a word takes more or less


@pytest.mark.parametrize(("low_is_good", "scores"), [(False, [1, 2, 3]), (True, [3, 2, 1])])
def test_ratings_store_their_direction(low_is_good, scores):
    annotator = PERFECT.model_copy(update={"low_is_good": low_is_good})
    ratings = [annotator.rate(PROMPT, r, JUDGES, random.Random(0), id="x") for r in ("bad", "fair", "good")]
    assert [rating.scores for rating in ratings] == [{"quality": score} for score in scores]
    assert {rating.higher_is_better for rating in ratings} == {not low_is_good}


def test_the_order_shown_is_even_and_does_not_matter_without_bias():
    records = choices(PERFECT, ("good", "bad"))
    assert 140 < sum(c.order_shown == (0, 1) for c in records) < 260


def test_first_position_bias():
    biased = PERFECT.model_copy(update={"first_bias": 1.0})
    assert all(c.choice == c.order_shown[0] for c in choices(biased, ("good", "bad")))


def test_length_bias():
    biased = PERFECT.model_copy(update={"length_bias": 0.2})
    long = "a good and long one with very many more words"
    assert {c.choice for c in choices(biased, ("good", long))} == {1}


def test_noise_and_carelessness_make_mistakes_at_about_the_stated_rate():
    noisy = PERFECT.model_copy(update={"noise": 0.4 / 2**0.5})  # the gap of 0.4 is one standard deviation
    wrong = sum(c.choice == 1 for c in choices(noisy, ("good", "fair"), 2_000)) / 2_000
    assert wrong == pytest.approx(0.13, abs=0.03)  # Phi(-1) = 0.16, less the ties
    careless = PERFECT.model_copy(update={"carelessness": 1.0})
    assert sum(c.choice == 1 for c in choices(careless, ("good", "bad"), 2_000)) / 2_000 == pytest.approx(
        0.475, abs=0.04
    )


def test_every_annotator_has_a_clock_that_runs_while_they_judge():
    def judged(annotator, seconds):
        return Comparison(id="c", responses=("a", "b"), choice=0, annotator=annotator, seconds=seconds)

    records = on_simulated_clocks([judged("x", 2.5), judged("y", 61.0), judged("x", 0.6)])
    assert [record.created for record in records] == [
        "2000-01-01T09:00:02.500+00:00",
        "2000-01-01T09:01:01.000+00:00",
        "2000-01-01T09:00:03.100+00:00",
    ]


def test_worth_is_mostly_the_worst_criterion():
    two = {"a": lambda p, r: 1.0, "b": lambda p, r: 0.0, "c": lambda p, r: None}
    assert worth(PROMPT, "x", two, None) == pytest.approx(0.25 * 0.5)
    assert worth(PROMPT, "x", two, "a") == 1.0


def test_a_team_differs_and_follows_its_seed():
    assert team(6, 1) == team(6, 1) != team(6, 2)
    assert len({annotator.id for annotator in team(6, 1)}) == 6
    assert {annotator.low_is_good for annotator in team(6, 1)} == {True, False}
