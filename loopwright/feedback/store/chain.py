"""Tables that only grow. Each row names the hash of the one before it, so that a change of the past shows.

What was cut off at the end does not show: note the newest hash elsewhere where that matters.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Float, Insert, Select, Table, insert, select

START = "0" * 64


def append(connection: Connection, table: Table, **row: Any) -> int:
    """Add a row with its hash; its id."""
    newest, floats, add = _prepared(table)
    # as the database will give them back: 3 seconds are 3.0 there
    content = {name: float(value) if name in floats and value is not None else value for name, value in row.items()}
    before = connection.execute(newest).scalar()
    done = connection.execute(add, {**content, "hash": chained(before or START, content)})
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])


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
def _prepared(table: Table) -> tuple[Select[Any], frozenset[str], Insert]:
    """The query of the newest hash, the columns of floats, the statement that adds a row."""
    floats = frozenset(column.name for column in table.columns if isinstance(column.type, Float))
    return select(table.c.hash).order_by(table.c.id.desc()).limit(1), floats, insert(table)
