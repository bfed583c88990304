"""Who gets what."""

import pytest
from sqlalchemy import case, func, select, update

from loopwright.errors import StoreError
from loopwright.feedback.store import administration, items, labels, projects, queue
from loopwright.feedback.store.tables import accounts, assignments, members, tallies
from loopwright.feedback.store.tables import items as item_rows
from tests.feedback.store.team import RIGHT, Team


def test_each_item_goes_to_as_many_people_as_it_needs_and_never_twice_to_the_same(team):
    team.join("ann", "bob", "cid", "dan")
    team.publish("x", overlap=2)
    assert team.keys_done_by("ann") == ["x"]
    bob = team.task("bob")
    assert team.claim("cid") == []  # one label and one lease: nothing is left
    team.submit("bob", bob)
    assert team.claim("dan") == []
    assert (team.item("x").labels, team.item("x").leases, team.item("x").state) == (2, 0, "taken")


def test_a_lease_that_runs_out_goes_to_who_passed_the_item(team):
    team.join("ann", "bob")
    team.publish("x", "y", overlap=1)
    ann = team.task("ann")
    assert len(team.keys_done_by("bob")) == 1
    assert team.claim("bob") == []
    team.now += 60 * 30
    assert team.task("bob").item == ann.item
    assert team.claim("ann") == []


def test_a_lease_that_runs_out_goes_to_the_same_person_under_the_same_ticket(team):
    team.join("ann")
    team.publish("x", overlap=1)
    before = team.task("ann")
    team.write(queue.save_draft, before, {"choice": 1}, now=team.now)
    team.now += 60 * 31
    after = team.task("ann")
    assert after.ticket == before.ticket
    assert after.asked.order == before.asked.order
    assert after.draft == {"choice": 1}
    assert after.opened == team.now


def test_who_let_a_task_run_out_goes_back_to_it_even_if_it_was_never_full(team):
    team.join("ann")
    team.publish("x", "y", overlap=3)
    left, done = team.claim("ann", tasks=2)
    team.now += 60 * 29
    team.submit("ann", done)
    team.now += 60 * 2
    assert team.task("ann").ticket == left.ticket


def test_a_draft_keeps_the_lease(team):
    team.join("ann", "bob")
    team.publish("x", overlap=1)
    task = team.task("ann")
    team.now += 60 * 29
    until = team.write(queue.save_draft, task, {}, now=team.now)
    assert until == team.now + 60 * 30
    team.now += 60 * 29
    assert team.claim("bob") == []


def test_a_draft_of_a_task_that_another_did_meanwhile_says_that_it_is_lost(team):
    team.join("ann", "bob")
    team.publish("x", overlap=1)
    lost = team.task("ann")
    team.now += 60 * 31
    team.label("bob")
    assert team.write(queue.save_draft, team.read(queue.get_task, lost.ticket, "ann"), {}, now=team.now) == team.now


def test_drafts_of_expired_tasks_do_not_hoard_items(team):
    team.join("ann", "bob")
    team.publish("w", "x", "y", "z", overlap=1)
    expired = team.claim("ann", tasks=2)
    team.now += 60 * 31
    taken = team.claim("bob", tasks=2)
    assert {task.item for task in taken} == {task.item for task in expired}
    team.claim("ann", tasks=2)
    for task in taken:
        team.skip("bob", task)
    lost = [team.read(queue.get_task, task.ticket, "ann") for task in expired]
    assert team.write(queue.save_draft, lost[0], {}, now=team.now) > team.now
    assert team.write(queue.save_draft, lost[1], {}, now=team.now) == team.now
    assert len(team.claim("ann")) == 3


def test_a_draft_takes_an_expired_task_back_where_a_slot_is_free(team):
    team.join("ann", "bob")
    team.publish("x", overlap=1)
    task = team.task("ann")
    team.now += 60 * 31
    team.write(queue.expire, now=team.now)
    expired = team.read(queue.get_task, task.ticket, "ann")
    assert expired.state == "expired"
    team.write(queue.save_draft, expired, {}, now=team.now)
    assert team.claim("bob") == []
    assert team.read(queue.get_task, task.ticket, "ann").state == "leased"


def test_a_late_answer_counts_where_a_slot_is_free_and_is_kept_where_none_is(team):
    team.join("ann", "bob")
    team.publish("x", overlap=1)
    ann = team.task("ann")
    team.now += 60 * 31
    team.write(queue.expire, now=team.now)
    assert not team.submit("ann", ann).late
    assert (team.item("x").labels, team.item("x").leases, team.item("x").state) == (1, 0, "taken")

    team.publish("y", overlap=1)
    bob = team.task("bob")
    team.now += 60 * 31
    assert team.keys_done_by("ann") == ["y"]
    late = team.submit("bob", bob, uid="late-answer")
    assert late.late
    assert team.submit("bob", bob, uid="late-answer") == late
    assert (team.item("y").labels, team.item("y").leases) == (1, 0)
    assert len(team.records()) == 2
    assert team.event_types() == ["label", "label", "late"]


def test_two_tasks_are_held_at_most_and_the_oldest_comes_first(team):
    team.join("ann")
    team.publish(*range(5))
    first = team.task("ann")
    team.now += 1
    held = team.claim("ann", tasks=9)
    assert len(held) == queue.MOST_HELD
    assert held[0].ticket == first.ticket
    assert [task.ticket for task in team.claim("ann", tasks=1)] == [task.ticket for task in held]


def test_claims_and_their_repetition_agree(team):
    team.join("ann")
    team.write(projects.add_guideline, team.id, "Be kind.", now=team.now)
    team.publish("x", policy="p", reward_model="r")
    given = team.task("ann")
    assert given == team.task("ann") == team.read(queue.get_task, given.ticket, "ann")
    assert (given.guideline, given.policy, given.reward_model) == (1, "p", "r")


def test_a_paused_project_gives_nothing_new_out(team):
    team.join("ann")
    team.publish("x", "y")
    held = team.task("ann")
    team.write(projects.change_project, team.id, state="paused")
    assert [task.ticket for task in team.claim("ann", tasks=2)] == [held.ticket]


def test_items_that_need_a_skill_wait_for_who_has_it(team):
    team.join("ann")
    team.join("doc", skills=("medicine", "law"))
    team.publish("x", skill="medicine")
    team.publish("g", skill="medicine", gold=RIGHT)
    assert team.claim("ann") == []
    assert team.keys_done_by("doc") == ["x"]


def test_who_learns_a_skill_is_asked_what_was_passed(team):
    team.join("ann")
    team.publish("x", skill="medicine")
    team.publish("y")
    assert team.keys_done_by("ann") == ["y"]
    skilled = update(accounts).where(accounts.c.id == "ann").values(skills=["medicine"])
    team.write(lambda connection: connection.execute(skilled))
    assert team.keys_done_by("ann") == ["x"]


def test_gold_items_need_their_skill_too(store):
    team = Team(store, gold_share=1.0)
    team.join("ann")
    team.publish("g", gold=RIGHT, skill="medicine")
    assert team.claim("ann") == []


def test_needs_an_expert_goes_to_experts_even_those_who_passed_it(team):
    team.join("ann", "abe", "bob")
    team.join("eve", skills=("expert",))
    team.publish("x", skill=None, overlap=3)
    team.publish("y", overlap=1)
    ann = next(task for task in team.claim("ann", tasks=2) if team.item("x").id == task.item)
    abe = team.task("abe")
    assert abe.item == ann.item
    eve = team.keys_done_by("eve")
    assert "x" in eve
    team.skip("ann", ann, "needs_expert")
    team.skip("abe", abe, "needs_expert")
    assert team.item("x").skill == "expert"
    assert team.item("x").state == "open"
    assert "x" not in team.keys_done_by("bob")
    team.join("doc", skills=("expert",))
    assert team.keys_done_by("doc") == ["x"]


def test_one_person_alone_does_not_keep_items_from_all_others(team):
    team.join("ann", "bob")
    team.publish("x", overlap=1)
    team.skip("ann", team.task("ann"), "needs_expert")
    assert team.item("x").skill is None
    assert team.keys_done_by("bob") == ["x"]


def test_an_item_that_needs_a_skill_keeps_it(team):
    team.join("mia", "meg", skills=("math",))
    team.publish("x", skill="math", overlap=3)
    for who in ("mia", "meg"):
        team.skip(who, team.task(who), "needs_expert")
    assert team.item("x").skill == "math"


def test_who_is_no_member_any_more_has_no_tasks_and_takes_nothing_back(team):
    team.join("ann")
    team.publish("x", "y", overlap=1)
    done, open_one = team.claim("ann", tasks=2)
    label = team.submit("ann", done)
    team.write(administration.remove_member, "ann", team.id, "ann", now=team.now)
    for work in (
        lambda: team.read(queue.get_task, open_one.ticket, "ann"),
        lambda: team.submit("ann", open_one),
        lambda: team.submit("ann", done, RIGHT),
        lambda: team.undo("ann", label.uid),
    ):
        with pytest.raises(StoreError, match="no such task"):
            work()
    assert team.event_types() == ["label"]


def test_who_skips_is_not_asked_again(team):
    team.join("ann", "bob")
    team.publish("x", overlap=1)
    team.skip("ann", team.task("ann"))
    assert team.claim("ann") == []
    assert team.keys_done_by("bob") == ["x"]


def test_gold_items_come_with_their_share_never_twice_and_to_everybody(store):
    team = Team(store, gold_share=0.25, overlap=1)
    people = [f"p{number}" for number in range(4)]
    team.join(*people)
    team.publish(*range(30), overlap=4)
    team.publish(*(f"gold-{number}" for number in range(20)), gold=RIGHT, overlap=1)
    for who in people:
        done = team.keys_done_by(who)
        assert len(done) == len(set(done))
        assert len([key for key in done if not key.startswith("gold")]) == 30
        gold = [key for key in done if key.startswith("gold")]
        # about 30 * 0.25 / 0.75 = 10 gold tasks beside the 30 others; sd of that negative binomial is 3.7
        assert 1 <= len(gold) <= 20
    counts = select(func.sum(item_rows.c.labels), func.sum(item_rows.c.leases)).where(item_rows.c.state == "gold")
    labels_of_gold, leases = team.read(lambda connection: connection.execute(counts).one())
    answered = select(func.count()).where(assignments.c.item == item_rows.c.id, item_rows.c.state == "gold")
    assert labels_of_gold == team.read(lambda connection: connection.execute(answered).scalar())
    assert leases == 0
    assert len(team.records()) == 120  # what was said of gold items trains nothing


def test_counts_of_gold_items_survive_undo_expiry_and_late_answers(store):
    team = Team(store, gold_share=1.0)
    team.join("ann", "bob")
    team.publish("g", gold=RIGHT, overlap=1)
    first = team.label("ann")
    team.task("bob")
    assert (team.item("g").labels, team.item("g").leases) == (1, 1)
    team.undo("ann", first.uid)
    assert (team.item("g").labels, team.item("g").leases) == (0, 2)
    team.now += 60 * 31
    team.write(queue.expire, now=team.now)
    assert (team.item("g").labels, team.item("g").leases, team.item("g").state) == (0, 0, "gold")
    assert not team.submit("ann", team.task("ann")).late
    assert (team.item("g").labels, team.item("g").leases) == (1, 0)


def test_a_new_order_takes_everybody_back_to_its_start(team):
    team.join("ann", "bob")
    team.publish(*range(6), overlap=2)
    begun = [team.task("bob")]
    team.submit("bob", begun[0])
    ids = {str(key): team.item(str(key)).id for key in range(6)}
    team.write(items.reorder, team.project, [{"id": ids["4"], "arm": "active"}, {"id": ids["2"], "arm": "random"}])
    assert team.keys_done_by("ann")[:2] == ["4", "2"]
    assert team.item("4").arm == "active"
    team.write(items.reorder, team.project, [{"id": ids["5"]}])
    todo = team.keys_done_by("bob")
    assert todo[0] == "5" or begun[0].item == ids["5"]
    assert len(todo) == 5


def test_who_is_done_does_not_look_at_the_queue_again(sqlite_store):
    """The place of somebody who is done is the end of the queue, however much there is that others still need."""
    team = Team(sqlite_store, overlap=5)
    team.join("ann", "bob")
    team.publish(*range(20))
    team.keys_done_by("ann")
    freed = team.task("bob")
    team.skip("bob", freed)
    assert team.claim("ann") == []
    end, place = (
        team.read(lambda connection, query=query: connection.execute(query).scalar())
        for query in (select(func.max(item_rows.c.place)), select(members.c.place).where(members.c.account == "ann"))
    )
    assert place == end


def test_what_is_published_later_is_found_by_who_was_done(team):
    team.join("ann")
    team.publish("x")
    assert team.keys_done_by("ann") == ["x"]
    team.publish("y")
    assert team.keys_done_by("ann") == ["y"]


def test_withdrawn_items_are_asked_no_more_but_what_is_out_may_be_answered(team):
    team.join("ann", "bob")
    team.publish("x", "y", overlap=2)
    task = team.task("ann")
    both = [team.item("x").id, team.item("y").id]
    assert team.write(items.withdraw, team.project, both) == 2
    assert team.write(items.withdraw, team.project, both) == 0
    assert team.claim("bob") == []
    assert not team.submit("ann", task).late
    assert len(team.records()) == 1


def test_only_members_get_tasks_and_only_their_own(team):
    team.join("ann")
    team.publish("x")
    with pytest.raises(StoreError, match="no member"):
        team.claim("bob")
    with pytest.raises(StoreError, match="no project"):
        team.write(queue.claim, "nowhere", "ann", now=team.now)
    ticket = team.task("ann").ticket
    with pytest.raises(StoreError, match="no such task of yours"):
        team.read(queue.get_task, ticket, "bob")


def test_waiting_counts_states_and_missing_labels(team):
    team.join("ann", "bob")
    team.publish("x", "y", overlap=2)
    team.publish("z", overlap=1)
    team.publish("g", gold=RIGHT)
    team.keys_done_by("ann")
    team.task("bob")
    assert team.read(queue.waiting, team.id) == {"open": 1, "taken": 2, "gold": 1, "labels_needed": 2}


def test_skips_say_why_and_are_undone_by_answering(team):
    team.join("ann")
    team.publish("x")
    task = team.task("ann")
    with pytest.raises(ValueError, match="boring"):
        team.skip("ann", task, "boring")
    team.skip("ann", task)
    assert not team.submit("ann", task).late
    with pytest.raises(StoreError, match="is answered"):
        team.skip("ann", task)
    assert team.event_types() == ["skip", "label"]


def test_a_skip_is_taken_back_while_nobody_else_has_the_task(store):
    team = Team(store, overlap=1)
    team.join("ann", "bob")
    team.publish("x")
    task = team.task("ann")
    with pytest.raises(StoreError, match="not skipped"):
        team.undo_skip("ann", task)
    team.skip("ann", task)
    team.undo_skip("ann", task)
    assert team.task("ann").ticket == task.ticket
    assert team.claim("bob") == []
    with pytest.raises(StoreError, match="not skipped"):
        team.undo_skip("ann", task)
    team.skip("ann", task)
    team.task("bob")
    with pytest.raises(StoreError, match="others have this task by now"):
        team.undo_skip("ann", task)
    assert team.event_types() == ["skip", "undo", "skip"]


def test_a_skip_that_was_taken_back_sends_nothing_to_an_expert(team):
    """Neither the first that says so, nor the second, which had sent it there already."""
    team.join("ann", "abe", "bob")
    team.publish("x")
    ann, abe = team.task("ann"), team.task("abe")
    team.skip("ann", ann, "needs_expert")
    team.undo_skip("ann", ann)
    team.skip("abe", abe, "needs_expert")
    assert team.item("x").skill is None
    team.skip("ann", ann, "needs_expert")
    assert team.item("x").skill == "expert" and team.claim("bob") == []
    team.undo_skip("ann", ann)
    assert team.item("x").skill is None
    assert team.keys_done_by("bob") == ["x"]


def test_a_flag_counts_once_and_changes_nothing_else(team):
    team.join("ann")
    team.publish("x")
    task = team.task("ann")
    for _ in range(2):
        team.write(labels.flag, task.ticket, "ann", uid="flag-one", note="Names a person.", now=team.now)
    assert team.item("x").flags == 1
    assert team.event_types() == ["flag"]
    assert team.task("ann") == task


def test_tallies_are_what_counting_the_items_gives(store):
    """After all that happens to items: given out, answered, taken back, run out, withdrawn, asked once more."""
    team = Team(store, overlap=2, gold_share=0.5)
    team.join("ann", "bob")
    team.publish(*range(8))
    team.publish("g", gold=RIGHT)
    for _ in range(3):
        last = team.label("ann")
        team.label("bob")
    team.undo("ann", last.uid)
    team.skip("bob", team.task("bob"))
    team.claim("bob", tasks=2)
    team.now += 60 * 31
    team.write(queue.expire, now=team.now)
    team.write(items.withdraw, team.project, [team.item("7").id])
    team.write(items.change_items, [{"id": team.item("0").id, "overlap": 5, "state": "open"}])
    more = [team.item(key).id for key in map(str, range(8)) if team.item(key).labels]
    team.write(items.change_items, [{"id": id, "overlap": 0} for id in more])  # as of items that were gold
    Team(store).publish("of another project")
    names = ("count", "labels", "wanted")
    wanted = case((item_rows.c.labels > item_rows.c.overlap, item_rows.c.labels), else_=item_rows.c.overlap)
    sums = (func.count(), func.sum(item_rows.c.labels), func.sum(wanted))
    query = select(item_rows.c.state, *sums).where(item_rows.c.project == team.id).group_by(item_rows.c.state)
    counted = {row[0]: dict(zip(names, row[1:], strict=True)) for row in team.read(lambda c: c.execute(query).all())}
    query = select(tallies.c.state, tallies.c["items"], tallies.c.labels, tallies.c.wanted)
    query = query.where(tallies.c.project == team.id)
    kept = {row[0]: dict(zip(names, row[1:], strict=True)) for row in team.read(lambda c: c.execute(query).all())}
    assert {state: row for state, row in kept.items() if row["count"]} == counted
    assert {"open", "gold", "withdrawn"} <= set(counted)
    assert all(set(row.values()) == {0} for row in kept.values() if not row["count"])
