"""What counts no more, what rests on it, and the way from a label to what was made of it and back."""

import random
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from loopwright.errors import StoreError
from loopwright.feedback.store import exclusions, labels, lineage, projects, queue
from loopwright.feedback.store.tables import assignments, current_labels, items
from tests.feedback.store.team import LEFT, RIGHT, Team

DAY = 86_400.0


@pytest.fixture
def days(team):
    """Ann and Bob label one item each on two days, under two versions of the guideline."""
    team.now = 20_000 * DAY  # 2024-10-04
    team.join("ann", "bob")
    for version in (1, 2):
        team.write(projects.add_guideline, team.id, f"version {version}", now=team.now)
        team.publish(f"item {version}", overlap=2)
        for who in ("ann", "bob"):
            team.label(who)
        team.now += DAY
    return team


def exclude(team, what, uid="exclusion"):
    team.write(exclusions.exclude, team.id, what, "ann", uid=uid, now=team.now)


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({"annotator": "bob"}, [("ann", "1"), ("ann", "2")]),
        ({"day": "2024-10-04"}, [("ann", "2"), ("bob", "2")]),
        ({"guideline": 2}, [("ann", "1"), ("bob", "1")]),
    ],
)
def test_an_exclusion_leaves_labels_out_until_it_is_restored(days, what, left):
    exclude(days, what)
    exclude(days, what)  # sent twice
    assert [(record.annotator, record.guideline) for record in days.records()] == left
    (found,) = days.read(exclusions.exclusions, days.id)
    assert (found.what, found.by, found.at) == (what, "ann", days.now)
    for _ in range(2):
        days.write(exclusions.restore, days.id, found.uid, "ann", uid="restoration", now=days.now)
    assert len(days.records()) == 4
    assert days.read(exclusions.exclusions, days.id) == []
    with pytest.raises(StoreError, match="no such exclusion"):
        days.write(exclusions.restore, days.id, found.uid, "ann", uid="restoration-2", now=days.now)


def test_exclusions_add_up_and_are_the_projects_own(days):
    exclude(days, {"annotator": "bob"}, "uid-1")
    exclude(days, {"guideline": 1}, "uid-2")
    assert [(record.annotator, record.guideline) for record in days.records()] == [("ann", "2")]
    other = Team(days.store)
    assert other.read(exclusions.exclusions, other.id) == []
    with pytest.raises(StoreError, match="no such exclusion"):
        other.write(exclusions.restore, other.id, "uid-1", "ann", uid="uid-3", now=other.now)


@pytest.mark.parametrize(
    "what",
    [
        {}, {"annotator": "bob", "guideline": 1}, {"weather": "bad"}, {"guideline": "1"}, {"day": "yesterday"},
        {"day": "2024-10-04T12:00"}, {"annotator": "nobody"}, {"guideline": 3}, {"guideline": 10**30},
    ],
)  # fmt: skip
def test_an_exclusion_that_leaves_nothing_out_is_refused(days, what):
    with pytest.raises(ValueError):
        exclude(days, what)
    assert days.read(exclusions.exclusions, days.id) == []


def test_labels_without_a_guideline_are_of_no_version(team):
    team.join("ann")
    team.publish("x")
    team.label("ann")
    team.write(projects.add_guideline, team.id, "late", now=team.now)
    exclude(team, {"guideline": 1})
    assert len(team.records()) == 1


@pytest.fixture
def loop(days):
    """Two reward models from the labels of a version each, a policy from the first, a sample of it, its label."""
    found = days.read(lambda connection: list(labels.records(connection, days.project)))
    for version in ("1", "2"):
        ids = [id for id, _, _, record in found if record.guideline == version]
        name = f"reward_model/{version}"
        days.write(lineage.register, name, "reward_model", {}, labels=ids, where="runs/a", now=days.now)
        days.now += 1
    days.write(lineage.register, "policy/1", "policy", {"reward": "reward_model/1", "init": "sft/1"}, now=days.now)
    days.publish("sample", policy="policy/1", overlap=1)
    days.label("bob", RIGHT)
    return days


def test_lineage_goes_both_ways(loop):
    behind = loop.read(lineage.labels_behind, "policy/1")
    assert [(source.annotator, source.item_key) for source in behind] == [("ann", "item 1"), ("bob", "item 1")]
    assert loop.read(lineage.made_from, behind[0].uid) == ["reward_model/1", "policy/1"]
    newest = loop.records()[-1]
    assert newest.policy == "policy/1"
    assert loop.read(lineage.made_from, newest.id) == []
    assert sorted(loop.read(lineage.ancestors, "policy/1")) == ["policy/1", "reward_model/1", "sft/1"]
    assert loop.read(lineage.labels_behind, "unknown") == []
    assert len(loop.read(lineage.labels_behind, "policy/1", most=1)) == 1


def test_registering_twice_does_nothing(loop):
    loop.write(lineage.register, "reward_model/1", "reward_model", {}, labels=[1], now=loop.now)
    assert len(loop.read(lineage.labels_behind, "reward_model/1")) == 2


def test_stale_names_what_rests_on_labels_that_count_no_more(loop):
    assert loop.read(lineage.stale) == []
    exclude(loop, {"annotator": "ann"})
    found = loop.read(lineage.stale)
    assert found == [
        ("reward_model/1", "reward_model", 1, None),
        ("reward_model/2", "reward_model", 1, None),
        ("policy/1", "policy", 0, "reward_model/1"),
    ]
    (exclusion,) = loop.read(exclusions.exclusions, loop.id)
    loop.write(exclusions.restore, loop.id, exclusion.uid, "ann", uid="back-again", now=loop.now)
    assert loop.read(lineage.stale) == []


def test_a_label_that_was_changed_meanwhile_makes_stale_what_is_registered_later(team):
    """A reward model was trained, and its labels registered, after one of them was edited."""
    team.join("ann")
    team.publish("x")
    task = team.task("ann")
    team.submit("ann", task)
    ((id, *_),) = team.read(lambda connection: list(labels.records(connection, team.project)))
    team.submit("ann", task, RIGHT)
    team.write(lineage.register, "reward_model/1", "reward_model", {}, labels=[id, id], now=team.now)
    assert [(one.id, one.labels) for one in team.read(lineage.stale)] == [("reward_model/1", 1)]


def test_a_circle_of_artifacts_ends(store):
    team = Team(store)
    team.write(lineage.register, "a", "policy", {"x": "b"}, now=1.0)
    team.write(lineage.register, "b", "policy", {"x": "a"}, now=2.0)
    assert sorted(team.read(lineage.ancestors, "a")) == ["a", "b"]
    assert team.read(lineage.stale) == []


# -- who is asked instead ----------------------------------------------------------------------------------------------


def restore(team, uid="exclusion"):
    team.write(exclusions.restore, team.id, uid, "ann", uid=f"back-{uid}", now=team.now)


def test_others_are_asked_for_what_was_left_out(store):
    """Bob's label is left out: his place goes to Cid, and to nobody else; Bob himself is asked nothing more."""
    team = Team(store, overlap=2)
    team.join("ann", "bob", "cid", "dan")
    team.publish("x", "y")
    for who in ("ann", "bob"):
        team.label(who)
        team.label(who)
    assert team.claim("cid") == []
    exclude(team, {"annotator": "bob"})
    assert (team.item("x").labels, team.item("x").state) == (1, "open")
    assert team.claim("bob") == [] == team.claim("ann")
    assert len(team.claim("cid", 2)) == 2 and team.claim("dan") == []
    for task in team.claim("cid", 2):
        team.submit("cid", task)
    assert team.claim("dan") == []
    assert [record.annotator for record in team.records()] == ["ann", "ann", "cid", "cid"]
    restore(team)
    assert (team.item("x").labels, team.item("x").state) == (3, "taken")
    assert team.claim("dan") == [] == team.claim("bob")
    assert len(team.records()) == 6


def test_who_labelled_under_a_wrong_guideline_is_asked_again(days):
    """Their new label takes the place of the one that was left out, also once that counts again."""
    exclude(days, {"guideline": 1})
    task = days.task("ann")
    assert days.item("item 1").labels == 0 and task.item == days.item("item 1").id
    days.submit("ann", task, RIGHT)
    assert days.claim("ann") == []
    restore(days)
    assert days.item("item 1").labels == 2  # bob's old one, and ann's new one
    assert [(one.annotator, one.guideline) for one in days.records()] == [
        ("bob", "1"), ("ann", "2"), ("bob", "2"), ("ann", "2"),
    ]  # fmt: skip
    assert days.claim("bob") == []


def test_a_frozen_label_that_was_left_out_can_be_given_anew(days):
    ids = [id for id, *_ in days.read(lambda connection: list(labels.records(connection, days.project)))]
    days.write(lineage.register, "rm", "reward_model", {}, labels=ids, now=days.now)
    exclude(days, {"guideline": 1})
    days.label("ann")
    assert len(days.records()) == 3


def test_who_can_give_no_label_that_counts_is_asked_nothing(days):
    days.publish("more", overlap=2)
    today = "2024-10-06"
    exclude(days, {"day": today})
    assert days.claim("ann") == []
    days.now += DAY
    task = days.task("ann")
    exclude(days, {"guideline": 2}, "the newest")
    assert days.claim("ann") == []  # the task that was open is given back
    assert days.submit("ann", task).late is False  # kept, and it does not count
    assert days.item("more").labels == 0 and days.item("more").state == "open"
    days.write(projects.add_guideline, days.id, "version 3", now=days.now)
    assert days.task("ann").item


def test_a_restored_label_ends_the_task_that_was_to_replace_it(days):
    exclude(days, {"guideline": 1})
    task = days.task("ann")
    restore(days)
    assert (days.item("item 1").labels, days.item("item 1").leases) == (2, 0)
    assert days.claim("ann") == []
    days.submit("ann", task, RIGHT)  # from an old page: an edit
    assert (days.item("item 1").labels, days.item("item 1").leases) == (2, 0)
    assert len(days.records()) == 4


def test_what_counts_no_more_cannot_be_taken_back(days):
    said = days.records()[0]
    exclude(days, {"guideline": 1})
    with pytest.raises(StoreError, match="counts no more"):
        days.undo("ann", said.id)


@pytest.mark.parametrize("seed", range(6))
def test_items_count_what_counts_whatever_happens(sqlite_store, seed):
    """Random work, exclusions and restorations; then everybody works until nothing is left."""
    rng = random.Random(seed)
    team = Team(sqlite_store, overlap=2)
    people = [f"p{number}" for number in range(6)]
    team.join("ann", *people)
    team.write(projects.add_guideline, team.id, "version 1", now=team.now)
    team.publish(*range(5))
    given, tickets = [], {}
    for step in range(120):
        with suppress(StoreError, ValueError, IndexError):  # what cannot be done now
            _do_something(team, rng, people, given, tickets, f"exclusion-{step}")
        _kept_right(team)
    team.now += 2 * DAY
    team.write(queue.expire, now=team.now)
    team.write(projects.add_guideline, team.id, "the last", now=team.now)
    fresh = [f"f{number}" for number in range(2)]
    team.join(*fresh)
    for who in fresh:
        team.keys_done_by(who)
    _kept_right(team)
    assert all(team.item(str(number)).labels >= 2 for number in range(5))


def _do_something(team, rng, people, given, tickets, uid):
    who, act = rng.choice(people), rng.random()
    if act < 0.45:
        for task in team.claim(who, rng.choice((1, 2))):
            tickets[task.ticket] = (who, task)
            if rng.random() < 0.7:
                given.append((who, team.submit(who, task, rng.choice((LEFT, RIGHT))).uid))
    elif act < 0.55:
        team.undo(*rng.choice(given))
    elif act < 0.65:
        who, task = rng.choice(list(tickets.values()))
        given.append((who, team.submit(who, task).uid))
    elif act < 0.72:
        team.write(queue.expire, now=team.now + 10_000)
    elif act < 0.82:
        day = datetime.fromtimestamp(team.now, UTC).date().isoformat()
        exclude(team, rng.choice([{"annotator": who}, {"day": day}, {"guideline": rng.choice((1, 2))}]), uid)
    elif act < 0.9:
        restore(team, rng.choice(team.read(exclusions.exclusions, team.id)).uid)
    elif act < 0.95:
        team.now += DAY / 2
    else:
        team.write(projects.add_guideline, team.id, "another", now=team.now)


def _kept_right(team):
    def look(connection):
        good = exclusions.usable(connection, team.id)
        pairs = connection.execute(select(current_labels.c.item, current_labels.c.account)).all()
        assert len(set(pairs)) == len(pairs), "somebody has two labels of one item"
        counted = Counter(connection.execute(select(current_labels.c.item).where(good)).scalars())
        leased = select(assignments.c.item).where(assignments.c.state == "leased")
        leases = Counter(connection.execute(leased).scalars())
        for row in connection.execute(select(items)):
            assert (row.labels, row.leases) == (counted[row.id], leases[row.id])
            assert row.state == ("open" if row.labels + row.leases < row.overlap else "taken")

    team.read(look)
