"""What a client sends twice counts once: it makes a uid for each thing it sends."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from loopwright.errors import StoreError
from loopwright.feedback.store.prepared import Prepared
from loopwright.feedback.store.tables import events

LONGEST_UID = 64


class Sent(NamedTuple):
    """What was made from a uid before: an event."""

    type: str
    account: str
    item: int | None


def sent_before(
    connection: Connection, uid: str, types: Sequence[str], account: str, item: int | None = None
) -> str | None:
    """The type of the event that was made from this uid; None: it is new.

    Raises:
        StoreError: another one was.
        ValueError: it is no uid.
    """
    row = _BY_UID.first(connection, uid=check_uid(uid))
    return None if row is None else known(Sent(*row), types, account, item)


def check_uid(uid: str) -> str:
    """Raises ValueError where it is no uid."""
    if not 1 <= len(uid) <= LONGEST_UID:
        raise ValueError(f"a uid has 1 to {LONGEST_UID} characters, not {len(uid)}")
    return uid


def known(sent: Sent, types: Sequence[str], account: str, item: int | None) -> str:
    """The type of the event. Raises StoreError where it is of something else."""
    if sent.type not in types or (sent.account, sent.item) != (account, item):
        raise StoreError("this uid was used for something else; make a new one for each thing that is sent")
    return sent.type


_BY_UID = Prepared(select(events.c.type, events.c.account, events.c.item).where(events.c.uid == bindparam("uid")))
