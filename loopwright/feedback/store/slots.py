"""The slots of items: labels and leases together never exceed an item's overlap."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, or_, select, update

from loopwright.feedback.store.prepared import Prepared
from loopwright.feedback.store.tables import assignments, items, members

OF_ITEM = (
    items.c.prompt, items.c.responses, items.c.gold, items.c.policy, items.c.reward_model,
    items.c.selection_probability,
)  # fmt: skip

_OUT = items.c.labels + items.c.leases
_HAS_SLOT = or_(items.c.state == "gold", items.c.state == "own", and_(items.c.state == "open", items.c.overlap > _OUT))
_ONE_MORE_OUT = {
    "leases": items.c.leases + 1,
    "state": case((and_(items.c.state == "open", items.c.overlap <= _OUT + 1), "taken"), else_=items.c.state),
}
_TAKE_SLOT = Prepared(
    update(items).where(items.c.id == bindparam("item"), _HAS_SLOT).values(_ONE_MORE_OUT).returning(items.c.id)
)
_THEIRS = (assignments.c.item == items.c.id) & (assignments.c.account == bindparam("account"))


def take_next(
    connection: Connection, project: str, account: str, *, skills: Sequence[str], state: str, after: int
) -> Any:
    """A slot of the first item past a place in the queue that somebody with such skills was not given yet.

    Its row: OF_ITEM, `id`, `place`, and the `ticket` and `draft` of a time that ran out; None: there is none.
    """
    able = {f"skill_{number}": skill for number, skill in enumerate(skills)}
    statement = _take_next(len(skills))
    return statement.first(connection, project=project, account=account, item_state=state, after=after, **able)


@cache
def _take_next(skills: int) -> Prepared:
    first = items.alias("first")
    of_first = (assignments.c.item == first.c.id) & (assignments.c.account == bindparam("account"))
    # not joined: PostgreSQL might read all that they ever had
    had = select(assignments.c.state).where(of_first).scalar_subquery()
    waits = (
        select(first.c.id)
        .where(
            first.c.project == bindparam("project"),
            first.c.state == bindparam("item_state"),
            first.c.place > bindparam("after"),
            func.coalesce(had, "expired") == "expired",
            or_(first.c.skill.is_(None), *(first.c.skill == bindparam(f"skill_{number}") for number in range(skills))),
        )
        .order_by(first.c.place)
        .limit(1)
    )
    ticket, draft = (
        select(assignments.c[name]).where(_THEIRS).scalar_subquery().label(name) for name in ("ticket", "draft")
    )
    take = update(items).where(items.c.id == waits.scalar_subquery(), _HAS_SLOT).values(_ONE_MORE_OUT)
    return Prepared(take.returning(items.c.id, items.c.place, *OF_ITEM, ticket, draft))


def free_slot(connection: Connection, item: int) -> None:
    """A lease is over: the item needs somebody again."""
    connection.execute(update(items).where(items.c.id == item).values(leases=items.c.leases - 1))
    full = (items.c.id == item) & (items.c.state == "taken") & (items.c.labels + items.c.leases < items.c.overlap)
    connection.execute(update(items).where(full).values(state="open"))
    offer_again(connection, item)


def take_slot(connection: Connection, item: int) -> bool:
    """One more lease of an item, if it needs one. Gold items, and answers to one's own questions, take any number."""
    return _TAKE_SLOT.first(connection, item=item) is not None


def offer_again(connection: Connection, item: int) -> None:
    """An item can be had again, or by others than before: who passed it, and does not have it or did it, goes back."""
    project, place = connection.execute(select(items.c.project, items.c.place).where(items.c.id == item)).one()
    seen = select(assignments.c.item).where(
        assignments.c.item == item, assignments.c.account == members.c.account, assignments.c.state != "expired"
    )
    passed = (members.c.project == project) & (members.c.place >= place) & ~seen.exists()
    connection.execute(update(members).where(passed).values(place=place - 1))
