"""From a label to what was made of it, and from what was made back to the labels: both ends of one chain.

label → reward model → policy → sample shown (an item) → label
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select

from loopwright.feedback.store.exclusions import usable
from loopwright.feedback.store.projects import list_projects
from loopwright.feedback.store.tables import accounts, artifacts, current_labels, events, items, uses

ROWS_AT_ONCE = 1_000


def register(  # noqa: PLR0913 -- one argument a column
    connection: Connection,
    id: str,
    kind: str,
    parents: Mapping[str, str],
    *,
    labels: Iterable[int] = (),
    where: str | None = None,
    by: str | None = None,
    now: float,
) -> None:
    """Note an artifact of a run, and the labels (event ids) it was made from. Doing it twice does nothing.

    Args:
        by: the account that does it; none: whoever holds the database.
    """
    if connection.execute(select(artifacts.c.id).where(artifacts.c.id == id)).first() is None:
        row = {"id": id, "kind": kind, "parents": dict(parents), "where": where, "account": by, "created": now}
        connection.execute(insert(artifacts).values(**row))
        rows = [{"artifact": id, "event": event} for event in sorted(set(labels))]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            connection.execute(insert(uses), rows[start : start + ROWS_AT_ONCE])


class Stale(NamedTuple):
    """An artifact that rests on labels that count no more."""

    id: str
    kind: str
    labels: int  # of its own, that count no more
    because_of: str | None  # the artifact it descends from; None: its own labels


def stale(connection: Connection) -> list[Stale]:
    """What would come out otherwise today: artifacts made from labels that were edited, taken back or excluded, and
    what descends from them."""
    known = connection.execute(select(artifacts).order_by(artifacts.c.created)).all()
    lost = _lost(connection)
    found: dict[str, Stale] = {}
    for _ in known:  # parents may be registered after their children
        for row in known:
            if row.id in found:
                continue
            parent = next((parent for parent in row.parents.values() if parent in found), None)
            if row.id in lost or parent is not None:
                found[row.id] = Stale(row.id, row.kind, lost.get(row.id, 0), None if row.id in lost else parent)
    return [found[row.id] for row in known if row.id in found]


class Source(NamedTuple):
    """A label behind an artifact."""

    uid: str
    annotator: str
    item_key: str
    at: float


def labels_behind(connection: Connection, artifact: str, *, most: int = 1_000) -> list[Source]:
    """The labels that an artifact and its ancestors were made from, oldest first."""
    lines = ancestors(connection, artifact)
    query = (
        select(events.c.uid, accounts.c.name, items.c.key, events.c.at)
        .join(uses, uses.c.event == events.c.id)
        .join(accounts, accounts.c.id == events.c.account)
        .join(items, items.c.id == events.c.item)
        .where(uses.c.artifact.in_(lines))
        .distinct()
    )
    return [Source(*row) for row in connection.execute(query.order_by(events.c.at).limit(most))]


def made_from(connection: Connection, label_uid: str) -> list[str]:
    """The artifacts made from a label, and all that descend from these, in the order of their making."""
    event = select(events.c.id).where(events.c.uid == label_uid).scalar_subquery()
    direct = set(connection.execute(select(uses.c.artifact).where(uses.c.event == event)).scalars())
    parents = _parents(connection)
    return [id for id in parents if direct & set(_line(parents, id))]


def ancestors(connection: Connection, artifact: str) -> list[str]:
    """The artifact and all that it was made from, as far as the store knows them."""
    return _line(_parents(connection), artifact)


def _parents(connection: Connection) -> dict[str, list[str]]:
    """Artifact -> what it was made from, in the order of their making."""
    query = select(artifacts.c.id, artifacts.c.parents).order_by(artifacts.c.created, artifacts.c.id)
    return {id: list(parents.values()) for id, parents in connection.execute(query)}


def _line(parents: Mapping[str, list[str]], artifact: str) -> list[str]:
    found, waiting = {}, [artifact]  # a dict: a set in order
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = True
            waiting.extend(parents.get(one, []))
    return list(found)


def _lost(connection: Connection) -> dict[str, int]:
    """Artifact -> how many of its labels are not current, or are excluded."""
    count = select(uses.c.artifact, func.count()).group_by(uses.c.artifact)
    lost: dict[str, int] = {artifact: number for artifact, number in connection.execute(count)}
    for project in list_projects(connection):
        good = (
            count.join(current_labels, current_labels.c.id == uses.c.event)
            .where(current_labels.c.project == project.id)
            .where(usable(connection, project.id))
        )
        for artifact, number in connection.execute(good):
            lost[artifact] -= number
    return {artifact: number for artifact, number in lost.items() if number}
