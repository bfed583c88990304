"""What managers look at: members, items, who said what, progress, the audit log. Only reads."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, case, func, or_, select

from loopwright.feedback.store.projects import Guideline
from loopwright.feedback.store.tables import (
    accounts,
    artifacts,
    audits,
    current_labels,
    events,
    guidelines,
    invitations,
    items,
    members,
    tallies,
    tokens,
    uses,
)

PAGE = 50
ACCOUNTS_AT_ONCE = 1_000
SCANNED = 3_000  # items that a search for text looks at before it says how far it came
ELSEWHERE = "of another project"  # the kind of an artifact that is not this project's business
ASKED = ("open", "taken")  # states of items that are asked for training


class Progress(NamedTuple):
    """How far a project is. Gold and withdrawn items need no labels."""

    items: int
    gold: int
    withdrawn: int
    labels: int
    needed: int  # labels still to come
    flagged: int

    @property
    def share(self) -> float:
        """Of the labels wanted, 0 to 1; 0 where nothing is asked."""
        return self.labels / (self.labels + self.needed) if self.labels + self.needed else 0.0


def progress(connection: Connection, project: str) -> Progress:
    query = select(tallies.c.state, tallies.c["items"], tallies.c.labels, tallies.c.wanted - tallies.c.labels)
    counts = {row[0]: row[1:] for row in connection.execute(query.where(tallies.c.project == project))}
    flagged = connection.execute(
        select(func.count(events.c.item.distinct())).where(events.c.project == project, events.c.type == "flag")
    ).scalar_one()
    asked = [counts[state] for state in ASKED if state in counts]
    return Progress(
        items=sum(one[0] for one in asked),
        gold=counts.get("gold", (0,))[0],
        withdrawn=counts.get("withdrawn", (0,))[0],
        labels=sum(one[1] for one in asked),
        needed=sum(one[2] for one in asked),
        flagged=flagged,
    )


class BatchProgress(NamedTuple):
    items: int
    labels: int  # that count
    wanted: int  # they have or still need
    answering: str | None  # of conversations: the policy that answered last


def batch_progress(connection: Connection, project: str, batch: str) -> BatchProgress:
    """Of the items published under this name; gold and withdrawn ones left out."""
    mine = (items.c.project == project) & (items.c.batch == batch) & items.c.state.in_((*ASKED, "own"))
    more = case((items.c.labels > items.c.overlap, items.c.labels), else_=items.c.overlap)
    query = select(func.count(), func.sum(items.c.labels), func.sum(more)).where(mine)
    count, labels, wanted = connection.execute(query).one()
    answered = select(items.c.policy).where(items.c.project == project, items.c.state == "own")
    newest = connection.execute(answered.order_by(items.c.place.desc()).limit(1)).scalar()
    return BatchProgress(count, labels or 0, wanted or 0, newest)


# -- items -------------------------------------------------------------------------------------------------------------


class ItemRow(NamedTuple):
    """An item, with all that managers may know of it."""

    id: int
    key: str
    state: str
    prompt: list[dict[str, Any]]
    responses: list[str]
    tags: dict[str, Any]
    policy: str | None
    reward_model: str | None
    scores: list[dict[str, Any]] | None
    gold: dict[str, Any] | None
    skill: str | None
    batch: str | None
    arm: str
    selection_probability: float
    overlap: int
    labels: int
    leases: int
    flags: int
    place: int
    created: float


class ItemsPage(NamedTuple):
    rows: list[ItemRow]
    cursor: str | None  # where the next page begins; None: this is the last
    scanned: bool  # a search stopped before the end: the next page may have more


def list_items(  # noqa: PLR0913 -- one argument a filter
    connection: Connection,
    project: str,
    *,
    state: str | None = None,
    batch: str | None = None,
    flagged: bool = False,
    text: str = "",
    cursor: str | None = None,
    most: int = PAGE,
) -> ItemsPage:
    """A page of items, by key; those of one state as they wait in the queue.

    Args:
        text: only items whose key, prompt or answers contain it, whatever the case. At most `SCANNED` are looked at.

    Raises:
        ValueError: the cursor is none.
    """
    order: ColumnElement[Any] = items.c.key if state is None else items.c.place
    query = select(*(items.c[name] for name in ItemRow._fields)).where(items.c.project == project)
    if state is not None:
        query = query.where(items.c.state == state)
        cursor = None if cursor is None else str(int(cursor))
    if batch is not None:
        query = query.where(items.c.batch == batch)
    if flagged:
        ids = set(connection.execute(_flagged(project).limit(SCANNED)).scalars())
        if not ids:
            return ItemsPage([], None, False)
        query = query.where(items.c.id.in_(ids))
    if cursor is not None:
        query = query.where(order > (cursor if state is None else int(cursor)))
    limit = SCANNED if text else most + 1
    found: list[ItemRow] = []
    last, seen, wanted = None, 0, text.casefold()
    for row in connection.execution_options(yield_per=500).execute(query.order_by(order).limit(limit)):
        one = ItemRow(*row)
        if len(found) == most:
            return ItemsPage(found, last, False)
        seen, last = seen + 1, str(one.key if state is None else one.place)
        if not wanted or _contains(one, wanted):
            found.append(one)
    return ItemsPage(found, last if text and seen == SCANNED else None, bool(text) and seen == SCANNED)


def get_item(connection: Connection, project: str, item: int) -> ItemRow | None:
    """None: the project has no such item."""
    mine = (items.c.project == project) & (items.c.id == item)
    row = connection.execute(select(*(items.c[name] for name in ItemRow._fields)).where(mine)).first()
    return None if row is None else ItemRow(*row)


def find_items(connection: Connection, project: str, keys: Sequence[str]) -> dict[str, int]:
    """Key to id, of those that are there."""
    query = select(items.c.key, items.c.id).where(items.c.project == project, items.c.key.in_(keys))
    return {key: id for key, id in connection.execute(query)}


class EventRow(NamedTuple):
    """What one person did with an item."""

    uid: str
    type: str
    account: str
    annotator: str
    answer: dict[str, Any] | None
    order_shown: list[int] | None
    guideline: int | None
    seconds: float | None
    at: float
    current: bool  # a label that was neither edited nor taken back


def item_events(connection: Connection, item: int) -> list[EventRow]:
    """Oldest first."""
    columns = (
        events.c.uid, events.c.type, events.c.account, accounts.c.name, events.c.answer, events.c.order_shown,
        events.c.guideline, events.c.seconds, events.c.at, current_labels.c.id.is_not(None),
    )  # fmt: skip
    query = (
        select(*columns)
        .join(accounts, accounts.c.id == events.c.account)
        .outerjoin(current_labels, current_labels.c.id == events.c.id)
        .where(events.c.item == item)
    )
    return [EventRow(*row) for row in connection.execute(query.order_by(events.c.id))]


def _flagged(project: str) -> Any:
    return select(events.c.item).where(events.c.project == project, events.c.type == "flag").order_by(events.c.id)


def _contains(row: ItemRow, text: str) -> bool:
    return any(text in one.casefold() for one in (row.key, *(turn["content"] for turn in row.prompt), *row.responses))


# -- people ------------------------------------------------------------------------------------------------------------


class MemberRow(NamedTuple):
    account: str
    name: str
    role: str  # in the project
    kind: str  # the account's role: admin, annotator or simulated
    skills: list[str]
    hourly_rate: float | None
    disabled: bool
    guideline: int | None


def list_members(connection: Connection, project: str) -> list[MemberRow]:
    columns = (
        accounts.c.id, accounts.c.name, members.c.role, accounts.c.role, accounts.c.skills, accounts.c.hourly_rate,
        accounts.c.disabled, members.c.guideline,
    )  # fmt: skip
    query = select(*columns).join(members, members.c.account == accounts.c.id).where(members.c.project == project)
    return [MemberRow(*row) for row in connection.execute(query.order_by(accounts.c.name))]


class AccountRow(NamedTuple):
    id: str
    name: str
    role: str
    skills: list[str]
    hourly_rate: float | None
    disabled: bool
    created: float


def list_accounts(connection: Connection, *, after: str = "", most: int | None = None) -> list[AccountRow]:
    """By name."""
    query = select(*(accounts.c[name] for name in AccountRow._fields)).where(accounts.c.name > after)
    rows = connection.execute(query.order_by(accounts.c.name).limit(most or ACCOUNTS_AT_ONCE))
    return [AccountRow(*row) for row in rows]


class InvitationRow(NamedTuple):
    """An invitation that nobody used yet; its secret was shown once."""

    id: str
    project: str | None
    role: str
    skills: list[str]
    created: float
    expires: float


def open_invitations(connection: Connection, project: str | None, *, now: float) -> list[InvitationRow]:
    """To one project; None: to be an administrator."""
    there = invitations.c.project == project if project is not None else invitations.c.project.is_(None)
    query = select(*(invitations.c[name] for name in InvitationRow._fields)).where(
        there, invitations.c.used_by.is_(None), invitations.c.expires > now
    )
    return [InvitationRow(*row) for row in connection.execute(query.order_by(invitations.c.created))]


def managed_projects(connection: Connection, account: str) -> set[str]:
    mine = (members.c.account == account) & (members.c.role == "manager")
    return set(connection.execute(select(members.c.project).where(mine)).scalars())


def owner_of_token(connection: Connection, token: str) -> str | None:
    """The account, by the token's id."""
    return connection.execute(select(tokens.c.account).where(tokens.c.id == token)).scalar()


# -- guidelines, lineage, audit log ------------------------------------------------------------------------------------


class GuidelineRow(NamedTuple):
    version: int
    text: str
    created: float


def list_guidelines(connection: Connection, project: str) -> list[GuidelineRow]:
    """Newest first."""
    query = select(*(guidelines.c[name] for name in GuidelineRow._fields)).where(guidelines.c.project == project)
    return [GuidelineRow(*row) for row in connection.execute(query.order_by(guidelines.c.version.desc()))]


def get_guideline(connection: Connection, project: str, version: int) -> Guideline | None:
    mine = (guidelines.c.project == project) & (guidelines.c.version == version)
    row = connection.execute(select(guidelines.c.version, guidelines.c.text).where(mine)).first()
    return None if row is None else Guideline(*row)


class ArtifactRow(NamedTuple):
    """Of another project's artifact, only what it descends from is told."""

    id: str
    kind: str
    parents: dict[str, str]
    where: str | None
    created: float
    labels: int  # of the project, that it was made from itself


def list_artifacts(connection: Connection, project: str) -> list[ArtifactRow]:
    """What rests on a project's labels, and what descends from that; oldest first."""
    used = (
        select(uses.c.artifact, func.count())
        .join(events, events.c.id == uses.c.event)
        .where(events.c.project.concat("") == project)  # not by that index: few labels are used, a project has many
        .group_by(uses.c.artifact)
    )
    labels = {artifact: count for artifact, count in connection.execute(used)}
    known = connection.execute(select(artifacts).order_by(artifacts.c.created, artifacts.c.id)).all()
    mine = set(labels)
    while more := {row.id for row in known if row.id not in mine and mine & set(row.parents.values())}:
        mine |= more  # parents may be registered after their children
    makers = {None, *_managers(connection, project)}
    return [
        ArtifactRow(row.id, row.kind, row.parents, row.where, row.created, labels.get(row.id, 0))
        if row.id in labels or row.account in makers
        else ArtifactRow(row.id, ELSEWHERE, row.parents, None, row.created, 0)
        for row in known
        if row.id in mine
    ]


def _managers(connection: Connection, project: str) -> set[str]:
    """Administrators manage every project."""
    mine = select(members.c.account).where(members.c.project == project, members.c.role == "manager")
    query = select(accounts.c.id).where(or_(accounts.c.role == "admin", accounts.c.id.in_(mine)))
    return set(connection.execute(query).scalars())


def events_of_uids(connection: Connection, project: str, uids: Sequence[str]) -> dict[str, int]:
    """Event ids of a project's labels, by uid; those that are not there are left out."""
    mine = (events.c.project == project) & (events.c.type == "label") & events.c.uid.in_(uids)
    return {uid: id for uid, id in connection.execute(select(events.c.uid, events.c.id).where(mine))}


class AuditRow(NamedTuple):
    id: int
    account: str | None
    name: str | None
    action: str
    about: dict[str, Any]
    at: float


def list_audits(
    connection: Connection, *, project: str | None = None, before: int | None = None, most: int = PAGE
) -> list[AuditRow]:
    """Newest first.

    Args:
        project: only what was done in it.
        before: only rows with a smaller id.
    """
    columns = (audits.c.id, audits.c.account, accounts.c.name, audits.c.action, audits.c.about, audits.c.at)
    query = select(*columns).outerjoin(accounts, accounts.c.id == audits.c.account)
    if project is not None:
        query = query.where(audits.c.about["project"].as_string() == project)
    if before is not None:
        query = query.where(audits.c.id < before)
    return [AuditRow(*row) for row in connection.execute(query.order_by(audits.c.id.desc()).limit(most))]


def newest_event(connection: Connection, project: str) -> int:
    """Its id: what was computed of the project's labels is out of date once this changes. 0: there is none."""
    types = ("label", "undo", "flag", "skip", "exclude", "restore")  # each found by the index
    newest = (select(func.max(events.c.id)).where(events.c.project == project, events.c.type == type) for type in types)
    return max((connection.execute(query).scalar() or 0) for query in newest)


def events_after(connection: Connection, project: str, event: int) -> int:
    """How many labels, edits and the like came after one."""
    later = (events.c.project == project) & (events.c.id > event)
    return int(connection.execute(select(func.count()).select_from(events).where(later)).scalar_one())
