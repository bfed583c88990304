"""What people say is kept: sent twice it counts once, it can be changed and taken back until something rests on it."""

import math

import pytest
from sqlalchemy import select

from loopwright.errors import StoreError
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import exclusions, labels, lineage, own_work, projects, queue
from loopwright.feedback.store.tables import events
from loopwright.schemas import Rating
from tests.feedback.store.team import LEFT, RIGHT, Team


@pytest.fixture
def one(team):
    """Ann and Bob, and an item for each of them."""
    team.join("ann", "bob")
    team.publish("x", overlap=2)
    return team


def test_a_label_sent_twice_counts_once(one):
    task = one.task("ann")
    first = one.submit("ann", task, uid="the-same")
    assert one.submit("ann", task, RIGHT, uid="the-same") == first == ("the-same", task.ticket, False)
    assert one.event_types() == ["label"]
    assert one.records()[0].choice == task.asked.order[0]
    assert (one.item("x").labels, one.item("x").leases) == (1, 0)


def test_a_uid_is_of_one_thing_that_one_person_sent(one):
    ann, bob = one.task("ann"), one.task("bob")
    one.submit("ann", ann, uid="of-ann")
    refused = pytest.raises(StoreError, match="used for something else")
    with refused:
        one.submit("bob", bob, uid="of-ann")
    with refused:
        one.write(labels.skip, bob.ticket, "bob", uid="of-ann", reason="upsetting", note=None, now=one.now)
    with refused:
        one.write(labels.flag, ann.ticket, "ann", uid="of-ann", note="?", now=one.now)
    with refused:
        one.write(labels.undo, "of-ann", "ann", uid="of-ann", now=one.now)
    with refused:
        one.write(exclusions.exclude, one.id, {"annotator": "ann"}, "ann", uid="of-ann", now=one.now)
    assert one.task("bob") == bob
    assert one.event_types() == ["label"]


@pytest.mark.parametrize("uid", ["", "u" * 65])
def test_a_uid_has_a_length_that_every_database_stores(sqlite_store, uid):
    team = Team(sqlite_store)
    team.join("ann")
    team.publish("x")
    with pytest.raises(ValueError, match="1 to 64"):
        team.write(labels.submit, team.task("ann").ticket, "ann", uid=uid, answer=LEFT, seconds=1, now=team.now)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_a_time_that_no_record_may_have_is_refused(sqlite_store, seconds):
    """A record with it could not be made: the export would fail for everybody, for ever."""
    team = Team(sqlite_store)
    team.join("ann")
    team.publish("x")
    with pytest.raises(ValueError, match="seconds"):
        team.submit("ann", team.task("ann"), seconds=seconds)
    assert team.event_types() == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"choice": 2, "strength": "better"}, "choice"),
        ({"choice": None, "strength": "better"}, "a tie without one"),
        ({"choice": 0, "strength": "better", "hack": 1}, "hack"),
        ({**LEFT, "strengths": {"helpful": "better"}}, "criteria by which one answer is better"),
        ({**LEFT, "safe": [True, False]}, "does not ask which answers are safe"),
        ({**LEFT, "improved": "better"}, "not improved"),
        ({**LEFT, "reason": "\ud800"}, "unicode"),
        ("<script>", "valid"),
    ],
)
def test_a_wrong_answer_leaves_nothing(sqlite_store, answer, why):
    team = Team(sqlite_store, improve=False)
    team.join("ann")
    team.publish("x")
    task = team.task("ann")
    with pytest.raises(ValueError, match=why):
        team.submit("ann", task, answer)
    assert team.event_types() == []
    assert team.task("ann") == task


def test_an_edit_is_a_new_event_and_the_last_one_counts(one):
    task = one.task("ann")
    first = one.submit("ann", task, LEFT)
    second = one.submit("ann", task, RIGHT)
    assert (one.item("x").labels, one.item("x").leases) == (1, 0)
    assert one.event_types() == ["label", "label"]
    (record,) = one.records()
    assert record.id == second.uid
    assert record.choice == task.asked.order[1]
    (said,) = one.read(labels.history, one.project, "ann")
    assert (said.uid, said.ticket, said.answer) == (second.uid, task.ticket, RIGHT)
    with pytest.raises(StoreError, match="changed or taken back"):
        one.undo("ann", first.uid)


def test_undo_opens_the_task_again_with_its_answer_as_the_draft(one):
    task = one.task("ann")
    label = one.submit("ann", task, RIGHT)
    assert one.undo("ann", label.uid) == task.ticket
    assert one.records() == []
    again = one.task("ann")
    assert (again.ticket, again.draft, again.asked) == (task.ticket, RIGHT, task.asked)
    assert (one.item("x").labels, one.item("x").leases) == (0, 1)
    one.submit("ann", again, LEFT)
    assert one.task("bob")
    assert one.event_types() == ["label", "undo", "label"]
    assert [record.choice for record in one.records()] == [task.asked.order[0]]


def test_undo_sent_twice_counts_once_even_after_the_task_was_answered_again(one):
    label = one.label("ann")
    undo = dict(uid="undo-one", now=one.now)
    ticket = one.write(labels.undo, label.uid, "ann", **undo)
    assert one.write(labels.undo, label.uid, "ann", **undo) == ticket
    one.label("ann")
    assert one.write(labels.undo, label.uid, "ann", **undo) == ticket
    assert len(one.records()) == 1


def test_a_slot_that_undo_and_expiry_free_is_given_to_somebody_else(one):
    one.join("cid")
    label = one.label("ann")
    one.label("bob")
    assert one.claim("cid") == []
    one.undo("ann", label.uid)
    assert one.claim("cid") == []  # ann has it
    one.now += 60 * 31
    assert one.keys_done_by("cid") == ["x"]
    assert one.claim("ann") == []


def test_labels_are_their_authors_alone(one):
    label = one.label("ann")
    with pytest.raises(StoreError, match="no such label of yours"):
        one.undo("bob", label.uid)
    with pytest.raises(StoreError, match="no such task of yours"):
        one.write(labels.submit, label.ticket, "bob", uid="bobs-uid", answer=LEFT, seconds=1, now=one.now)
    assert one.read(labels.history, one.project, "bob") == []


def test_history_is_newest_first_and_bounded(team):
    team.join("ann")
    team.publish(*range(5))
    given = [team.label("ann").uid for _ in range(5)]
    assert [said.uid for said in team.read(labels.history, team.project, "ann", last=3)] == given[:1:-1]


def test_a_label_that_something_was_made_from_is_frozen(one):
    task = one.task("ann")
    label = one.submit("ann", task)
    (id,) = [id for id, *_ in one.read(lambda c: list(labels.records(c, one.project)))]
    one.write(lineage.register, "reward_model/1", "reward_model", {}, labels=[id], now=one.now)
    with pytest.raises(StoreError, match="frozen: a model was trained on it"):
        one.submit("ann", task, RIGHT)
    with pytest.raises(StoreError, match="frozen: a model was trained on it"):
        one.undo("ann", label.uid)
    assert one.event_types() == ["label"]


def test_a_label_of_a_gold_item_is_frozen_with_those_given_after_it(store):
    """Nothing is made from it: in the history it would be the one that can still be changed, and so known as gold."""
    team = Team(store, gold_share=1.0)
    team.join("ann")
    team.publish("gold", gold=LEFT)
    team.publish("x", "y")
    gold = team.task("ann")
    assert gold.gold is not None
    first, used, last = (team.submit("ann", team.task("ann")).uid for _ in range(3))
    ids = {said.uid: said.id for said in team.read(labels.history, team.project, "ann")}

    def frozen_ones() -> list[bool]:
        found = team.read(own_work.kept, list(ids.values()))
        return [found[ids[uid]].frozen for uid in (first, used, last)]

    elsewhere = Team(store)
    elsewhere.join("bob")
    elsewhere.publish("z")
    elsewhere.submit("bob", elsewhere.task("bob"), uid="elsewhere")
    (other,) = [id for id, *_ in elsewhere.read(lambda c: list(labels.records(c, elsewhere.project)))]
    team.write(lineage.register, "rm/0", "reward_model", {}, labels=[other], now=team.now)
    assert frozen_ones() == [False, False, False]  # another project's labels were used
    team.write(lineage.register, "rm/1", "reward_model", {}, labels=[ids[used]], now=team.now)
    assert frozen_ones() == [True, True, False]
    with pytest.raises(StoreError, match="frozen: a model was trained on it"):
        team.undo("ann", first)
    with pytest.raises(StoreError, match="frozen: a model was trained on it"):
        team.submit("ann", gold, RIGHT)


def test_who_takes_labels_back_does_not_hoard_the_items(team):
    team.join("ann")
    team.publish(*range(6), overlap=1)
    given = [team.label("ann").uid for _ in range(3)]
    team.claim("ann", tasks=2)  # the one on the screen and the next
    team.undo("ann", given[2])
    with pytest.raises(StoreError, match="finish the tasks that you have open first"):
        team.undo("ann", given[1])
    team.submit("ann", team.claim("ann")[0])
    team.undo("ann", given[1])


def test_what_is_counted_beside_an_answer(sqlite_store):
    """The vote is of the responses as stored; the pulls are of what was seen."""
    team = Team(sqlite_store)
    people = [f"p{number}" for number in range(8)]
    team.join(*people)
    team.publish("x", responses=("short", "very long"), overlap=8)
    seen = {}
    for who in people:
        task = team.task(who)
        team.submit(who, task, RIGHT if who != "p7" else {"choice": None})
        seen[who] = task.asked.order
    rows = team.read(lambda connection: connection.execute(select(events)).all())
    assert set(seen.values()) == {(0, 1), (1, 0)}
    for row in rows:
        if row.account == "p7":
            assert (row.vote, row.first_won, row.longer_won) == (0, None, None)
        else:
            second = seen[row.account][1]
            assert row.vote == (-1, 1)[second]
            assert (row.first_won, row.longer_won) == (False, second == 1)


def test_answers_of_equal_length_show_no_pull_of_length(sqlite_store):
    team = Team(sqlite_store)
    team.join("ann")
    team.publish("x", responses=("abc", "xyz"))
    team.label("ann")
    assert team.read(lambda connection: connection.execute(select(events.c.longer_won)).scalar()) is None


def test_a_scale_with_labels_on_it_stays(store):
    team = Team(store, kind="rating", scale=(1, 3))
    team.join("ann")
    team.publish("x", responses=("one",))
    wider = team.project.config.model_copy(update={"scale": (1, 7)})
    team.write(projects.change_project, team.id, config=wider)
    team.submit("ann", team.task("ann"), {"scores": {"overall": 7}})
    with pytest.raises(StoreError, match="scale stays"):
        team.write(projects.change_project, team.id, config=team.project.config)
    quicker = wider.model_copy(update={"lease_minutes": 5})
    assert team.write(projects.change_project, team.id, config=quicker).config.lease_minutes == 5


def test_each_criterion_s_direction_is_in_the_record_and_stays(store):
    rude = {"name": "rude", "definition": "It insults.", "higher_is_better": False}
    team = Team(store, kind="rating", criteria=[{"name": "helpful", "definition": "It helps."}, rude])
    team.join("ann")
    team.publish("x", responses=("one",))
    team.submit("ann", team.task("ann"), {"scores": {"helpful": 3, "rude": 1}})
    (record,) = team.records()
    assert (record.higher_is_better, record.directions) == (True, {"rude": False})
    assert (record.is_high_good("helpful"), record.is_high_good("rude")) == (True, False)
    assert Rating.model_validate_json(record.model_dump_json()) == record
    only_rude = team.project.config.model_copy(update={"criteria": team.project.config.criteria[1:]})
    assert team.write(projects.change_project, team.id, config=only_rude).config.criterion_names == ("rude",)
    for criteria in ([], [{"name": "rude", "definition": "It insults."}]):  # as records are made, rude would be good
        other = ProjectConfig(kind="rating", criteria=criteria)
        with pytest.raises(StoreError, match="so its direction of rude stays"):
            team.write(projects.change_project, team.id, config=other)


def test_skipped_by_all_is_nobodys_label(one):
    for who in ("ann", "bob"):
        one.skip(who, one.task(who), "cannot_judge")
    assert one.records() == []
    assert one.read(queue.waiting, one.id) == {"open": 1, "labels_needed": 2}
