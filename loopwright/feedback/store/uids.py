"""What a client sends twice counts once: it makes a uid for each thing it sends."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from loopwright.errors import StoreError
from loopwright.feedback.store.tables import events

LONGEST_UID = 64


def sent_before(
    connection: Connection, uid: str, types: Sequence[str], account: str, item: int | None = None
) -> str | None:
    """The type of the event that was made from this uid; None: it is new.

    Raises:
        StoreError: another one was.
        ValueError: it is no uid.
    """
    if not 1 <= len(uid) <= LONGEST_UID:
        raise ValueError(f"a uid has 1 to {LONGEST_UID} characters, not {len(uid)}")
    row = connection.execute(_BY_UID, {"uid": uid}).first()
    if row is None:
        return None
    if row.type not in types or (row.account, row.item) != (account, item):
        raise StoreError("this uid was used for something else; make a new one for each thing that is sent")
    return str(row.type)


_BY_UID = select(events.c.type, events.c.account, events.c.item).where(events.c.uid == bindparam("uid"))
