"""Statements of each request: written with SQLAlchemy, turned into SQL once, and carried out past its layers.

SQLAlchemy needs ten times as long for a short statement as SQLite does. What is asked at each label is worth it; all
else goes through `connection.execute`.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.types import TypeEngine

PIPELINE = "pipeline"  # in a connection's `info`: psycopg's, while its transaction is in one
_CURSORS = "cursors"

Processor = Callable[[Any], Any]


class Prepared:
    """A statement with named parameters. Its rows are named tuples.

    A job that has called `run` may hear of its failure at a later statement, or at the commit: nothing waits for the
    answer of what has none.
    """

    def __init__(self, statement: Select[Any] | UpdateBase) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}  # by dialect

    def all(self, connection: Connection, **values: Any) -> list[Any]:
        """Its rows.

        Raises:
            DBAPIError: as `connection.execute` does.
        """
        text, cursor = self._carry_out(connection, values, 0)
        try:
            rows = cursor.fetchall()
        except text.dialect.loaded_dbapi.Error as error:
            raise told(connection, error) from error
        if text.read is None and rows:
            text.learn([column[1] for column in cursor.description])
        return [text.row(row) for row in rows]

    def first(self, connection: Connection, **values: Any) -> Any:
        """Its first row; None: there is none."""
        rows = self.all(connection, **values)
        return rows[0] if rows else None

    def one(self, connection: Connection, **values: Any) -> Any:
        """Its only row."""
        (row,) = self.all(connection, **values)
        return row

    def run(self, connection: Connection, **values: Any) -> None:
        """Change what it changes."""
        self._carry_out(connection, values, 1)

    def _carry_out(self, connection: Connection, values: Mapping[str, Any], which: int) -> tuple["_Text", Any]:
        dialect = connection.dialect
        text = self._texts.get(dialect.name)
        if text is None:
            text = self._texts[dialect.name] = _text(self._statement, dialect)
        if not connection.in_transaction():
            connection.begin()
        cursor = _cursors(connection)[which]
        try:
            cursor.execute(text.sql, text.bound(values))
        except dialect.loaded_dbapi.Error as error:
            raise told(connection, error) from error
        return text, cursor


@dataclass
class _Text:
    """A statement in one database's words."""

    sql: str
    fixed: dict[str, Any]  # what the statement itself says, ready for the driver
    bind: dict[str, Processor | None]  # by parameter that is to be given
    name: Callable[..., Any]
    types: tuple[TypeEngine[Any], ...]  # of its columns
    dialect: Dialect
    read: tuple[tuple[int, Processor], ...] | None = None  # columns that the driver does not give as Python has them

    def bound(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if values.keys() != self.bind.keys():
            raise TypeError(f"the statement takes {', '.join(self.bind)}; given were {', '.join(values)}")
        given = self.fixed.copy()
        for name, value in values.items():
            process = self.bind[name]
            given[name] = value if process is None else process(value)
        return given

    def learn(self, codes: Sequence[Any]) -> None:
        """What the driver calls the columns' types."""
        processors = [
            _implemented(type, self.dialect).result_processor(self.dialect, code)
            for type, code in zip(self.types, codes, strict=True)
        ]
        self.read = tuple((place, process) for place, process in enumerate(processors) if process is not None)

    def row(self, values: tuple[Any, ...]) -> Any:
        if not self.read:
            return self.name(*values)
        found = list(values)
        for place, process in self.read:
            found[place] = process(found[place])
        return self.name(*found)


def _text(statement: Select[Any] | UpdateBase, dialect: Dialect) -> _Text:
    words = sqlite.dialect(paramstyle="named") if dialect.name == "sqlite" else dialect
    compiled = statement.compile(dialect=words)
    fixed: dict[str, Any] = {}
    bind: dict[str, Processor | None] = {}
    for name, parameter in compiled.binds.items():
        assert not parameter.expanding, "a prepared statement has a fixed number of parameters"
        process = _implemented(parameter.type, dialect).bind_processor(dialect)
        if parameter.required:
            bind[name] = process
        else:
            value = parameter.effective_value
            fixed[name] = process(value) if process else value
    columns = statement.exported_columns
    types = tuple(column.type for column in columns)
    return _Text(str(compiled), fixed, bind, namedtuple("Found", map(str, columns.keys())), types, dialect)


def _implemented(type: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    return type.dialect_impl(dialect)


def _cursors(connection: Connection) -> tuple[Any, Any]:
    """One to fetch from, and one that nobody fetches from: in a pipeline its answers come when they come."""
    info = connection.info
    if _CURSORS not in info:
        driver = connection.connection.driver_connection
        assert driver is not None
        info[_CURSORS] = driver.cursor(), driver.cursor()
    cursors: tuple[Any, Any] = info[_CURSORS]
    return cursors


def told(connection: Connection, error: Exception) -> Exception:
    """The driver's error as SQLAlchemy tells it, without what was asked: that may be somebody's label."""
    dialect = connection.dialect
    gone = dialect.is_disconnect(error, connection.connection.driver_connection, None)  # type: ignore[arg-type]
    if gone:
        connection.invalidate(error)
    return DBAPIError.instance(
        None, None, error, dialect.loaded_dbapi.Error, hide_parameters=True, connection_invalidated=gone,
        dialect=dialect,
    )  # fmt: skip
