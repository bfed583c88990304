"""Labels that count no more, until that is taken back; who gave them, when, or under which guideline says which.

An item counts only labels that count: one whose label was left out is asked again. Who cannot give labels that count is
asked nothing; who can (the guideline was at fault, or the day) is asked for another label in the old one's place.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, false, func, not_, null, or_, select, update

from loopwright.errors import StoreError
from loopwright.feedback.store.chain import append
from loopwright.feedback.store.items import start_anew
from loopwright.feedback.store.tables import accounts, assignments, current_labels, events, guidelines, items
from loopwright.feedback.store.uids import sent_before

DAY_SECONDS = 86_400.0


class Exclusion(NamedTuple):
    """Labels that count no more, until it is taken back."""

    uid: str
    what: dict[str, Any]  # annotator (account id), day (ISO date, UTC) or guideline (version)
    by: str
    at: float


def exclude(connection: Connection, project: str, what: Mapping[str, Any], by: str, *, uid: str, now: float) -> None:
    """Leave out `{"annotator": id}`, `{"day": "2026-01-31"}` or `{"guideline": 2}`, until it is restored.

    Raises:
        ValueError: it names none of these, more than one, or one that the project does not have.
    """
    _condition(what)
    named = {"annotator": select(accounts.c.id).where(accounts.c.id == what.get("annotator"))}
    named["guideline"] = select(guidelines.c.version).where(
        guidelines.c.project == project, guidelines.c.version == what.get("guideline")
    )
    for name in what.keys() & named.keys():
        if connection.execute(named[name]).first() is None:
            raise ValueError(f"there is no {name} {what[name]} whose labels could be left out")
    if sent_before(connection, uid, ("exclude",), by) is None:
        append(connection, events, uid=uid, type="exclude", project=project, account=by, answer=dict(what), at=now)
        _give_back(connection, project, now=now)
        count_anew(connection, project, _condition(what))
        start_anew(connection, project)


def restore(connection: Connection, project: str, exclusion: str, by: str, *, uid: str, now: float) -> None:
    """Let what an exclusion left out count again. Raises StoreError where there is no such exclusion."""
    if sent_before(connection, uid, ("restore",), by) is not None:
        return
    found = next((one for one in exclusions(connection, project) if one.uid == exclusion), None)
    if found is None:
        raise StoreError("there is no such exclusion in force")
    id = connection.execute(select(events.c.id).where(events.c.uid == exclusion)).scalar_one()
    append(connection, events, uid=uid, type="restore", project=project, account=by, supersedes=id, at=now)
    count_anew(connection, project, _condition(found.what))
    start_anew(connection, project)


def exclusions(connection: Connection, project: str) -> list[Exclusion]:
    """Those in force, oldest first."""
    later = events.alias("later")
    query = select(events).where(
        events.c.project == project,
        events.c.type == "exclude",
        ~select(later.c.id).where(later.c.supersedes == events.c.id).exists(),
    )
    return [
        Exclusion(row.uid, row.answer, row.account, row.at) for row in connection.execute(query.order_by(events.c.id))
    ]


def usable(connection: Connection, project: str) -> ColumnElement[bool]:
    """The condition that no exclusion in force names a row of `current_labels`."""
    return not_(or_(false(), *(_condition(one.what) for one in exclusions(connection, project))))


def would_count(connection: Connection, project: str, account: str, guideline: int | None, *, now: float) -> bool:
    """Whether no exclusion in force would name a label that this account gives now, under this guideline."""
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    given = {"annotator": account, "guideline": guideline, "day": day}
    return not any(given[name] == value for one in exclusions(connection, project) for name, value in one.what.items())


def count_anew(connection: Connection, project: str, named: ColumnElement[bool]) -> None:
    """Bring what is kept of the items of some labels up to date: how many labels count, who is asked again.

    Args:
        named: which rows of `current_labels` these are; their items are looked at.
    """
    good = usable(connection, project)
    mine = (current_labels.c.project == project) & named
    touched = (items.c.project == project) & items.c.id.in_(select(current_labels.c.item).where(mine))
    count = select(func.count()).select_from(current_labels).where(current_labels.c.item == items.c.id, good)
    # a label that counts again: whoever was asked for another keeps the one there was
    kept = _theirs(mine & good) & (assignments.c.state != "labeled")
    held = select(assignments.c.item).where(kept, assignments.c.state == "leased")
    leased = (
        select(func.count())
        .select_from(assignments)
        .where(assignments.c.item == items.c.id, kept, assignments.c.state == "leased")
    )
    out = items.c.leases - leased.scalar_subquery()
    connection.execute(update(items).where(touched, items.c.id.in_(held)).values(leases=out))
    connection.execute(update(assignments).where(kept).values(state="labeled", draft=null()))
    again = _theirs(mine & not_(good)) & (assignments.c.state == "labeled")
    connection.execute(update(assignments).where(again).values(state="expired"))
    connection.execute(update(items).where(touched).values(labels=count.scalar_subquery()))
    short = items.c.labels + items.c.leases < items.c.overlap
    connection.execute(update(items).where(touched, items.c.state == "taken", short).values(state="open"))
    connection.execute(update(items).where(touched, items.c.state == "open", not_(short)).values(state="taken"))


def _theirs(said: ColumnElement[bool]) -> ColumnElement[bool]:
    """The assignments in which such labels were given."""
    label = select(current_labels.c.id).where(
        current_labels.c.item == assignments.c.item, current_labels.c.account == assignments.c.account, said
    )
    return label.exists()


def _give_back(connection: Connection, project: str, *, now: float) -> None:
    """Tasks that are out to those whose labels would not count any more."""
    out = select(assignments).where(assignments.c.project == project, assignments.c.state == "leased")
    for row in connection.execute(out).all():
        if not would_count(connection, project, row.account, row.guideline, now=now):
            connection.execute(update(assignments).where(assignments.c.ticket == row.ticket).values(state="expired"))
            connection.execute(update(items).where(items.c.id == row.item).values(leases=items.c.leases - 1))
            short = (items.c.id == row.item) & (items.c.labels + items.c.leases < items.c.overlap)
            connection.execute(update(items).where(short, items.c.state == "taken").values(state="open"))


def _condition(what: Mapping[str, Any]) -> ColumnElement[bool]:
    match dict(what):
        case {"annotator": str(account), **rest} if not rest:
            return current_labels.c.account == account
        case {"guideline": int(version), **rest} if not rest and 0 < version < 2**31:
            return and_(current_labels.c.guideline.is_not(None), current_labels.c.guideline == version)
        case {"day": str(day), **rest} if not rest:
            start = datetime.combine(date.fromisoformat(day), time.min, UTC).timestamp()
            return and_(current_labels.c.at >= start, current_labels.c.at < start + DAY_SECONDS)
    raise ValueError("an exclusion names one annotator, one day or one guideline")
