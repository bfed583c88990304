"""Draws become the front of the queue."""

import pytest

from loopwright.errors import DataError, StoreError
from loopwright.feedback.store import exclusions, items
from loopwright.feedback.store import selection as store_selection
from loopwright.feedback.store.items import Score
from loopwright.feedback.store.selection import select_next
from tests.feedback.store.team import LEFT, RIGHT, Team


def score(mean, std=None):
    return Score(mean=mean, std=std)


def test_scores_arrive_by_key(team):
    team.publish("x", "y")
    scores = {"x": [score(1.0, 0.5), score(2.0)], "unknown": [score(0.0)]}
    assert team.write(items.set_scores, team.project, scores, "reward_model/1") == 1
    assert team.item("x").scores == [{"mean": 1.0, "std": 0.5}, {"mean": 2.0, "std": None}]
    assert (team.item("x").reward_model, team.item("y").scores) == ("reward_model/1", None)
    with pytest.raises(DataError, match="item y has 2 responses, but 1 scores"):
        team.write(items.set_scores, team.project, {"x": [score(9.0)] * 2, "y": [score(0.0)]}, "reward_model/2")
    assert team.item("x").reward_model == "reward_model/1"


def test_what_an_ensemble_cannot_decide_is_asked_first(store):
    team = Team(store, selection="uncertainty", random_share=1e-9)
    team.join("ann")
    team.publish(*range(20))
    team.write(
        items.set_scores, team.project, {key: [score(0.0, 1.0), score(0.0, 1.0)] for key in ("7", "13")}, "rm"
    )  # fmt: skip
    assert select_next(store, team.id, most=3) == (2, 1, 0)
    done = team.keys_done_by("ann")
    assert set(done[:2]) == {"7", "13"}
    assert len(done) == 20
    chosen = [team.item(key) for key in done[:3]]
    assert [one.arm for one in chosen] == ["active", "active", "random"]
    assert [one.drawn_from for one in chosen] == [20, 19, 18]
    assert [one.selection_probability for one in chosen] == pytest.approx([1 / 2, 1.0, 1 / 18])
    assert team.item(done[3]).drawn_from is None
    assert team.records()[0].selection_probability == pytest.approx(1 / 2)


def test_close_scores_are_asked_first(store):
    team = Team(store, selection="closeness", random_share=1e-9)
    team.join("ann")
    team.publish(*range(5))
    far, near = [score(-50.0), score(50.0)], [score(0.3), score(0.2)]
    scores = {str(key): near if key == 3 else far for key in range(5)}
    team.write(items.set_scores, team.project, scores, "rm")
    select_next(store, team.id, most=1)
    assert team.keys_done_by("ann")[0] == "3"


def test_random_selection_is_uniform_and_says_so(store):
    team = Team(store)
    team.join("ann")
    team.publish(*range(6))
    assert select_next(store, team.id) == (0, 6, 0)
    chosen = [team.item(key) for key in team.keys_done_by("ann")]
    assert [one.selection_probability for one in chosen] == pytest.approx([1 / left for left in range(6, 0, -1)])


def test_a_later_selection_draws_anew_and_leaves_what_was_given_out(store):
    team = Team(store)
    team.join("ann", "bob")
    team.publish(*range(8))
    select_next(store, team.id, most=4)
    first = team.task("ann")
    begun = next(key for key in map(str, range(8)) if team.item(key).id == first.item)
    before = team.item(begun)
    assert select_next(store, team.id, most=3) == (0, 3, 0)
    assert team.item(begun) == before
    drawn = [team.item(str(key)) for key in range(8) if team.item(str(key)).drawn_from is not None]
    assert sorted(one.drawn_from for one in drawn) == [5, 6, 7, 8]
    assert {one.drawn_from for one in drawn} - {before.drawn_from} == {5, 6, 7}
    places = sorted(drawn, key=lambda one: one.place)
    assert [one.drawn_from for one in places if one.id != before.id] == [7, 6, 5]
    assert len(team.keys_done_by("bob")) == 7


def test_what_people_disagree_on_gets_one_more_label_once(store):
    team = Team(store, selection="disagreement", random_share=1e-9, overlap=2)
    team.join("ann", "bob", "cid", "dan")
    team.publish("agreed", "disputed")
    for who in ("ann", "bob"):
        for _ in range(2):
            task = team.task(who)
            better = 0 if task.item == team.item("agreed").id or who == "ann" else 1
            team.submit(who, task, RIGHT if task.asked.order.index(better) else LEFT)
    team.publish("fresh")
    assert select_next(store, team.id) == (0, 1, 1)
    assert (team.item("disputed").overlap, team.item("agreed").overlap) == (3, 2)
    assert team.item("disputed").arm == "random"
    assert team.task("cid").item == team.item("disputed").id
    team.label("cid")
    assert select_next(store, team.id).again == 0  # asked once more already, though they still disagree
    assert len(team.records()) == 5
    assert "disputed" not in team.keys_done_by("dan")


def test_a_draw_that_somebody_was_given_meanwhile_is_left_out(team):
    team.join("ann")
    team.publish("x", "y")
    draws, _ = team.read(store_selection._draw, team.id, 2)
    given = team.task("ann").item
    assert team.write(store_selection._ask, team.id, draws, set()) == (0, 1, 0)
    drawn = {key: team.item(key).drawn_from for key in ("x", "y")}
    assert [drawn[key] for key in drawn if team.item(key).id == given] == [None]


def test_no_project_says_so(store):
    with pytest.raises(StoreError, match="no project"):
        select_next(store, "nowhere")


def test_excluded_people_do_not_make_a_dispute(store):
    team = Team(store, selection="disagreement", overlap=2)
    team.join("ann", "bob")
    team.publish("x")
    for who, place in (("ann", 0), ("bob", 1)):
        task = team.task(who)
        team.submit(who, task, RIGHT if task.asked.order.index(place) else LEFT)
    team.write(exclusions.exclude, team.id, {"annotator": "bob"}, "ann", uid="without-bob", now=team.now)
    assert select_next(store, team.id) == (0, 0, 0)
