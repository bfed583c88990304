"""Which labels can be changed no more: something was made from them."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from loopwright.feedback.store.tables import events, items, uses


def frozen(connection: Connection, labels: Sequence[int]) -> set[int]:
    """Which of these labels (event ids) of one project something was made from: they can be changed no more.

    Nothing is made from labels of gold items. They are frozen with those given after them, or a labeler could tell
    which items are gold.
    """
    found = set(connection.execute(select(uses.c.event).where(uses.c.event.in_(labels)).distinct()).scalars())
    of_gold = select(events.c.id, events.c.project).join(items, items.c.id == events.c.item)
    for label, project in connection.execute(of_gold.where(events.c.id.in_(labels), items.c.gold.is_not(None))):
        later = select(uses.c.event).join(events, events.c.id == uses.c.event)
        later = later.where(uses.c.event >= label, events.c.project == project)
        if connection.execute(later.limit(1)).first() is not None:
            found.add(label)
    return found
