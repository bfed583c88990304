"""Tables that only grow. Each row names the hash of the one before it, so that a change of the past shows.

What was cut off at the end does not show: note the newest hash elsewhere where that matters.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Float, Select, Table, bindparam, insert, select

from loopwright.feedback.store.prepared import Prepared

START = "0" * 64


def append(connection: Connection, table: Table, *, newest: str | None = None, **row: Any) -> None:
    """Add a row with its hash.

    Args:
        newest: the hash of the newest row, where it was looked up already.
    """
    find, floats, empty, add = _prepared(table)
    # as the database will give them back: 3 seconds are 3.0 there
    content = {name: float(value) if name in floats and value is not None else value for name, value in row.items()}
    before = newest or next((found.hash for found in find.all(connection)), START)
    add.run(connection, **empty | content, hash=chained(before, content))


def newest_hash(table: Table) -> Select[Any]:
    """The query of it."""
    return select(table.c.hash).order_by(table.c.id.desc()).limit(1)


def chained(before: str, row: Mapping[str, Any]) -> str:
    """SHA-256 of the hash before and what the row holds; what holds nothing does not count."""
    content = {name: value for name, value in row.items() if value is not None}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()


class Broken(NamedTuple):
    """The first row that is not as it was written, or that follows a row which is gone."""

    table: str
    id: int


def verify(connection: Connection, table: Table) -> Broken | None:
    """Go through the whole table."""
    before = START
    rows = connection.execution_options(yield_per=5_000).execute(select(table).order_by(table.c.id))
    for row in rows.mappings():
        content = {name: value for name, value in row.items() if name not in ("id", "hash")}
        if chained(before, content) != row["hash"]:
            return Broken(table.name, row["id"])
        before = row["hash"]
    return None


@cache
def _prepared(table: Table) -> tuple[Prepared, frozenset[str], dict[str, None], Prepared]:
    """The query of the newest hash, the columns of floats, a row without content, the statement that adds one."""
    floats = frozenset(column.name for column in table.columns if isinstance(column.type, Float))
    empty: dict[str, None] = {column.name: None for column in table.columns if column.name not in ("id", "hash")}
    given: dict[str, Any] = {name: bindparam(name) for name in (*empty, "hash")}
    return Prepared(newest_hash(table)), floats, empty, Prepared(insert(table).inline().values(given))
