"""Whom to tell what is said, and how far each has been told: nothing is lost while they are away."""

from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from loopwright.errors import StoreError
from loopwright.feedback.store.projects import new_id
from loopwright.feedback.store.tables import events, items, webhooks

EVENTS_A_MESSAGE = 100
MOST = 10  # of a project


class Webhook(NamedTuple):
    id: str
    project: str
    url: str
    after: int
    attempts: int
    problem: str | None
    disabled: bool


class Message(NamedTuple):
    """What one webhook is to be told now."""

    webhook: Webhook
    last: int  # the newest event in it
    body: dict[str, Any]


def add_webhook(connection: Connection, project: str, url: str, *, now: float) -> str:
    """Tell an address of what is said from now on; the webhook's id. Raises StoreError where the project has MOST."""
    there = select(func.count()).where(webhooks.c.project == project)
    if connection.execute(there).scalar_one() >= MOST:
        raise StoreError(f"a project has at most {MOST} webhooks; remove one that you do not need")
    newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
    id = new_id()
    row = {"project": project, "url": url, "after": newest, "attempts": 0, "disabled": False, "created": now}
    connection.execute(insert(webhooks).values(id=id, **row))
    return id


def list_webhooks(connection: Connection, project: str) -> list[Webhook]:
    rows = connection.execute(_webhooks().where(webhooks.c.project == project).order_by(webhooks.c.created))
    return [Webhook(*row) for row in rows]


def remove_webhook(connection: Connection, project: str, id: str) -> None:
    """Raises StoreError where the project has none of this id."""
    mine = (webhooks.c.id == id) & (webhooks.c.project == project)
    if not connection.execute(delete(webhooks).where(mine)).rowcount:
        raise StoreError("there is no such webhook in this project")


def due(connection: Connection, *, now: float) -> list[Message]:
    """What is to be told now: to each webhook that is not waiting, the events since the last that it was told."""
    ready = webhooks.c.disabled.is_(False) & or_(webhooks.c.next.is_(None), webhooks.c.next <= now)
    found = []
    for row in connection.execute(_webhooks().where(ready).order_by(webhooks.c.created)).all():
        webhook = Webhook(*row)
        query = (
            select(events.c.id, events.c.uid, events.c.type, events.c.at, items.c.key, items.c.batch)
            .outerjoin(items, items.c.id == events.c.item)
            .where(events.c.project == webhook.project, events.c.id > webhook.after)
        )
        news = connection.execute(query.order_by(events.c.id).limit(EVENTS_A_MESSAGE)).all()
        if news:
            told = [{"uid": e.uid, "type": e.type, "at": e.at, "item": e.key, "batch": e.batch} for e in news]
            body = {"type": "feedback.events", "project": webhook.project, "events": told}
            found.append(Message(webhook, news[-1].id, body))
    return found


def delivered(connection: Connection, message: Message) -> None:
    """It was told: go on from there."""
    _set(connection, message, after=message.last, attempts=0, next=None, problem=None)


def failed(connection: Connection, message: Message, problem: str, *, next: float | None) -> None:
    """It was not told: again at `next`; None: never, until somebody sets it up anew."""
    _set(connection, message, attempts=message.webhook.attempts + 1, next=next, problem=problem, disabled=next is None)


def _set(connection: Connection, message: Message, **values: Any) -> None:
    connection.execute(update(webhooks).where(webhooks.c.id == message.webhook.id).values(**values))


def _webhooks() -> Any:
    return select(*(webhooks.c[name] for name in Webhook._fields))
