"""What is asked: it comes in once, whole, in an order of the project's own."""

import pytest
from sqlalchemy import func, select

from loopwright.errors import DataError
from loopwright.feedback.store import items, projects
from loopwright.feedback.store.items import Item
from loopwright.feedback.store.tables import items as item_rows
from tests.feedback.store.team import LEFT, Team

PROMPT = [{"role": "user", "content": "Why?"}]


def item(key, responses=("one", "another"), **more):
    return Item(key=str(key), prompt=PROMPT, responses=responses, **more)


def order(team):
    query = select(item_rows.c.key).where(item_rows.c.project == team.id).order_by(item_rows.c.place)
    return team.read(lambda connection: list(connection.execute(query).scalars()))


def test_the_order_is_drawn_from_the_seed_and_later_ones_come_after(store):
    keys = [f"{number:02}" for number in range(30)]
    orders = []
    for seed in (0, 0, 1):
        team = Team(store, seed=seed)
        team.publish(*keys[:20])
        team.publish(*keys[20:])
        orders.append(order(team))
        assert sorted(orders[-1][:20]) == keys[:20]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != keys


def test_a_key_is_published_once(team):
    assert team.publish("x", "y", "x") == (2, 1)
    assert team.publish("y", "z", responses=("other", "texts")) == (1, 1)
    assert team.item("y").responses == ["one", "another"]
    assert Team(team.store).publish("x") == (1, 0)  # another project's keys are its own


def test_all_or_none_are_published(team, monkeypatch):
    monkeypatch.setattr(items, "ROWS_AT_ONCE", 2)
    bad = [item(number) for number in range(5)] + [item("bad", responses=("alone",))]
    with pytest.raises(DataError, match=r"items\[5\] bad: has 1 responses, a comparison needs 2"):
        team.write(items.publish, team.project, bad, now=team.now)
    assert order(team) == []


@pytest.mark.parametrize(
    ("kind", "gold", "why"),
    [
        ("comparison", {"choice": 3}, "choice"),
        ("comparison", {"choice": 0}, "strength"),
        ("ranking", {"ranks": [1, 1]}, "clear best"),
        ("correction", {"chosen": 0, "edited": "x"}, "clear best"),
    ],
)
def test_a_gold_answer_that_nothing_can_be_held_against_is_refused(sqlite_store, kind, gold, why):
    team = Team(sqlite_store, kind=kind)
    with pytest.raises(DataError, match=f"items.0. x: .*{why}"):
        team.publish("x", gold=gold)


@pytest.mark.parametrize("key", ["", "k" * 101, "nul\0"])
def test_a_key_that_not_every_database_stores_is_refused(key):
    with pytest.raises(ValueError, match="key"):
        item(key)


def test_items_are_what_they_were(team):
    given = {"tags": {"task": "why"}, "policy": "p", "skill": "law", "scores": [{"mean": 1.0}, {"mean": -1.0}]}
    team.publish("x", batch="b", overlap=5, **given)
    row = team.item("x")
    assert (row.tags, row.policy, row.skill, row.batch, row.overlap) == ({"task": "why"}, "p", "law", "b", 5)
    assert (row.state, row.arm, row.selection_probability, row.drawn_from) == ("open", "random", 1.0, None)
    assert row.scores == [{"mean": 1.0, "std": None}, {"mean": -1.0, "std": None}]
    team.publish("g", gold=LEFT)
    assert (team.item("g").state, team.item("g").overlap) == ("gold", 3)


def test_very_many_are_published_in_portions_and_in_one_order(store, monkeypatch):
    monkeypatch.setattr(items, "ITEMS_A_COMMIT", 10)
    team = Team(store)
    team.join("ann")
    team.publish("before")
    keys = [f"{number:02}" for number in range(40)]
    assert items.publish_all(store, team.project, map(item, keys), now=team.now) == (40, 0)
    found = order(team)
    assert found[0] == "before"
    assert sorted(found[1:]) == keys
    assert len(set(found[1:11]) - set(keys[:10])) > 2  # not one portion after another
    places = select(func.count(func.distinct(item_rows.c.place)))
    assert team.read(lambda connection: connection.execute(places).scalar()) == 41
    assert items.publish_all(store, team.project, map(item, keys), now=team.now) == (0, 40)
    assert order(team) == found


def test_nobody_misses_what_is_published_while_they_work(store, monkeypatch):
    monkeypatch.setattr(items, "ITEMS_A_COMMIT", 5)
    team = Team(store, overlap=1)
    team.join("ann")

    def coming():
        for number in range(20):
            if number % 7 == 6:
                team.label("ann")
            yield item(number)

    items.publish_all(store, team.project, coming(), now=team.now)
    assert len(team.keys_done_by("ann")) == 18


def test_a_new_order_moves_nothing_else(team):
    team.publish(*range(6))
    before = order(team)
    ids = [team.item(key).id for key in (before[4], before[2])]
    team.write(items.reorder, team.project, [{"id": id} for id in ids])
    assert order(team) == [before[4], before[2], before[0], before[1], before[3], before[5]]
    team.write(items.reorder, team.project, [])
    assert team.read(projects.get_project, team.id).queue == 1
