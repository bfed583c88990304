"""Answers that were all called bad, beside better ones."""

import pytest

from loopwright.errors import DataError
from loopwright.feedback.bad_answers import compare_bad_answers, only_bad
from loopwright.feedback.pairs import JudgementConfig, convert
from loopwright.schemas import Attack, Correction, Message, Thumb

HI, BYE = ((Message(role="user", content=text),) for text in ("Hi", "Bye"))


def down(prompt, response, **more):
    return Thumb(id=response, prompt=prompt, responses=(response,), good=False, **more)


def compared(judgements, *args, **more):
    found = convert(judgements, JudgementConfig())
    compare_bad_answers(found, judgements, *args, **more)
    return found


def orders(found):
    return [pair.responses if pair.choice == 0 else pair.responses[::-1] for pair in found.pairs]


CORRECTION = Correction(id="c", prompt=HI, responses=("bad",), edited="good", annotator="ann")


def test_what_a_person_wrote_is_better_than_all_that_was_called_bad():
    said = [down(HI, "bad"), down(HI, "worse", annotator="bob"), down(BYE, "alone"), CORRECTION]
    found = compared(said)
    assert orders(found) == [("good", "bad"), ("good", "worse")] and not found.labels
    assert [pair.annotator for pair in found.pairs] == ["ann", "bob"]  # who says so of each
    assert found.counts["bad_answers_below_corrections"] == 2 and found.counts["left_out_bad_answers_alone"] == 1


def test_samples_stand_beside_what_nobody_corrected():
    asked = []

    def sample(labels):
        asked.extend(label.response for label in labels)
        return ["new" if label.response == "alone" else None for label in labels]

    found = compared([down(HI, "bad"), down(BYE, "alone"), down(BYE, "other"), CORRECTION], sample)
    assert asked == ["alone", "other"] and orders(found) == [("good", "bad"), ("new", "alone")]
    counts = {name: n for name, n in found.counts.items() if "bad_answers" in name}
    assert counts == {
        "bad_answers_below_corrections": 1,
        "bad_answers_below_samples": 1,
        "left_out_bad_answers_alone": 1,
    }


def test_where_nothing_is_better_it_is_said_what_to_do():
    said = [down(BYE, "alone"), CORRECTION]  # of an answer to something else
    with pytest.raises(
        DataError, match=r"all 1 thumbs are down.*\(corrections, by reward.kinds in a recipe\).*fresh_samples: true"
    ):
        compared(said)
    found = compared(said, required=False)
    assert not found.labels and found.counts["left_out_bad_answers_alone"] == 1


def test_what_is_only_bad():
    up = Thumb(id="u", prompt=HI, responses=("yes",), good=True)
    attack = Attack(id="a", prompt=HI, responses=("no",), broke=True)
    for judgements, expected in (([down(HI, "a")], True), ([down(HI, "a"), up], False), ([attack], True), ([], False)):
        assert only_bad(convert(judgements, JudgementConfig())) is expected
