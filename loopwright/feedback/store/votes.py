"""What people said, in bulk: arrays with one row a label, for statistics over millions of them.

Labels count as in `labels.records`: current, named by no exclusion, not of a gold item (`gold_answers` has those).
Rows come in no order. Each function is one query; accounts become numbers on the way, so that memory holds the arrays
and little else.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sqlalchemy import Connection, Select, case, select

from loopwright.feedback.forms import Asked
from loopwright.feedback.kinds import FORMS
from loopwright.feedback.store.exclusions import usable
from loopwright.feedback.store.items import asked
from loopwright.feedback.store.projects import Project
from loopwright.feedback.store.tables import current_labels, items

ROWS_AT_ONCE = 20_000

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.int8]  # 1 yes, 0 no, -1 neither


class Votes(NamedTuple):
    """The one number by which agreement is measured; see `vote` of each kind of answer."""

    item: Numbers  # [N] ids
    annotator: Numbers  # [N] indices into annotators
    value: Numbers  # [N]
    annotators: list[str]  # account ids


class Pulls(NamedTuple):
    """What the winners of comparisons have beside their worth; ties are left out."""

    item: Numbers  # [N] ids
    annotator: Numbers  # [N] indices into annotators
    first_won: Flags  # [N] the answer shown first
    longer_won: Flags  # [N] -1: both were as long
    annotators: list[str]


class Times(NamedTuple):
    """When labels were given, and how long they took."""

    annotator: Numbers  # [N] indices into annotators
    at: Floats  # [N] seconds since 1970, UTC: at // 3600 are hours
    seconds: Floats  # [N] on the task; NaN: not known
    annotators: list[str]


class GoldAnswers(NamedTuple):
    """What was said of items whose answer is known."""

    item: Numbers  # [N] ids
    annotator: Numbers  # [N] indices into annotators
    value: Numbers  # [N] the vote
    right: Numbers  # [N] the vote of the known answer
    annotators: list[str]


class Drawn(NamedTuple):
    """Items that were chosen to be asked (`selection`), in no order."""

    item: Numbers  # [N] ids
    active: NDArray[np.bool_]  # [N] chosen for what it may teach, not at random
    probability: Floats  # [N] that this one was drawn
    drawn_from: Numbers  # [N] items that were left to draw


def votes(connection: Connection, project: Project) -> Votes:
    """Of all labels whose kind has votes."""
    query = _usable(connection, project, "item", "account", "vote").where(current_labels.c.vote.is_not(None))
    (item, annotator, value), names = _arrays(connection, query, np.int64, str, np.int64)
    return Votes(item, annotator, value, names)


def pulls(connection: Connection, project: Project) -> Pulls:
    """Of all comparisons that were decided."""
    query = _usable(connection, project, "item", "account", "first_won", "longer_won")
    query = query.where(current_labels.c.first_won.is_not(None))
    (item, annotator, first, longer), names = _arrays(connection, query, np.int64, str, np.int8, np.int8)
    return Pulls(item, annotator, first, longer, names)


def times(connection: Connection, project: Project) -> Times:
    """Of all labels: for throughput and time on task."""
    query = _usable(connection, project, "account", "at", "seconds")
    (annotator, at, seconds), names = _arrays(connection, query, str, np.float64, np.float64)
    return Times(annotator, at, seconds, names)


def gold_answers(connection: Connection, project: Project) -> GoldAnswers:
    """Of all labels with a vote of gold items with one, also of those withdrawn since."""
    known = _gold_votes(connection, project)
    query = select(current_labels.c.item, current_labels.c.account, current_labels.c.vote).where(
        current_labels.c.item.in_(_gold_items(project)),
        current_labels.c.vote.is_not(None),
        usable(connection, project.id),
    )
    (item, annotator, value), names = _arrays(connection, query, np.int64, str, np.int64)
    held = np.array([id in known for id in item.tolist()], dtype=bool)
    right = np.array([known[id] for id in item[held].tolist()], dtype=np.int64)
    return GoldAnswers(item[held], annotator[held], value[held], right, names)


def drawn(connection: Connection, project: Project) -> Drawn:
    """All items that were chosen by `selection`, asked already or not."""
    query = select(
        items.c.id, case((items.c.arm == "active", 1), else_=0), items.c.selection_probability, items.c.drawn_from
    ).where(items.c.project == project.id, items.c.drawn_from.is_not(None))
    columns, _ = _arrays(connection, query, np.int64, np.bool_, np.float64, np.int64)
    return Drawn(*columns)


def _usable(connection: Connection, project: Project, *columns: str) -> Select[Any]:
    return select(*(current_labels.c[name] for name in columns)).where(
        current_labels.c.project == project.id,
        current_labels.c.item.not_in(_gold_items(project)),
        usable(connection, project.id),
    )


def _gold_items(project: Project) -> Any:
    return select(items.c.id).where(items.c.project == project.id, _KNOWN)


def _gold_votes(connection: Connection, project: Project) -> dict[int, int]:
    query = select(items).where(items.c.project == project.id, _KNOWN)
    known: dict[int, int] = {}
    for row in connection.execute(query):
        seen: Asked = asked(project, row, range(len(row.responses)))
        vote = FORMS[project.config.kind].answer.model_validate(row.gold).vote(seen)  # checked when it was given
        if vote is not None:  # what settings of today give no vote is held against nothing
            known[row.id] = vote
    return known


def _arrays(connection: Connection, query: Select[Any], *types: DTypeLike) -> tuple[list[Any], list[str]]:
    """The columns of a query; those of type str as numbers, with the names that these stand for."""
    parts: list[list[NDArray[Any]]] = [[] for _ in types]
    names: dict[str, int] = {}
    for rows in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query).partitions():
        for part, type, column in zip(parts, types, zip(*rows, strict=True), strict=True):
            if type is str:
                part.append(np.array([names.setdefault(name, len(names)) for name in column], dtype=np.int64))
            else:
                part.append(_array(column, type))
    empty = (np.zeros(0, dtype=np.int64 if type is str else type) for type in types)
    return [np.concatenate(part) if part else none for part, none in zip(parts, empty, strict=True)], list(names)


def _array(column: Iterable[Any], type: DTypeLike) -> NDArray[Any]:
    """What is NULL is NaN among floats, and -1 among flags."""
    if type is np.int8:
        column = [-1 if value is None else value for value in column]
    return np.array(column, dtype=type)  # None becomes NaN among floats


# the states that an item with a known answer can have, by which the index finds them
_KNOWN = items.c.state.in_(("gold", "withdrawn")) & items.c.gold.is_not(None)
