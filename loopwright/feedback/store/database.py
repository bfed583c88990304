"""One door to the database: reads side by side, writes one after another, committed in groups.

Quick questions of many requests (`look_up`) share a transaction, too: a thread and a transaction for each cost more
than the questions.

A write is a function of a connection. Those that wait while a commit is under way are carried out in the next
transaction together, each in a savepoint of its own, and share its commit: what makes a commit slow (the disk) is paid
once for all of them. A caller hears of its write only after the commit, so what was acknowledged is on disk.
"""

import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from loopwright.errors import ConfigError, StoreError

T = TypeVar("T")
Job = Callable[[Connection], T]

MOST_JOBS_A_COMMIT = 128
WRITERS_LOCK = 7_309_453_001  # PostgreSQL's advisory lock: any number that others hardly use
BUSY_MS = 20_000  # that SQLite waits for another process's transaction

_LOCK = text(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")


class Database:
    """A store's database, open. Close it, or use it in a `with`."""

    def __init__(self, url: str, *, power_safe: bool = False) -> None:
        """Open what `migrate` made.

        Args:
            url: sqlite:///FILE or postgresql://USER@HOST/NAME.
            power_safe: SQLite: an acknowledged write survives a loss of power, not only of the process. One more
                wait for the disk at each commit.

        Raises:
            ConfigError: the URL is none, or the setting has no effect.
            StoreError: the database does not answer, or may not be written.
        """
        self.url = parse_url(url)
        if power_safe and self.url.get_backend_name() != "sqlite":
            raise ConfigError(
                "--power-safe is SQLite's; PostgreSQL is as safe as its synchronous_commit says, so leave it out"
            )
        self._to_write = make_engine(self.url, power_safe=power_safe)
        self._to_read = make_engine(self.url, reads_only=True)
        self._jobs: queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()  # nothing may enter the queue behind the None that ends it
        self._closed = False
        self._writer = threading.Thread(target=self._write_forever, name="feedback-writer", daemon=True)
        self._writer.start()
        self._questions: queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._look_up_forever, name="feedback-reader", daemon=True)
        self._reader.start()

    @property
    def is_embedded(self) -> bool:
        """SQLite: no other process or machine is asked."""
        return self.url.get_backend_name() == "sqlite"

    def read(self, job: Job[T]) -> T:
        """The job's result, of one consistent view of the database. It cannot write.

        Raises:
            StoreError: the database does not answer.
        """
        try:
            connection = self._to_read.connect()
        except (DBAPIError, sqlite3.Error) as error:
            raise _unusable(self.url, error) from None
        with connection:
            return job(connection)

    def look_up(self, job: Job[T]) -> "Future[T]":
        """As `read`, without waiting: for what takes a moment and is asked by many. One thread answers them in groups.

        Each sees what was committed before it was asked.
        """
        return self._queued(self._questions, job, "read")

    def write(self, job: Job[T]) -> T:
        """The job's result, once it is committed. Where it raises, nothing of it stays.

        Raises:
            StoreError: the store is closed, or the database failed; then nothing of the job is there.
        """
        if threading.current_thread() is self._writer:
            raise AssertionError("a write inside a write would wait for itself; use the job's connection")
        return self.submit(job).result()

    def submit(self, job: Job[T]) -> "Future[T]":
        """As `write`, without waiting."""
        return self._queued(self._jobs, job, "written")

    def _queued(
        self, waiting: "queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None]", job: Job[T], done: str
    ) -> "Future[T]":
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise StoreError(f"the feedback store is closed; nothing more can be {done}")
            waiting.put((job, future))
        return future

    def close(self) -> None:
        """Finish the writes that wait, and let go of the database."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
                self._questions.put(None)
        self._writer.join()
        self._reader.join()
        self._to_write.dispose()
        self._to_read.dispose()

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *about: object) -> None:
        self.close()

    def _write_forever(self) -> None:
        with closing(_Writer(self._to_write)) as writer:
            for batch in _groups(self._jobs):
                writer.commit(batch)

    def _look_up_forever(self) -> None:
        for batch in _groups(self._questions):
            try:
                with self._to_read.connect() as connection:
                    answers = [(future, *_answer(job, connection)) for job, future in batch]
            except Exception:  # what fails in the database spoils what is asked after it
                answers = [(future, *self._alone(job)) for job, future in batch]
            _tell(answers)

    def _alone(self, job: Job[T]) -> tuple[T | None, Exception | None]:
        try:
            return self.read(job), None
        except Exception as error:
            return None, error


Waiting = list[tuple[Job[Any], "Future[Any]"]]


def _groups(waiting: "queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None]") -> Iterator[Waiting]:
    """What waits, group after group, until None. What was cancelled while it waited is left out."""
    last = False
    while not last and (first := waiting.get()) is not None:
        group = [first]
        while len(group) < MOST_JOBS_A_COMMIT and not waiting.empty():
            more = waiting.get()
            if last := more is None:
                break
            group.append(more)
        yield [(job, future) for job, future in group if future.set_running_or_notify_cancel()]


def _answer(job: Job[T], connection: Connection) -> tuple[T | None, Exception | None]:
    try:
        return job(connection), None
    except (DBAPIError, sqlite3.Error):
        raise
    except Exception as error:
        return None, error


def _tell(answers: Iterable[tuple["Future[Any]", Any, BaseException | None]]) -> None:
    for future, result, failure in answers:
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)


class _Writer:
    """The one connection that writes; opened anew after the database went away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def commit(self, batch: Waiting) -> None:
        """Carry out the jobs, commit, then answer."""
        answers: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                lock_for_writing(self._connection)
                answers = [(future, *_in_savepoint(self._connection, job)) for job, future in batch]
        except BaseException as error:  # the commit failed: nobody's write is there
            self.close()
            told = _unusable(self._engine.url, error) if isinstance(error, SQLAlchemyError | sqlite3.Error) else error
            answers = [(future, None, told) for _, future in batch]
        _tell(answers)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


def lock_for_writing(connection: Connection) -> None:
    """Wait until no other process writes, and keep them from it until the transaction ends."""
    if connection.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE is such a lock by itself
        connection.execute(_LOCK)


def _in_savepoint(connection: Connection, job: Job[T]) -> tuple[T | None, BaseException | None]:
    connection.exec_driver_sql("SAVEPOINT job")
    try:
        result = job(connection)
        connection.exec_driver_sql("RELEASE SAVEPOINT job")  # PostgreSQL refuses where the job went on after an error
    except BaseException as error:
        if connection.invalidated:  # the database went away under us: the whole group must be told
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
        return None, error
    return result, None


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
    try:
        with engine.begin():
            return engine
    except (DBAPIError, sqlite3.Error) as error:
        engine.dispose()
        raise _unusable(url, error) from None


def _unusable(url: URL, error: SQLAlchemyError | sqlite3.Error) -> StoreError:
    """The error in words, without what it was asked: that may be somebody's label."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    reason = (str(cause).splitlines() or [type(cause).__name__])[0]
    shown = url.render_as_string(hide_password=True)
    return StoreError(f"{shown}: the store cannot be used ({reason}); check that it is there and may be written")


def _sqlite(url: URL, *, power_safe: bool, reads_only: bool) -> Engine:
    assert url.database is not None
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
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


def _only_for_its_owner(file: Path) -> None:
    """A new file holds people's words and the hashes of their passwords: nobody else on the machine may read it."""
    if not file.parent.is_dir():
        raise StoreError(f"{file}: there is no folder {file.parent}; make it first")
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
