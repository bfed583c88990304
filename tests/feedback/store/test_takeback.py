"""What counts no more, what rests on it, and the way from a label to what was made of it and back."""

import pytest

from loopwright.errors import StoreError
from loopwright.feedback.store import labels, lineage, projects
from tests.feedback.store.team import RIGHT, Team

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
    team.write(labels.exclude, team.id, what, "ann", uid=uid, now=team.now)


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
    (found,) = days.read(labels.exclusions, days.id)
    assert (found.what, found.by, found.at) == (what, "ann", days.now)
    for _ in range(2):
        days.write(labels.restore, days.id, found.uid, "ann", uid="restoration", now=days.now)
    assert len(days.records()) == 4
    assert days.read(labels.exclusions, days.id) == []
    with pytest.raises(StoreError, match="no such exclusion"):
        days.write(labels.restore, days.id, found.uid, "ann", uid="restoration-2", now=days.now)


def test_exclusions_add_up_and_are_the_projects_own(days):
    exclude(days, {"annotator": "bob"}, "uid-1")
    exclude(days, {"guideline": 1}, "uid-2")
    assert [(record.annotator, record.guideline) for record in days.records()] == [("ann", "2")]
    other = Team(days.store)
    assert other.read(labels.exclusions, other.id) == []
    with pytest.raises(StoreError, match="no such exclusion"):
        other.write(labels.restore, other.id, "uid-1", "ann", uid="uid-3", now=other.now)


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
    assert days.read(labels.exclusions, days.id) == []


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
    (exclusion,) = loop.read(labels.exclusions, loop.id)
    loop.write(labels.restore, loop.id, exclusion.uid, "ann", uid="back-again", now=loop.now)
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
