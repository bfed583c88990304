"""Projects that ask actively are put in order beside the requests: when something changed, and no oftener."""

from loopwright.feedback.store import administration
from loopwright.feedback.store.items import Score
from loopwright.feedback.web import choosing
from loopwright.feedback.web.choosing import Chooser
from tests.feedback.store.team import Team


def scored(team, keys):
    unsure = (Score(mean=0.0, std=3.0), Score(mean=0.0, std=3.0))
    team.write(
        administration.set_scores, "ann", team.project, dict.fromkeys(keys, unsure), "rm", now=team.now
    )  # fmt: skip


def test_scores_that_arrive_change_what_is_asked_next(sqlite_store):
    team = Team(sqlite_store, selection="uncertainty", random_share=1e-9)
    team.join("ann")
    team.publish(*range(30))
    chooser = Chooser(sqlite_store)
    chooser.look(now=1.0)
    scored(team, ("17",))
    assert chooser.look(now=100.0) == [team.project.name]
    team.label("ann")
    assert team.item("17").labels == 1


def test_it_is_drawn_anew_only_when_something_changed_and_after_a_rest(sqlite_store, monkeypatch):
    drawn = []
    monkeypatch.setattr(choosing, "select_next", lambda database, project: drawn.append(project))
    team = Team(sqlite_store, selection="closeness", random_share=0.5)
    team.join("ann")
    team.publish("a", "b", "c")
    chooser = Chooser(sqlite_store)
    for now in (1.0, 2.0):
        chooser.look(now=now)
    assert drawn == [team.id]
    team.label("ann")
    assert chooser.look(now=3.0) == [team.project.name]
    chooser._not_before[team.id] = 50.0
    team.label("ann")
    assert chooser.look(now=49.0) == []
    assert chooser.look(now=50.0) == [team.project.name]


def test_random_and_closed_projects_are_left_alone(sqlite_store):
    plain, closed = Team(sqlite_store), Team(sqlite_store, selection="closeness", random_share=0.5)
    plain.join("ann")
    plain.publish("a")
    closed.write(administration.change_project, "ann", closed.id, state="closed", now=1.0)
    assert Chooser(sqlite_store).look(now=1.0) == []


def test_one_that_fails_does_not_end_the_others_turn(sqlite_store, monkeypatch, caplog):
    first, second = (Team(sqlite_store, selection="closeness", random_share=0.5) for _ in range(2))
    done = []

    def fails_once(database, project):
        if project == first.id:
            raise RuntimeError("broken")
        done.append(project)

    monkeypatch.setattr(choosing, "select_next", fails_once)
    Chooser(sqlite_store).look(now=1.0)
    assert done == [second.id] and "could not be drawn" in caplog.text
