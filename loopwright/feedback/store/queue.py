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
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, case, func, insert, or_, select, update

from loopwright.errors import StoreError
from loopwright.feedback.kinds import Asked
from loopwright.feedback.store.exclusions import would_count
from loopwright.feedback.store.items import asked
from loopwright.feedback.store.projects import PROJECT_COLUMNS, Project, get_project, new_id, project_of
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
    expire(connection, now=now)
    member = _member(connection, project_id, account)
    before = (member.walk, member.place, member.claims)
    held = [_task(row) for row in connection.execute(_HELD, {"project": project_id, "account": account})]
    asked_for = min(tasks, MOST_HELD) if member.project.state == "open" else 0
    if member.has_exclusions and not would_count(connection, project_id, account, member.guideline, now=now):
        asked_for = 0
    while len(held) < asked_for:
        found = _pick(connection, member)
        if found is None:
            break
        held.append(_lease(connection, member, found, now=now))
    if (after := (member.walk, member.place, member.claims)) != before:
        names = ("of_project", "of_account", "to_walk", "to_place", "to_claims")
        connection.execute(_WALKED, dict(zip(names, (project_id, account, *after), strict=True)))
    return held


def expire(connection: Connection, *, now: float) -> int:
    """Take back what was out for too long; how many tasks."""
    rows = connection.execute(_LATE, {"now": now}).all()
    for ticket, item in rows:
        connection.execute(update(assignments).where(assignments.c.ticket == ticket).values(state="expired"))
        free_slot(connection, item)
    return len(rows)


def get_task(connection: Connection, ticket: str, account: str) -> Task:
    """Raises StoreError where the account has no such task, or is no member any more: which of these is not said."""
    row = connection.execute(_BY_TICKET, {"ticket": ticket, "account": account}).first()
    if row is None:
        raise StoreError("there is no such task of yours")
    return _task(row)


def save_draft(connection: Connection, task: Task, draft: dict[str, Any], *, now: float) -> float:
    """Keep what is on the screen, and the task for as long again.

    Until when; `now` where the task was lost: its time was over, and others do it, or its labeler has enough open.
    """
    values: dict[str, Any] = {"draft": draft}
    if task.state == "expired" and may_take_back(connection, task.project, task.account):
        state = "leased" if take_slot(connection, task.item) else "expired"
    else:
        state = task.state
    until = now if state == "expired" else now + 60.0 * task.project.config.lease_minutes
    values |= {"state": state, "until": until}
    connection.execute(update(assignments).where(assignments.c.ticket == task.ticket).values(**values))
    return until


def may_take_back(connection: Connection, project: Project, account: str) -> bool:
    """Whether a task of before may be opened again: one beside those that are fetched early.

    Answers to one's own questions are in nobody's way, however many there are.
    """
    held = connection.execute(_COUNT_HELD, {"project": project.id, "account": account}).scalar_one()
    return project.config.talks or held <= MOST_HELD


def free_slot(connection: Connection, item: int) -> None:
    """A lease is over: the item needs somebody again."""
    connection.execute(update(items).where(items.c.id == item).values(leases=items.c.leases - 1))
    full = (items.c.id == item) & (items.c.state == "taken") & (items.c.labels + items.c.leases < items.c.overlap)
    connection.execute(update(items).where(full).values(state="open"))
    offer_again(connection, item)


def take_slot(connection: Connection, item: int) -> bool:
    """One more lease of an item, if it needs one. Gold items, and answers to one's own questions, take any number."""
    return bool(connection.execute(_TAKE_SLOT, {"item": item}).rowcount)


def offer_again(connection: Connection, item: int) -> None:
    """An item can be had again, or by others than before: who passed it, and does not have it or did it, goes back."""
    project, place = connection.execute(select(items.c.project, items.c.place).where(items.c.id == item)).one()
    seen = select(assignments.c.item).where(
        assignments.c.item == item, assignments.c.account == members.c.account, assignments.c.state != "expired"
    )
    passed = (members.c.project == project) & (members.c.place >= place) & ~seen.exists()
    connection.execute(update(members).where(passed).values(place=place - 1))


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
    guideline: int | None
    walk: str  # of which queue, and with which skills: another walk starts anew
    place: int
    claims: int  # tasks ever given out
    has_exclusions: bool


def _member(connection: Connection, project_id: str, account: str) -> _Member:
    row = connection.execute(_MEMBER, {"project": project_id, "account": account}).first()
    if row is None:
        project = get_project(connection, project_id)
        raise StoreError(f"account {account} is no member of project {project.name}")
    project = project_of(row)
    walk = f"{project.queue}/{','.join(sorted(row.skills))}"
    place = BEFORE_ALL if row.place is None or row.walk != walk else row.place
    return _Member(project, account, row.skills, row.guideline, walk, place, row.claims, row.has_exclusions)


def _pick(connection: Connection, member: _Member) -> Row[*tuple[Any, ...]] | None:
    """The next item for this person: now and then a gold one, else the first in the queue not yet seen."""
    config = member.project.config
    able = {"project": member.project.id, "account": member.account, "skills": member.skills}
    draw = random.Random(f"{config.seed}/gold/{member.account}/{member.claims}")
    if config.gold_share and draw.random() < config.gold_share:
        found = connection.execute(_NEXT, {**able, "item_state": "gold", "after": BEFORE_ALL}).first()
        if found is not None:
            return found
    found = connection.execute(_NEXT, {**able, "item_state": "open", "after": member.place}).first()
    if found is not None:
        member.place = found.place
    else:  # whatever is open is not for this person: no need to look at all of it again
        end = connection.execute(_END, {"project": member.project.id}).scalar()
        member.place = member.place if end is None else max(end, member.place)
    return found


def _lease(connection: Connection, member: _Member, found: Row[*tuple[Any, ...]], *, now: float) -> Task:
    project, account, item = member.project, member.account, found.id
    if not take_slot(connection, item):
        raise AssertionError(f"item {item} was open and has no slot")
    order = shown_order(project, item, account, len(found.responses))
    ticket, until = found.ticket or new_id(), now + 60.0 * project.config.lease_minutes
    lease = {
        "state": "leased", "order_shown": order, "guideline": member.guideline, "opened": now, "until": until,
    }  # fmt: skip
    if found.ticket is None:
        row = {**lease, "item": item, "account": account, "project": project.id, "ticket": ticket}
        connection.execute(_NEW_LEASE, row)
    else:  # they had it, and it ran out: who comes back to an old page finds it
        connection.execute(update(assignments).where(assignments.c.ticket == ticket).values(**lease))
    member.claims += 1
    return Task(
        ticket, project, item, account, "leased", asked(project, found, order), member.guideline,
        now, until, found.draft, found.gold, found.policy, found.reward_model, found.selection_probability,
        member.has_exclusions,
    )  # fmt: skip


def _task(row: Row[*tuple[Any, ...]]) -> Task:
    project = project_of(row)
    return Task(
        row.ticket, project, row.item, row.account, row.state, asked(project, row, row.order_shown), row.guideline,
        row.opened, row.until, row.draft, row.gold, row.policy, row.reward_model, row.selection_probability,
        row.has_exclusions,
    )  # fmt: skip


# -- the statements of each label, built once: building them takes longer than the database needs for them -------------

_OF_ITEM = (
    items.c.prompt, items.c.responses, items.c.gold, items.c.policy, items.c.reward_model,
    items.c.selection_probability,
)  # fmt: skip

_EXCLUDED = select(events.c.id).where(events.c.project == projects.c.id, events.c.type == "exclude")
_HAS_EXCLUSIONS = _EXCLUDED.exists().label("has_exclusions")

_TASKS = (
    select(assignments, *_OF_ITEM, *PROJECT_COLUMNS, _HAS_EXCLUSIONS)
    .join(items, items.c.id == assignments.c.item)
    .join(projects, projects.c.id == assignments.c.project)
    .join(members, and_(members.c.project == assignments.c.project, members.c.account == assignments.c.account))
    .where(assignments.c.account == bindparam("account"))
)
_BY_TICKET = _TASKS.where(assignments.c.ticket == bindparam("ticket"))
_HELD = _TASKS.where(assignments.c.project == bindparam("project"), assignments.c.state == "leased").order_by(
    assignments.c.opened, assignments.c.item
)
_COUNT_HELD = select(func.count()).where(
    assignments.c.account == bindparam("account"),
    assignments.c.project == bindparam("project"),
    assignments.c.state == "leased",
)

_MEMBER = (
    select(
        *PROJECT_COLUMNS, members.c.walk, members.c.place, members.c.claims, accounts.c.skills,
        select(func.max(guidelines.c.version)).where(guidelines.c.project == members.c.project).scalar_subquery()
        .label("guideline"),
        _HAS_EXCLUSIONS,
    )
    .join(projects, projects.c.id == members.c.project)
    .join(accounts, accounts.c.id == members.c.account)
    .where(members.c.project == bindparam("project"), members.c.account == bindparam("account"))
)  # fmt: skip
_WALKED = (
    update(members)
    .where(members.c.project == bindparam("of_project"), members.c.account == bindparam("of_account"))
    .values(walk=bindparam("to_walk"), place=bindparam("to_place"), claims=bindparam("to_claims"))
)

_NEXT = (
    select(items.c.id, items.c.place, *_OF_ITEM, assignments.c.ticket, assignments.c.draft)
    .outerjoin(assignments, and_(assignments.c.item == items.c.id, assignments.c.account == bindparam("account")))
    .where(
        items.c.project == bindparam("project"),
        items.c.state == bindparam("item_state"),
        items.c.place > bindparam("after"),
        or_(assignments.c.state.is_(None), assignments.c.state == "expired"),
        or_(items.c.skill.is_(None), items.c.skill.in_(bindparam("skills", expanding=True))),
    )
    .order_by(items.c.place)
    .limit(1)
)
_END = select(func.max(items.c.place)).where(items.c.project == bindparam("project"), items.c.state == "open")

_OUT = items.c.labels + items.c.leases
_TAKE_SLOT = (
    update(items)
    .where(
        items.c.id == bindparam("item"),
        or_(items.c.state.in_(("gold", "own")), and_(items.c.state == "open", items.c.overlap > _OUT)),
    )
    .values(
        leases=items.c.leases + 1,
        state=case((and_(items.c.state == "open", items.c.overlap <= _OUT + 1), "taken"), else_=items.c.state),
    )
)
_NEW_LEASE = insert(assignments)
_LATE = (
    select(assignments.c.ticket, assignments.c.item)
    .where(assignments.c.state == "leased", assignments.c.until <= bindparam("now"))
    .order_by(assignments.c.until)
    .limit(EXPIRED_AT_ONCE)
)
