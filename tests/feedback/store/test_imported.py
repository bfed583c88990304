"""Labels of other tools in the store: once, of annotators whom nobody can be, and counted as any other."""

import pytest

from loopwright.errors import StoreError
from loopwright.feedback.figures import figures
from loopwright.feedback.imported import Row, items_about, labels_among
from loopwright.feedback.store import administration, chain, items, people, reports
from loopwright.feedback.store.imported import import_labels
from loopwright.feedback.store.judged import read_judged
from loopwright.feedback.store.tables import events
from loopwright.schemas import Comparison, Message
from tests.feedback.store.team import LEFT, RIGHT, Team


def comparison(question, choice, annotator="ann", **more):
    prompt = (Message(role="user", content=question),)
    return Comparison(id=question, prompt=prompt, responses=("yes", "no"), choice=choice, annotator=annotator, **more)


def bring(team, *records):
    """(new, known, refused)."""
    refused = []
    rows = [Row(f"file:{number}", record) for number, record in enumerate(records, 1)]
    config = team.project.config
    wanted = [item for row in rows for item in items_about(row.record, config.kind)]
    team.write(items.publish, team.project, wanted, now=team.now)

    def refuse(row, why):
        refused.append((row.where, why))

    given = list(labels_among(rows, config, refuse))
    done = import_labels(team.store, team.project, given, tool="argilla", refuse=refuse, now=team.now)
    return done.new, done.known, refused


def account(team, name):
    return team.read(people.find_account, f"imported:argilla/{name}")


def test_labels_come_once_and_count(store):
    team = Team(store, overlap=2)
    said = [
        comparison("a", 0, order_shown=(1, 0), seconds=4.0, created="1970-01-02T00:00:00Z"),
        comparison("a", 0, "bob"),
        comparison("b", 1),
    ]
    assert bring(team, *said) == (3, 0, [])
    assert bring(team, *said) == (0, 3, [])
    found = team.records()
    assert [one.annotator for one in found] == [f"imported:argilla/{who}" for who in ("ann", "bob", "ann")]
    assert [one.responses[one.choice] for one in found] == ["yes", "yes", "no"]
    assert found[0].seconds == 4.0 and found[0].created.startswith("1970-01-02T00:00:00")
    assert [found[0].responses[place] for place in found[0].order_shown] == ["no", "yes"]
    assert found[1].order_shown is None  # the file does not tell
    states = {team.item(row.key).state for row in team.read(reports.list_items, team.id).rows}
    assert states == {"taken", "open"}
    progress = team.read(reports.progress, team.id)
    assert (progress.labels, progress.needed) == (3, 1)
    assert team.read(chain.verify, events) is None


def test_people_are_asked_for_the_labels_that_are_missing(store):
    team = Team(store, overlap=2)
    team.join("eve", "kim")
    bring(team, comparison("a", 0), comparison("b", 0), comparison("b", 0, "bob"))
    (task,) = team.claim("eve")
    assert team.claim("kim") == []
    team.submit("eve", task)
    assert {record.prompt[0].content for record in team.records() if record.annotator == "eve"} == {"a"}


def test_who_says_otherwise_of_the_same_answers_is_refused(store):
    team = Team(store, overlap=3)
    bring(team, comparison("a", 0))
    new, known, refused = bring(team, comparison("a", 1), comparison("b", 1))
    assert (new, known) == (1, 0)
    ((where, why),) = refused
    assert where == "file:1" and "said otherwise of the same answers before" in why
    assert len(team.records()) == 2


def test_nobody_can_be_an_imported_annotator(store):
    team = Team(store)
    team.join("boss")
    bring(team, comparison("a", 0))
    ann = account(team, "ann")
    assert ann.role == "imported" and team.read(people.password_of, ann.name) == (ann.id, None)
    with pytest.raises(StoreError, match="nobody can work as them"):
        team.write(administration.make_token, "boss", ann.id, "mine", ["label"], now=team.now)
    with pytest.raises(StoreError, match="nobody can work as them"):
        team.write(administration.change_account, "boss", ann.id, {"role": "admin"}, now=team.now)
    for name, role in (("imported:argilla/eve", "annotator"), ("eve", "imported")):
        with pytest.raises(StoreError, match="begins the names of those"):
            team.write(people.create_account, name, role=role, now=team.now)
    with pytest.raises(StoreError, match="ai: begins the names of models"):
        team.write(people.create_account, "ai:judge", now=team.now)
    (member,) = [row for row in team.read(reports.list_members, team.id) if row.kind == "imported"]
    assert member.account == ann.id  # so managers can leave their labels out


def test_imported_labels_measure_agreement_but_no_work(store):
    team = Team(store, overlap=2, label_cost=1.0)
    team.join("eve")
    for question in "ab":
        bring(team, comparison(question, 0, seconds=3_600.0))
    for _ in range(2):
        (task,) = team.claim("eve")
        yes = task.asked.responses.index("yes")
        team.submit("eve", task, LEFT if task.asked.order[0] == yes else RIGHT, seconds=10)
    found = figures(team.read(read_judged, team.project), team.project.config, remaining=0, now=team.now)
    assert (found.labels, found.imported) == (4, 2)
    assert found.agreement.percent.value == 1.0
    assert found.work.hours == pytest.approx(20 / 3_600) and found.work.cost == pytest.approx(2.0)
    assert {one.name: one.labels for one in found.annotators} == {"eve": 2, "imported:argilla/ann": 2}
