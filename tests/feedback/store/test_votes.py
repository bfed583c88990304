"""Labels in bulk: the same as one by one."""

import numpy as np
import pytest

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import exclusions, items, labels, projects, queue
from loopwright.feedback.store import votes as bulk
from tests.feedback.store.team import LEFT, RIGHT, Team

TIE = {"choice": None}


@pytest.fixture
def judged(store, monkeypatch):
    """Three people, four items and a gold one; one edit, one undone label, one excluded person."""
    monkeypatch.setattr(bulk, "ROWS_AT_ONCE", 2)  # so that there are several portions
    team = Team(store, gold_share=1.0, overlap=3)
    team.join("ann", "bob", "cid")
    team.publish("gold", responses=("good", "bad"), gold=LEFT)
    team.publish(*range(4), responses=("tall", "small"))
    for number, who in enumerate(("ann", "bob", "cid")):
        for answer in (LEFT, RIGHT, RIGHT, TIE, LEFT):
            team.now += 3_600
            team.submit(who, team.task(who), answer, seconds=None if number else 7)
    (first, *_) = team.read(labels.history, team.project, "ann", last=9)
    team.submit("ann", team.read(queue.get_task, first.ticket, "ann"), RIGHT)
    last = team.read(labels.history, team.project, "bob", last=1)[0]
    team.undo("bob", last.uid)
    team.write(exclusions.exclude, team.id, {"annotator": "cid"}, "ann", uid="without-cid", now=team.now)
    return team


def rows(*columns):
    return sorted(zip(*(np.asarray(column).tolist() for column in columns), strict=True))


def test_votes_are_those_of_the_records(judged):
    found = judged.read(bulk.votes, judged.project)
    expected = [
        (record.annotator, {0: -1, 1: 1, None: 0}[record.choice]) for record in judged.records()
    ]  # fmt: skip
    assert rows([found.annotators[code] for code in found.annotator], found.value) == sorted(expected)
    assert len(expected) == 4 + 3
    ids = {str(key): judged.item(str(key)).id for key in range(4)}
    assert set(found.item.tolist()) == set(ids.values())
    assert found.item.dtype == found.annotator.dtype == found.value.dtype == np.int64


def test_pulls_are_of_decided_comparisons_as_they_were_shown(judged):
    found = judged.read(bulk.pulls, judged.project)
    expected = []
    for record in judged.records():
        if record.choice is not None:
            first = record.order_shown[0] == record.choice
            expected.append((record.annotator, int(first), int(record.choice == 1)))
    names = [found.annotators[code] for code in found.annotator]
    assert rows(names, found.first_won, found.longer_won) == sorted(expected)


def test_a_gold_answer_that_settings_of_today_do_not_allow_is_still_held_against_others(judged):
    """Answers are checked when they are given. Checked again, a change of settings ended the figures for good."""
    right = {"choice": 0, "strength": "significantly"}  # with no reason: not asked for then
    judged.publish("gold-2", responses=("good", "bad"), gold=right)
    before = judged.read(bulk.gold_answers, judged.project)
    stricter = judged.project.config.model_copy(update={"reason_when_significant": True})
    changed = judged.write(projects.change_project, judged.id, config=stricter)
    after = judged.read(bulk.gold_answers, changed)
    assert rows(after.item, after.value, after.right) == rows(before.item, before.value, before.right) != []


def test_a_gold_rating_on_other_criteria_is_held_against_nobody(sqlite_store):
    team = Team(sqlite_store, kind="rating", gold_share=1.0)
    team.join("ann")
    team.publish("gold", responses=("one",), gold={"scores": {"overall": 2}})
    team.label("ann", {"scores": {"overall": 2}})
    criteria = ({"name": "honest", "definition": "What it says is true."},)
    changed = team.write(projects.change_project, team.id, config=ProjectConfig(kind="rating", criteria=criteria))
    assert len(team.read(bulk.gold_answers, changed).item) == 0


def test_equal_lengths_are_neither(sqlite_store):
    team = Team(sqlite_store)
    team.join("ann")
    team.publish("x", responses=("abc", "xyz"))
    team.label("ann")
    assert team.read(bulk.pulls, team.project).longer_won.tolist() == [-1]


def test_times_are_when_and_how_long(judged):
    found = judged.read(bulk.times, judged.project)
    ann = found.annotators.index("ann")
    assert len(found.at) == 7
    assert np.isnan(found.seconds[found.annotator != ann]).all()
    assert sorted(found.seconds[found.annotator == ann]) == [3, 7, 7, 7]
    assert len(set((found.at // 3_600).tolist())) == 7


def test_gold_answers_are_held_against_the_known_one(judged):
    found = judged.read(bulk.gold_answers, judged.project)
    gold = judged.item("gold").id
    assert set(found.item.tolist()) == {gold}
    assert set(found.right.tolist()) == {-1}  # the first response is better
    given = {found.annotators[code]: value for code, value in zip(found.annotator, found.value.tolist(), strict=True)}
    assert set(given) == {"ann", "bob"}
    for who, value in given.items():
        order = queue.shown_order(judged.project, gold, who, 2)
        assert value == (-1 if order[0] == 0 else 1)  # all three chose what they saw first
    judged.write(items.withdraw, judged.project, [gold])
    again = judged.read(bulk.gold_answers, judged.project)
    assert rows(again.item, again.value) == rows(found.item, found.value)
    assert gold not in judged.read(bulk.votes, judged.project).item


def test_drawn_items_come_with_their_probabilities(judged):
    chosen = [
        {"id": judged.item("2").id, "arm": "active", "selection_probability": 0.5, "drawn_from": 4},
        {"id": judged.item("0").id, "arm": "random", "selection_probability": 0.25, "drawn_from": 3},
    ]
    judged.write(items.reorder, judged.project, chosen)
    found = judged.read(bulk.drawn, judged.project)
    expected = [(chosen[0]["id"], True, 0.5, 4), (chosen[1]["id"], False, 0.25, 3)]
    assert rows(found.item, found.active, found.probability, found.drawn_from) == sorted(expected)


def test_nothing_said_gives_empty_arrays(store):
    team = Team(store)
    for read in (bulk.votes, bulk.pulls, bulk.times, bulk.gold_answers, bulk.drawn):
        found = team.read(read, team.project)
        assert {len(column) for column in found} == {0}
    assert team.read(bulk.votes, team.project).value.dtype == np.int64
