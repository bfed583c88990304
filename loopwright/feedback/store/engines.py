"""How the databases are opened: SQLite, one file, or PostgreSQL by URL."""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from loopwright.errors import ConfigError, StoreError
from loopwright.feedback.store.prepared import PIPELINE, Prepared

WRITERS_LOCK = 7_309_453_001  # PostgreSQL's advisory lock: any number that others hardly use
OLDEST_SQLITE = (3, 35)  # UPDATE … RETURNING
BUSY_MS = 20_000  # that SQLite waits for another process's transaction

_LOCK = Prepared(select(func.pg_advisory_xact_lock(WRITERS_LOCK)))


def parse_url(url: str) -> URL:
    """Raises ConfigError where it is no URL of SQLite (a file) or PostgreSQL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "the store's URL cannot be read; write sqlite:///feedback.db or postgresql://USER@HOST/NAME"
        ) from None
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise ConfigError(
            f"the store's URL names {parsed.drivername}; write sqlite:///feedback.db or postgresql://USER@HOST/NAME"
        )
    return parsed


def make_engine(url: URL, *, power_safe: bool = False, reads_only: bool = False) -> Engine:
    """Raises StoreError where the database cannot be reached, or written."""
    if url.get_backend_name() == "sqlite":
        engine = _sqlite(url, power_safe=power_safe, reads_only=reads_only)
    elif reads_only:
        engine = create_engine(
            url, hide_parameters=True, pool_pre_ping=True, pool_size=20, max_overflow=30,
            isolation_level="REPEATABLE READ", execution_options={"postgresql_readonly": True},
        )  # fmt: skip
    else:
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True)
        event.listen(engine, "after_cursor_execute", _wait_for_answer)
    try:
        with engine.begin():
            return engine
    except (DBAPIError, sqlite3.Error) as error:
        engine.dispose()
        raise unusable(url, error) from None


def _wait_for_answer(connection: Connection, *about: object) -> None:
    """SQLAlchemy looks at what a statement gives at once."""
    if (pipeline := connection.info.get(PIPELINE)) is not None:
        pipeline.sync()


def unusable(url: URL, error: SQLAlchemyError | sqlite3.Error) -> StoreError:
    """The error in words, without what it was asked: that may be somebody's label."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    reason = (str(cause).splitlines() or [type(cause).__name__])[0]
    shown = url.render_as_string(hide_password=True)
    return StoreError(f"{shown}: the store cannot be used ({reason}); check that it is there and may be written")


def _sqlite(url: URL, *, power_safe: bool, reads_only: bool) -> Engine:
    assert url.database is not None
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(f"Python has SQLite {sqlite3.sqlite_version}, the store needs {oldest}; use a newer Python")
    _only_for_its_owner(Path(url.database))
    engine = create_engine(
        url, hide_parameters=True, pool_size=20, max_overflow=60, connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, below
        for pragma in (
            f"busy_timeout = {BUSY_MS}",
            "journal_mode = WAL",
            f"synchronous = {'FULL' if power_safe else 'NORMAL'}",
            "foreign_keys = ON",
            f"cache_size = {-8_192 if reads_only else -65_536}",  # KiB; there are many readers and one writer
            f"query_only = {'ON' if reads_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


def _only_for_its_owner(file: Path) -> None:
    """A new file holds people's words and the hashes of their passwords: nobody else on the machine may read it."""
    if not file.parent.is_dir():
        raise StoreError(f"{file}: there is no folder {file.parent}; make it first")
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


def lock_for_writing(connection: Connection) -> None:
    """Wait until no other process writes, and keep them from it until the transaction ends."""
    if connection.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE is such a lock by itself
        _LOCK.run(connection)
