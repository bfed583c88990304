"""What people say, as events that are only ever added. "Current" is a view of them (`current_labels`)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, bindparam, null, select, update

from loopwright.errors import StoreError
from loopwright.feedback.forms import Answer, Asked, ComparisonAnswer
from loopwright.feedback.items import OFF_TOPIC, POLICIES
from loopwright.feedback.kinds import FORMS, read_answer, to_records
from loopwright.feedback.store.chain import append
from loopwright.feedback.store.exclusions import count_anew, usable
from loopwright.feedback.store.frozen import frozen
from loopwright.feedback.store.items import asked
from loopwright.feedback.store.prepared import Prepared
from loopwright.feedback.store.projects import Project
from loopwright.feedback.store.queue import Task, get_task, get_task_for, may_take_back
from loopwright.feedback.store.slots import free_slot, offer_again, take_slot
from loopwright.feedback.store.tables import accounts, assignments, current_labels, events, items
from loopwright.feedback.store.uids import check_uid, known, sent_before
from loopwright.schemas import Record

SKIP_REASONS = ("unclear_prompt", "needs_expert", "broken_text", "upsetting", "cannot_judge")
EXPERT = "expert"  # the skill that an item needs once two people said so
ROUTED = "needs"  # in the skip that said so second: the skill


class Label(NamedTuple):
    """What became of a submitted answer."""

    uid: str
    ticket: str
    late: bool  # it is kept, and does not count: the item had run out and others filled its slots


def submit(
    connection: Connection,
    ticket: str,
    account: str,
    *,
    uid: str,
    answer: Mapping[str, Any],
    seconds: float | None,
    now: float,
) -> Label:
    """Store an answer to a task; for a task that was answered before, store it as an edit.

    Args:
        uid: made by the client. The same one again does nothing and gives the same result.

    Raises:
        StoreError: there is no such task, or its label is frozen.
        ValueError: the answer is none to this item.
    """
    task, sent, newest = get_task_for(connection, ticket, account, check_uid(uid))
    if sent is not None:
        return Label(uid, ticket, known(sent, ("label", "late"), account, task.item) == "late")
    if seconds is not None and not 0 <= seconds < math.inf:
        raise ValueError(f"seconds is a time on task, not {seconds}")
    given = read_answer(task.project.config.kind, answer, task.asked)
    before = None
    if task.state == "labeled" or task.has_exclusions:  # who gave a label that counts no more may have been asked again
        before = _current(connection, task.item, account)
    late = False
    if task.state == "labeled" and before is not None:
        _not_frozen(connection, before)
    elif task.state != "leased":
        late = not take_slot(connection, task.item)
    if late:
        before = None
    said: dict[str, Any] = {"uid": uid, "type": "late" if late else "label", "seconds": seconds, "at": now}
    append(connection, events, newest=newest, **said, supersedes=before, **_content(task, given))
    if late:
        return Label(uid, ticket, late)
    if task.state != "labeled":
        _ANSWERED.run(connection, of_ticket=ticket)
        _COUNT_LABEL.run(connection, of_item=task.item)
    if task.has_exclusions:  # of a day that was left out, for instance
        count_anew(connection, task.project.id, current_labels.c.item == task.item)
        offer_again(connection, task.item)
    return Label(uid, ticket, late)


def undo(connection: Connection, label_uid: str, account: str, *, uid: str, now: float) -> str:
    """Take a label back: its task is open again, with the answer as its draft. The task's ticket.

    Raises:
        StoreError: it is no current label of the account, it is frozen or left out, or the account has enough tasks
            open already.
    """
    mine = (events.c.uid == label_uid) & (events.c.account == account) & (events.c.type == "label")
    label = connection.execute(select(events).where(mine)).first()
    if label is None:
        raise StoreError("there is no such label of yours")
    of_task = (assignments.c.item == label.item) & (assignments.c.account == account)
    ticket = str(connection.execute(select(assignments.c.ticket).where(of_task)).scalar_one())
    task = get_task(connection, ticket, account)
    project = task.project
    if sent_before(connection, uid, ("undo",), account, label.item) is not None:
        return ticket
    if _current(connection, label.item, account) != label.id:
        raise StoreError("this label was changed or taken back already; look at your history")
    if task.state != "labeled":
        raise StoreError("this label counts no more, so there is nothing to take back")
    _not_frozen(connection, label.id)
    if not may_take_back(connection, project, account):
        raise StoreError("finish the tasks that you have open first, then take this label back")
    append(
        connection, events, uid=uid, type="undo", project=label.project, item=label.item, account=account,
        supersedes=label.id, at=now,
    )  # fmt: skip
    until = now + 60.0 * project.config.lease_minutes
    connection.execute(update(assignments).where(of_task).values(state="leased", draft=label.answer, until=until))
    count = {items.c.labels: items.c.labels - 1, items.c.leases: items.c.leases + 1}
    connection.execute(update(items).where(items.c.id == label.item).values(count))
    return ticket


def skip(
    connection: Connection, ticket: str, account: str, *, uid: str, reason: str, note: str | None, now: float
) -> None:
    """Give a task back with a reason. What two people say needs an expert goes to those with that skill only.

    Raises:
        StoreError: there is no such open task.
        ValueError: the reason is none.
    """
    if reason not in SKIP_REASONS:
        raise ValueError(f"{reason!r} is not one of {', '.join(SKIP_REASONS)}")
    task = get_task(connection, ticket, account)
    if sent_before(connection, uid, ("skip",), account, task.item) is not None:
        return
    if task.state == "labeled":
        raise StoreError("this task is answered; undo that first")
    if task.state == "leased":
        free_slot(connection, task.item)
    skipped = update(assignments).where(assignments.c.ticket == task.ticket).values(state="skipped", draft=null())
    connection.execute(skipped)
    said = {"reason": reason, "note": note}
    if reason == "needs_expert" and _others_said(connection, reason, task):
        alone = (items.c.id == task.item) & items.c.skill.is_(None)
        if connection.execute(update(items).where(alone).values(skill=EXPERT)).rowcount:
            offer_again(connection, task.item)
            said[ROUTED] = EXPERT
    _note(connection, "skip", task, uid=uid, answer=said, now=now)


def undo_skip(connection: Connection, ticket: str, account: str, *, uid: str, now: float) -> None:
    """Have a skipped task open again, and its skip count for nothing.

    Raises:
        StoreError: there is no such task, it is not skipped, others have it by now, or the account has enough open.
    """
    task = get_task(connection, ticket, account)
    if sent_before(connection, uid, ("undo",), account, task.item) is not None:
        return
    mine = _skips().where(events.c.item == task.item, events.c.account == account)
    skipped = connection.execute(mine.order_by(events.c.id.desc()).limit(1)).first()
    if task.state != "skipped" or skipped is None:
        raise StoreError("this task is not skipped")
    if not may_take_back(connection, task.project, account):
        raise StoreError("finish the tasks that you have open first, then take this one back")
    if not take_slot(connection, task.item):
        raise StoreError("others have this task by now, so it cannot be taken back")
    append(
        connection, events, uid=uid, type="undo", project=task.project.id, item=task.item, account=account,
        supersedes=skipped.id, at=now,
    )  # fmt: skip
    until = now + 60.0 * task.project.config.lease_minutes
    of_task = update(assignments).where(assignments.c.ticket == task.ticket)
    connection.execute(of_task.values(state="leased", until=until))
    if skipped.answer.get(ROUTED) == EXPERT:
        expert = (items.c.id == task.item) & (items.c.skill == EXPERT)
        connection.execute(update(items).where(expert).values(skill=None))
        offer_again(connection, task.item)


def _others_said(connection: Connection, reason: str, task: Task) -> bool:
    skips = _skips().where(events.c.item == task.item, events.c.account != task.account)
    return any(row.answer["reason"] == reason for row in connection.execute(skips))


def _skips() -> Select[tuple[int, Any]]:
    """Those that nobody took back."""
    later = events.alias("later")
    undone = select(later.c.id).where(later.c.supersedes == events.c.id).exists()
    return select(events.c.id, events.c.answer).where(events.c.type == "skip", ~undone)


def flag(connection: Connection, ticket: str, account: str, *, uid: str, note: str, now: float) -> None:
    """Say that something is the matter with an item; it stays where it is, and its project's managers see it."""
    task = get_task(connection, ticket, account)
    if sent_before(connection, uid, ("flag",), account, task.item) is None:
        connection.execute(update(items).where(items.c.id == task.item).values(flags=items.c.flags + 1))
        _note(connection, "flag", task, uid=uid, answer={"note": note}, now=now)


class Said(NamedTuple):
    """A current label, with what it was said of."""

    id: int
    uid: str
    item: int
    ticket: str | None
    account: str
    annotator: str
    asked: Asked
    answer: dict[str, Any]
    at: float


def history(connection: Connection, project: Project, account: str, *, last: int = 20) -> list[Said]:
    """A labeler's own newest labels, newest first."""
    of_label = (assignments.c.item == current_labels.c.item) & (assignments.c.account == current_labels.c.account)
    query = _said(project).add_columns(assignments.c.ticket).outerjoin(assignments, of_label)
    query = query.where(current_labels.c.account == account).order_by(current_labels.c.id.desc()).limit(last)
    return [_as_said(project, row) for row in connection.execute(query)]


def records(
    connection: Connection, project: Project, *, batch: str | None = None, after: int = 0
) -> Iterator[tuple[int, str, str, Record]]:
    """(event id, uid, file, record) of every label that counts: current, not excluded, not of a gold item.

    Args:
        batch: only what was said of items published under this name.
        after: only events with a greater id.
    """
    query = _said(project).where(current_labels.c.id > after, items.c.gold.is_(None), usable(connection, project.id))
    if batch is not None:
        query = query.where(items.c.batch == batch)
    rows = connection.execution_options(yield_per=2_000).execute(query.order_by(current_labels.c.id))
    for row in rows:
        for kind, record in _records(project, row):
            yield row.id, row.uid, kind, record


def _records(project: Project, row: Row[*tuple[Any, ...]]) -> Iterator[tuple[str, Record]]:
    form = FORMS[project.config.kind]
    known = row.order_shown is not None  # of what was imported it may not be
    as_seen = asked(project, row, row.order_shown if known else range(len(row.responses)))
    made = to_records(
        project.config.kind,
        form.answer.model_validate(row.answer),
        as_seen,
        id=row.uid,
        annotator=row.annotator,
        seconds=row.seconds,
        guideline=None if row.guideline is None else str(row.guideline),
        policy=row.policy,
        policies=tuple(row.tags.get(POLICIES, ())),
        off_topic=tuple(row.tags.get(OFF_TOPIC, ())),
        reward_model=row.reward_model,
        selection_probability=row.selection_probability,
        created=datetime.fromtimestamp(row.at, UTC).isoformat(timespec="milliseconds"),
        **({} if known else {"order_shown": None}),
    )
    yield from zip(form.makes, made, strict=False) if len(form.makes) > 1 else ((form.makes[0], one) for one in made)


def _said(project: Project) -> Any:
    return (
        select(
            current_labels,
            accounts.c.name.label("annotator"),
            items.c.prompt,
            items.c.responses,
            items.c.tags,
            items.c.policy,
            items.c.reward_model,
            items.c.selection_probability,
        )
        .join(items, items.c.id == current_labels.c.item)
        .join(accounts, accounts.c.id == current_labels.c.account)
        .where(current_labels.c.project == project.id)
    )


def _as_said(project: Project, row: Row[*tuple[Any, ...]]) -> Said:
    seen = asked(project, row, row.order_shown)
    return Said(row.id, row.uid, row.item, row.ticket, row.account, row.annotator, seen, row.answer, row.at)


def _current(connection: Connection, item: int, account: str) -> int | None:
    return connection.execute(_CURRENT, {"item": item, "account": account}).scalar()


def _not_frozen(connection: Connection, label: int) -> None:
    if frozen(connection, [label]):
        raise StoreError(
            "this label is frozen: a model was trained on it; ask a manager to exclude it if it must not count"
        )


def _content(task: Task, answer: Answer) -> dict[str, Any]:
    """What an event says of a label."""
    first_won, longer_won = pulls(answer, task.asked)
    return {
        "project": task.project.id, "item": task.item, "account": task.account,
        "answer": answer.model_dump(mode="json", exclude_defaults=True), "order_shown": list(task.asked.order),
        "guideline": task.guideline, "vote": answer.vote(task.asked), "first_won": first_won, "longer_won": longer_won,
    }  # fmt: skip


def pulls(answer: Answer, seen: Asked) -> tuple[bool | None, bool | None]:
    """Whether the answer shown first won, and whether the longer one did; None: neither did, or there is none."""
    if not isinstance(answer, ComparisonAnswer) or answer.choice is None:
        return None, None
    lengths: Sequence[int] = [len(seen.responses[place]) for place in seen.order]
    longer = None if lengths[0] == lengths[1] else lengths[answer.choice] == max(lengths)
    return answer.choice == 0, longer


def _note(connection: Connection, type: str, task: Task, *, uid: str, answer: dict[str, Any], now: float) -> None:
    append(
        connection, events, uid=uid, type=type, project=task.project.id, item=task.item, account=task.account,
        answer=answer, order_shown=list(task.asked.order), guideline=task.guideline, at=now,
    )  # fmt: skip


# -- the statements of each label --------------------------------------------------------------------------------------

_CURRENT = select(current_labels.c.id).where(
    current_labels.c.item == bindparam("item"), current_labels.c.account == bindparam("account")
)
_ANSWERED = Prepared(
    update(assignments).where(assignments.c.ticket == bindparam("of_ticket")).values(state="labeled", draft=null())
)
_COUNT_LABEL = Prepared(
    update(items).where(items.c.id == bindparam("of_item")).values(labels=items.c.labels + 1, leases=items.c.leases - 1)
)
