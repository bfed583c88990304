"""What labelers see of their own work: how much, how quick, and what can still be changed. Never another's."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from sqlalchemy import Connection, func, select, update

from loopwright.feedback.store.frozen import frozen
from loopwright.feedback.store.tables import assignments, current_labels

TIMED = 50  # newest labels whose times count as a labeler's pace


class Progress(NamedTuple):
    since: int  # labels given since a time
    project: int  # all
    seconds: float | None  # a label, the median of the newest ones; None: none has a time


def progress(connection: Connection, project: str, account: str, *, since: float) -> Progress:
    """How many of a labeler's labels count in a project, and how long they took."""
    mine = (current_labels.c.project == project) & (current_labels.c.account == account)
    count = select(func.count()).select_from(current_labels).where(mine)
    newest = select(current_labels.c.seconds).where(mine, current_labels.c.seconds.is_not(None))
    times = connection.execute(newest.order_by(current_labels.c.id.desc()).limit(TIMED)).scalars().all()
    return Progress(
        connection.execute(count.where(current_labels.c.at >= since)).scalar_one(),
        connection.execute(count).scalar_one(),
        median(times) if times else None,
    )


class Kept(NamedTuple):
    seconds: float | None
    frozen: bool  # something was made from the label: it can be changed no more


def kept(connection: Connection, labels: Sequence[int]) -> dict[int, Kept]:
    """Of labels by their event ids."""
    query = select(current_labels.c.id, current_labels.c.seconds).where(current_labels.c.id.in_(labels))
    used = frozen(connection, labels)
    return {id: Kept(seconds, id in used) for id, seconds in connection.execute(query)}


def judge_by(connection: Connection, project: str, account: str, guideline: int) -> None:
    """Tasks that are open were given out under an older guideline; they are judged by the one just read."""
    mine = (assignments.c.project == project) & (assignments.c.account == account) & (assignments.c.state == "leased")
    connection.execute(update(assignments).where(mine).values(guideline=guideline))
