"""Who gets what: each item goes to exactly as many people as it needs, never twice to the same.

An item is out while somebody has it: a lease. Labels and leases together never exceed its overlap, so nobody works for
nothing. A lease that runs out gives its slot back. Writes happen one after another (`database`), so what is read here
stays true until the transaction ends.

Everybody walks through the queue once: a member's `place` says how far, so that what is behind is not looked at again.
An item that somebody gives back takes those who passed it back to it.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from loopwright.errors import StoreError
from loopwright.feedback.forms import Asked
from loopwright.feedback.store.chain import newest_hash
from loopwright.feedback.store.exclusions import would_count
from loopwright.feedback.store.items import asked
from loopwright.feedback.store.prepared import Prepared
from loopwright.feedback.store.projects import (
    PROJECT_COLUMNS,
    Project,
    get_project,
    new_id,
    project_of,
    unseen_guideline,
)
from loopwright.feedback.store.slots import OF_ITEM, free_slot, take_next, take_slot
from loopwright.feedback.store.tables import (
    accounts,
    assignments,
    events,
    guidelines,
    items,
    members,
    projects,
    tallies,
)
from loopwright.feedback.store.uids import Sent

MOST_HELD = 2  # tasks that one person may have open: the one on the screen, and the next
EXPIRED_AT_ONCE = 100
BEFORE_ALL = -(2**62)  # a place


class Task(NamedTuple):
    """An item in somebody's hands."""

    ticket: str
    project: Project
    item: int
    account: str
    state: str
    asked: Asked
    guideline: int | None
    opened: float
    until: float
    draft: dict[str, Any] | None
    gold: dict[str, Any] | None
    policy: str | None
    reward_model: str | None
    selection_probability: float
    has_exclusions: bool  # labels of its project were left out at some time


def claim(connection: Connection, project_id: str, account: str, *, now: float, tasks: int = 1) -> list[Task]:
    """The tasks that a member has open, and new ones until there are `tasks` (at most two), oldest first.

    Whoever cannot give a label that counts is given none.

    Raises:
        StoreError: no such project or no member of it.
    """
    return _claimed(connection, *_member(connection, project_id, account, now=now), now=now, tasks=tasks)


def claim_or_guideline(
    connection: Connection, project_id: str, account: str, *, now: float, tasks: int
) -> tuple[list[Task], int | None]:
    """As `claim`; for whoever has not acknowledged the newest guideline no tasks, and its version."""
    try:
        member, held = _member(connection, project_id, account, now=now)
    except StoreError:  # an administrator may read the guideline of any project
        if (unseen := unseen_guideline(connection, project_id, account)) is None:
            raise
        return [], unseen
    if member.guideline != member.acknowledged:
        return [], member.guideline
    return _claimed(connection, member, held, now=now, tasks=tasks), None


def _claimed(connection: Connection, member: "_Member", held: list[Task], *, now: float, tasks: int) -> list[Task]:
    project, account = member.project, member.account
    before = (member.walk, member.place, member.claims)
    asked_for = min(tasks, MOST_HELD) if project.state == "open" else 0
    if member.has_exclusions and not would_count(connection, project.id, account, member.guideline, now=now):
        asked_for = 0
    while len(held) < asked_for:
        found = _take(connection, member)
        if found is None:
            break
        held.append(_lease(connection, member, found, now=now))
    if (after := (member.walk, member.place, member.claims)) != before:
        to = dict(zip(("to_walk", "to_place", "to_claims"), after, strict=True))
        _WALKED.run(connection, of_project=project.id, of_account=account, **to)
    return held


def expire(connection: Connection, *, now: float) -> int:
    """Take back what was out for too long; how many tasks."""
    rows = _LATE.all(connection, now=now)
    for ticket, item in rows:
        connection.execute(update(assignments).where(assignments.c.ticket == ticket).values(state="expired"))
        free_slot(connection, item)
    return len(rows)


def get_task(connection: Connection, ticket: str, account: str) -> Task:
    """Raises StoreError where the account has no such task, or is no member any more: which of these is not said.

    Administrators may work everywhere.
    """
    return _theirs(_BY_TICKET.first(connection, ticket=ticket, account=account))


def get_task_for(connection: Connection, ticket: str, account: str, uid: str) -> tuple[Task, Sent | None, str | None]:
    """Also what was made from this uid before (None: nothing), and the hash of the newest event."""
    row = _BY_TICKET_AND_UID.first(connection, ticket=ticket, account=account, uid=uid)
    task = _theirs(row)
    return task, None if row.sent_type is None else Sent(row.sent_type, row.sent_account, row.sent_item), row.newest


def _theirs(row: Any) -> Task:
    if row is None:
        raise StoreError("there is no such task of yours")
    return _task(row)


def save_draft(connection: Connection, task: Task, draft: dict[str, Any], *, now: float) -> float:
    """Keep what is on the screen, and the task for as long again.

    Until when; `now` where the task was lost: its time was over, and others do it, or its labeler has enough open.
    """
    if task.state == "expired" and may_take_back(connection, task.project, task.account):
        state = "leased" if take_slot(connection, task.item) else "expired"
    else:
        state = task.state
    until = now if state == "expired" else now + 60.0 * task.project.config.lease_minutes
    _DRAFT.run(connection, of_ticket=task.ticket, to_draft=draft, to_state=state, to_until=until)
    return until


def may_take_back(connection: Connection, project: Project, account: str) -> bool:
    """Whether a task of before may be opened again: one beside those that are fetched early.

    Answers to one's own questions are in nobody's way, however many there are.
    """
    held = _COUNT_HELD.one(connection, project=project.id, account=account).count
    return project.config.talks or held <= MOST_HELD


def shown_order(project: Project, item: int, account: str, responses: int) -> list[int]:
    """The order in which a labeler sees an item's responses: drawn for the two of them, the same each time."""
    key = hashlib.sha256(f"{project.config.seed}/order/{account}/{item}".encode()).digest()
    return random.Random(key).sample(range(responses), responses)


def waiting(connection: Connection, project: str) -> dict[str, int]:
    """How many items are in each state, and how many labels they still need."""
    query = select(tallies).where(tallies.c.project == project, tallies.c["items"] > 0)
    rows = connection.execute(query).mappings().all()
    counts = {row["state"]: row["items"] for row in rows}
    needed = sum(row["wanted"] - row["labels"] for row in rows if row["state"] in ("open", "taken"))
    return {**counts, "labels_needed": needed}


@dataclass
class _Member:
    """One person's way through one project's queue, while a claim lasts."""

    project: Project
    account: str
    skills: list[str]
    guideline: int | None  # the newest
    acknowledged: int | None
    walk: str  # of which queue, and with which skills: another walk starts anew
    place: int
    claims: int  # tasks ever given out
    has_exclusions: bool


def _member(connection: Connection, project_id: str, account: str, *, now: float) -> tuple[_Member, list[Task]]:
    """A member, and the tasks that they have open; what was out for too long, whoever had it, is taken back before."""
    mine = {"project": project_id, "account": account}
    row = _MEMBER.first(connection, **mine, now=now)
    if row is None:
        project = get_project(connection, project_id)
        raise StoreError(f"account {account} is no member of project {project.name}")
    if row.late:
        expire(connection, now=now)
        row = _MEMBER.one(connection, **mine, now=now)
    project = project_of(row)
    walk = f"{project.queue}/{','.join(sorted(row.skills))}"
    place = BEFORE_ALL if row.place is None or row.walk != walk else row.place
    held = [_task(one) for one in _HELD.all(connection, **mine)] if row.holds else []
    member = _Member(
        project, account, row.skills, row.guideline, row.acknowledged, walk, place, row.claims, row.has_exclusions
    )
    return member, held


def _take(connection: Connection, member: _Member) -> Any:
    """A slot of the next item for this person: now and then a gold one, else the first in the queue not yet seen."""
    config = member.project.config
    take = partial(take_next, connection, member.project.id, member.account, skills=member.skills)
    draw = random.Random(f"{config.seed}/gold/{member.account}/{member.claims}") if config.gold_share else None
    if draw is not None and draw.random() < config.gold_share:
        found = take(state="gold", after=BEFORE_ALL)
        if found is not None:
            return found
    found = take(state="open", after=member.place)
    if found is not None:
        member.place = found.place
    else:  # whatever is open is not for this person: no need to look at all of it again
        end = _END.one(connection, project=member.project.id).place
        member.place = member.place if end is None else max(end, member.place)
    return found


def _lease(connection: Connection, member: _Member, found: Any, *, now: float) -> Task:
    project, account, item = member.project, member.account, found.id
    order = shown_order(project, item, account, len(found.responses))
    ticket, until = found.ticket or new_id(), now + 60.0 * project.config.lease_minutes
    lease = {"ticket": ticket, "order_shown": order, "guideline": member.guideline, "opened": now, "until": until}
    if found.ticket is None:
        _NEW_LEASE.run(connection, **lease, item=item, account=account, project=project.id)
    else:  # they had it, and it ran out: who comes back to an old page finds it
        _LEASE_AGAIN.run(connection, **{f"of_{name}": value for name, value in lease.items()})
    member.claims += 1
    return Task(
        ticket, project, item, account, "leased", asked(project, found, order), member.guideline,
        now, until, found.draft, found.gold, found.policy, found.reward_model, found.selection_probability,
        member.has_exclusions,
    )  # fmt: skip


def _task(row: Any) -> Task:
    project = project_of(row)
    return Task(
        row.ticket, project, row.item, row.account, row.state, asked(project, row, row.order_shown), row.guideline,
        row.opened, row.until, row.draft, row.gold, row.policy, row.reward_model, row.selection_probability,
        row.has_exclusions,
    )  # fmt: skip


# -- the statements of each label --------------------------------------------------------------------------------------

_EXCLUDED = select(events.c.id).where(events.c.project == projects.c.id, events.c.type == "exclude")
_HAS_EXCLUSIONS = _EXCLUDED.exists().label("has_exclusions")
_LEASED = assignments.c.state == "leased"

_IS_MEMBER = select(members.c.account).where(
    members.c.project == assignments.c.project, members.c.account == assignments.c.account
)
_IS_ADMIN = select(accounts.c.id).where(accounts.c.id == assignments.c.account, accounts.c.role == "admin")

_TASKS = (
    select(assignments, *OF_ITEM, *PROJECT_COLUMNS, _HAS_EXCLUSIONS)
    .join(items, items.c.id == assignments.c.item)
    .join(projects, projects.c.id == assignments.c.project)
    .where(assignments.c.account == bindparam("account"), or_(_IS_MEMBER.exists(), _IS_ADMIN.exists()))
)
_OF_TICKET = _TASKS.where(assignments.c.ticket == bindparam("ticket"))
_BY_TICKET = Prepared(_OF_TICKET)
_SENT = events.alias("sent")
_BY_TICKET_AND_UID = Prepared(
    _OF_TICKET.outerjoin(_SENT, _SENT.c.uid == bindparam("uid")).add_columns(
        _SENT.c.type.label("sent_type"), _SENT.c.account.label("sent_account"), _SENT.c.item.label("sent_item"),
        newest_hash(events).scalar_subquery().label("newest"),
    )
)  # fmt: skip
_HELD = Prepared(
    _TASKS.where(assignments.c.project == bindparam("project"), _LEASED).order_by(
        assignments.c.opened, assignments.c.item
    )
)
_MINE = (assignments.c.account == bindparam("account")) & (assignments.c.project == bindparam("project")) & _LEASED
_COUNT_HELD = Prepared(select(func.count().label("count")).where(_MINE))

_MEMBER = Prepared(
    select(
        *PROJECT_COLUMNS, members.c.walk, members.c.place, members.c.claims, accounts.c.skills,
        members.c.guideline.label("acknowledged"),
        select(func.max(guidelines.c.version)).where(guidelines.c.project == members.c.project).scalar_subquery()
        .label("guideline"),
        _HAS_EXCLUSIONS,
        select(assignments.c.item).where(_LEASED, assignments.c.until <= bindparam("now")).exists().label("late"),
        select(assignments.c.item).where(_MINE).exists().label("holds"),
    )
    .join(projects, projects.c.id == members.c.project)
    .join(accounts, accounts.c.id == members.c.account)
    .where(members.c.project == bindparam("project"), members.c.account == bindparam("account"))
)  # fmt: skip
_WALKED = Prepared(
    update(members)
    .where(members.c.project == bindparam("of_project"), members.c.account == bindparam("of_account"))
    .values(walk=bindparam("to_walk"), place=bindparam("to_place"), claims=bindparam("to_claims"))
)

_END = Prepared(
    select(func.max(items.c.place).label("place")).where(
        items.c.project == bindparam("project"), items.c.state == "open"
    )
)

_NEW_LEASE = Prepared(
    insert(assignments).values(
        {
            name: bindparam(name)
            for name in ("item", "account", "project", "ticket", "order_shown", "guideline", "opened", "until")
        }
        | {"state": "leased"}
    )
)
_LEASE_AGAIN = Prepared(
    update(assignments)
    .where(assignments.c.ticket == bindparam("of_ticket"))
    .values(
        {name: bindparam(f"of_{name}") for name in ("order_shown", "guideline", "opened", "until")}
        | {"state": "leased"}
    )
)
_DRAFT = Prepared(
    update(assignments)
    .where(assignments.c.ticket == bindparam("of_ticket"))
    .values(draft=bindparam("to_draft"), state=bindparam("to_state"), until=bindparam("to_until"))
)
_LATE = Prepared(
    select(assignments.c.ticket, assignments.c.item)
    .where(_LEASED, assignments.c.until <= bindparam("now"))
    .order_by(assignments.c.until)
    .limit(EXPIRED_AT_ONCE)
)
