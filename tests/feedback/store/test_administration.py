"""What managers may change, and what is none of their project's business."""

import pytest

from loopwright.errors import StoreError
from loopwright.feedback.store import administration, labels, projects, queue, reports
from loopwright.schemas import Reply
from tests.feedback.store.team import LEFT, Team


def managed(store, manager: str, annotator: str) -> Team:
    team = Team(store, overlap=2)
    team.join(manager, annotator)
    team.write(projects.add_member, team.id, manager, "manager")
    team.publish(f"item of {manager}", f"another of {manager}")
    for number in range(2):
        team.submit(annotator, team.task(annotator), uid=f"{annotator}-{number}")
    return team


def register(team: Team, by: str, artifact: str, made_from=(), parents=None, where="/runs/secret"):
    return team.write(
        administration.register_artifact, by, team.id, artifact, "reward_model", parents=parents or {},
        made_from=made_from, where=where, now=team.now,
    )  # fmt: skip


@pytest.fixture
def two(store):
    """Two projects of different people."""
    return managed(store, "mia", "ann"), managed(store, "max", "bob")


def test_nobody_adds_labels_to_the_artifact_of_another_project(two):
    mine, others = two
    assert register(mine, "mia", "rm/1", ["ann-0"]) == 1
    for made_from in (["bob-0"], []):
        with pytest.raises(StoreError, match="artifact rm/1 is another project's"):
            register(others, "max", "rm/1", made_from)
    assert others.read(reports.list_artifacts, others.id) == []
    others.undo("bob", "bob-0")  # it is not frozen


def test_who_manages_a_project_of_the_artifact_and_who_made_it_add_to_it(two):
    mine, others = two
    register(mine, "mia", "rm/1", ["ann-0"])
    mine.join("meg")
    mine.write(projects.add_member, mine.id, "meg", "manager")
    assert register(mine, "meg", "rm/1", ["ann-0", "ann-1"]) == 1
    others.write(projects.add_member, others.id, "mia", "manager")
    assert register(others, "mia", "rm/1", ["bob-0"]) == 1  # a run that asks in two projects
    assert register(others, "max", "rm/1", ["bob-1"]) == 1  # now it is theirs too


def test_of_artifacts_of_other_projects_only_what_they_descend_from_is_told(two):
    mine, others = two
    register(mine, "mia", "rm/1", ["ann-0"])
    register(mine, "mia", "ppo/1", parents={"reward_model": "rm/1"})
    register(others, "max", "rm/2", ["bob-0"], parents={"prior": "rm/1"})
    shown = {row.id: (row.kind, row.where, row.labels) for row in mine.read(reports.list_artifacts, mine.id)}
    assert shown == {
        "rm/1": ("reward_model", "/runs/secret", 1),
        "ppo/1": ("reward_model", "/runs/secret", 0),
        "rm/2": (reports.ELSEWHERE, None, 0),
    }


@pytest.fixture
def talk(store):
    """Ann has an answer of a model in her hands."""
    team = Team(store, kind="chat", responder="parrot", gold_share=None)
    team.join("ann", "bob")
    team.talk("ann", "between us", Reply(text="Yes.", finished=True, model="parrot"))
    (row,) = team.read(reports.list_items, team.id).rows
    return team, row.key


def test_a_private_conversation_does_not_become_a_task_of_others(talk):
    team, key = talk
    for gold in ({"good": True}, None):
        with pytest.raises(StoreError, match="of somebody's conversation"):
            team.write(administration.set_gold, "ann", team.project, key, gold, now=team.now)
    assert team.item(key).state == "own"
    assert team.claim("bob") == []


def test_nothing_is_published_where_people_talk(talk):
    team, key = talk
    with pytest.raises(StoreError, match="makes its own items"):
        team.publish("x", responses=("one",))
    assert [row.key for row in team.read(reports.list_items, team.id).rows] == [key]


def test_managers_say_who_is_asked_about_an_item(team):
    team.join("ann")
    team.join("eve", skills=("law",))
    team.publish("x", overlap=3)
    team.write(administration.set_skill, "ann", team.project, "x", "law", now=team.now)
    assert team.claim("ann") == []
    assert team.keys_done_by("eve") == ["x"]
    team.write(administration.set_skill, "ann", team.project, "x", None, now=team.now)
    assert team.keys_done_by("ann") == ["x"]
    actions = [row.action for row in team.read(reports.list_audits, project=team.id)]
    assert actions == ["skill set", "skill set"]


def test_a_project_is_never_more_than_done(store):
    """Many people answer a gold item; no longer gold, it has more labels than it needs."""
    team = Team(store, gold_share=1.0)
    team.join("ann", "bob", "cid")
    team.publish("gold", gold=LEFT, batch="b")
    for who in ("ann", "bob", "cid"):
        team.label(who)
    team.publish("x", batch="b")
    team.write(administration.set_gold, "ann", team.project, "gold", None, now=team.now)
    found = team.read(reports.progress, team.id)
    assert (found.labels, found.needed, found.share) == (3, 1, 3 / 4)
    assert team.read(queue.waiting, team.id)["labels_needed"] == 1
    assert team.read(reports.batch_progress, team.id, "b") == (2, 3, 4, None)
    assert len(team.read(labels.history, team.project, "ann")) == 1
