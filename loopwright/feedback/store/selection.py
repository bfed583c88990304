"""What to ask next, in the store: draws become the front of the queue."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, select, update

from loopwright.feedback.selection import Candidate, Draw, closeness, uncertainty
from loopwright.feedback.selection import select as draw_from
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.items import ROWS_AT_ONCE, change_items, portions, queue_ends, reorder
from loopwright.feedback.store.projects import Project, get_project
from loopwright.feedback.store.tables import items
from loopwright.feedback.store.votes import votes

MOST = 1_000  # items that are drawn at once: after so many, people know more than the draw did


class Selected(NamedTuple):
    """What comes next in the queue."""

    active: int  # items asked because of what they may teach
    random: int
    again: int  # items asked of one more person, since people disagreed


def select_next(database: Database, project_id: str, *, most: int = MOST) -> Selected:
    """Draw what to ask next by the project's `selection`, and put it first in its queue.

    Drawn are items that nobody was given yet. What an earlier selection drew and nobody was given goes back among the
    others. Under "disagreement", items on which people disagree get one more label: once, beyond the project's overlap.

    Raises:
        StoreError: there is no such project.
    """
    draws, disputed = database.read(partial(_draw, project_id=project_id, most=most))
    return database.write(partial(_ask, project_id=project_id, draws=draws, disputed=set(disputed)))


def _draw(connection: Connection, project_id: str, most: int) -> tuple[list[Draw], list[int]]:
    """The draws, and the ids of those candidates that were answered before."""
    project = get_project(connection, project_id)
    config = project.config
    assert config.seed is not None, "the store gives each project a seed"
    rng = np.random.default_rng([config.seed, project.queue])
    fresh = list(_fresh(connection, project))
    if config.selection != "disagreement":
        share = 1.0 if config.selection == "random" else config.random_share
        return draw_from(fresh, random_share=share, most=most, rng=rng), []
    disputed = _disputed(connection, project)
    queues = {
        True: iter(draw_from(fresh, random_share=1.0, most=most, rng=rng)),
        False: iter(draw_from(disputed, random_share=0.0, most=most, rng=rng)),
    }
    found: list[Draw] = []
    for at_random in (rng.random(most) < config.random_share).tolist():
        drawn = next(queues[at_random], None) or next(queues[not at_random], None)
        if drawn is None:
            break
        found.append(drawn)
    return found, [one.id for one in disputed]


def _ask(connection: Connection, project_id: str, draws: list[Draw], disputed: set[int]) -> Selected:
    """Put those first that are still as they were when they were drawn."""
    project = get_project(connection, project_id)
    _put_back(connection, project)
    ids = [one.id for one in draws]
    still: set[int] = set()
    for portion in portions(ids, ROWS_AT_ONCE):
        query = select(items.c.id).where(items.c.id.in_(portion), _UNTOUCHED | _FULL)
        still.update(connection.execute(query).scalars())
    fresh = [one for one in draws if one.id in still and one.id not in disputed]
    again = [one.id for one in draws if one.id in still and one.id in disputed]
    for portion in portions(again, ROWS_AT_ONCE):
        more = {"overlap": items.c.overlap + 1, "state": "open"}
        connection.execute(update(items).where(items.c.id.in_(portion)).values(more))
    noted = {one.id: one._asdict() for one in fresh}
    unchanged = select(items.c.id, items.c.arm, items.c.selection_probability, items.c.drawn_from)
    for portion in portions(again, ROWS_AT_ONCE):  # how an item was first chosen stays what it was
        noted |= {row.id: row._asdict() for row in connection.execute(unchanged.where(items.c.id.in_(portion)))}
    reorder(connection, project, [noted[one.id] for one in draws if one.id in still])
    active = sum(one.arm == "active" for one in fresh)
    return Selected(active, len(fresh) - active, len(again))


def _put_back(connection: Connection, project: Project) -> None:
    """What was drawn earlier and given to nobody goes to the end of the queue, as if it had not been drawn."""
    mine = items.c.project == project.id
    drawn = select(items.c.id).where(mine, items.c.drawn_from.is_not(None), _UNTOUCHED).order_by(items.c.place)
    ids = list(connection.execute(drawn).scalars())
    _, last = queue_ends(connection, project)
    undrawn: dict[str, Any] = {"arm": "random", "selection_probability": 1.0, "drawn_from": None}
    change_items(connection, [{"id": id, "place": place, **undrawn} for place, id in enumerate(ids, last + 1)])


def _fresh(connection: Connection, project: Project) -> Iterator[Candidate]:
    """Items that were given to nobody, with what they may teach."""
    scored = project.config.selection in ("uncertainty", "closeness")
    columns = (items.c.id, items.c.scores) if scored else (items.c.id,)
    query = select(*columns).where(items.c.project == project.id, _UNTOUCHED).order_by(items.c.id)
    for row in connection.execution_options(yield_per=10_000).execute(query):
        scores = row.scores if scored else None
        if not scores:
            yield Candidate(row.id, 0.0)
        elif project.config.selection == "uncertainty":
            yield Candidate(row.id, uncertainty([score["std"] for score in scores]))
        else:
            yield Candidate(row.id, closeness([score["mean"] for score in scores]))


def _disputed(connection: Connection, project: Project) -> list[Candidate]:
    """Items that have all their labels, not more than the project asks for, and not all the same.

    Their worth is the probability that two of the votes differ: 1 - sum of the squared shares.
    """
    full = select(items.c.id).where(items.c.project == project.id, _FULL, items.c.overlap <= project.config.overlap)
    ids = np.fromiter(connection.execute(full).scalars(), dtype=np.int64)
    said = votes(connection, project)
    mine = np.isin(said.item, ids)
    cells, counts = np.unique(np.stack([said.item[mine], said.value[mine]]), axis=1, return_counts=True)
    found, place = np.unique(cells[0], return_inverse=True)
    number, squares = (np.bincount(place, weight, len(found)) for weight in (counts, counts**2))
    worth = 1.0 - squares / np.maximum(number, 1) ** 2
    return [Candidate(id, one) for id, one in zip(found.tolist(), worth.tolist(), strict=True) if one > 0]


_UNTOUCHED = (items.c.state == "open") & (items.c.labels == 0) & (items.c.leases == 0)
_FULL = (items.c.state == "taken") & (items.c.labels == items.c.overlap)
