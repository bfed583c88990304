"""One door to the database: reads side by side, writes one after another, committed in groups.

Quick questions of many requests (`look_up`) share a transaction, too: a thread and a transaction for each cost more
than the questions.

A write is a function of a connection. Those that wait while a commit is under way are carried out in the next
transaction together, and share its commit: what makes a commit slow (the disk) is paid once for all of them. Where one
fails, nothing of the group is kept, and each is carried out again in a savepoint of its own. A caller hears of its
write only after the commit, so what was acknowledged is on disk.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from loopwright.errors import ConfigError, StoreError
from loopwright.feedback.store.engines import lock_for_writing, make_engine, parse_url, unusable
from loopwright.feedback.store.prepared import PIPELINE, told

T = TypeVar("T")
Job = Callable[[Connection], T]

MOST_JOBS_A_COMMIT = 128


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
        self._jobs: _Queue = queue.SimpleQueue()
        self._closing = threading.Lock()  # nothing may enter the queue behind the None that ends it
        self._closed = False
        self._writer = threading.Thread(target=self._write_forever, name="feedback-writer", daemon=True)
        self._writer.start()
        self._questions: _Queue = queue.SimpleQueue()
        self._glances = _Reader(self._to_read)
        self._glancing = threading.Lock()
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
            raise unusable(self.url, error) from None
        with connection:
            return job(connection)

    def look_up(self, job: Job[T]) -> "Future[T]":
        """As `read`, without waiting: for what takes a moment and is asked by many. One thread answers them in groups.

        Each sees what was committed before it was asked.
        """
        future: Future[T] = Future()
        self._put(self._questions, _Waiting(job, future), "read")
        return future

    async def looked_up(self, job: Job[T]) -> T:
        """As `look_up`, in an event loop. SQLite answers sooner than a thread could be handed the question."""
        if self.is_embedded:
            return self._glance(job)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(self._questions, _Waiting(job, future, loop), "read")
        return await future

    def write(self, job: Job[T]) -> T:
        """The job's result, once it is committed. Where it raises, nothing of it stays.

        A job may be carried out twice, the first time without a trace: it changes nothing but the database.

        Raises:
            StoreError: the store is closed, or the database failed; then nothing of the job is there.
        """
        if threading.current_thread() is self._writer:
            raise AssertionError("a write inside a write would wait for itself; use the job's connection")
        return self.submit(job).result()

    def submit(self, job: Job[T]) -> "Future[T]":
        """As `write`, without waiting."""
        future: Future[T] = Future()
        self._put(self._jobs, _Waiting(job, future), "written")
        return future

    async def written(self, job: Job[T]) -> T:
        """As `write`, in an event loop: waiting takes no thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(self._jobs, _Waiting(job, future, loop), "written")
        return await future

    def _put(self, waiting: "_Queue", one: "_Waiting", done: str) -> None:
        with self._closing:
            if self._closed:
                raise StoreError(f"the feedback store is closed; nothing more can be {done}")
            waiting.put(one)

    def close(self) -> None:
        """Finish the writes that wait, and let go of the database."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
                self._questions.put(None)
        self._writer.join()
        self._reader.join()
        with self._glancing:
            self._glances.close()
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
        with closing(_Reader(self._to_read)) as reader:
            for batch in _groups(self._questions):
                try:
                    answers = reader.answers(batch)
                except Exception:  # what fails in the database spoils what is asked after it
                    answers = [(one, *self._alone(one.job)) for one in batch]
                _tell(answers)

    def _alone(self, job: Job[T]) -> tuple[T | None, Exception | None]:
        try:
            return self.read(job), None
        except Exception as error:
            return None, error

    def _glance(self, job: Job[T]) -> T:
        with self._glancing:
            if self._closed:
                raise StoreError("the feedback store is closed; nothing more can be read")
            return self._glances.answer(job)


class _Waiting(NamedTuple):
    """A job and who waits for it: a thread, or a task in an event loop."""

    job: Job[Any]
    future: "Future[Any] | asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop | None = None

    def begins(self) -> bool:
        """Whether it is still wanted."""
        if isinstance(self.future, Future):
            return self.future.set_running_or_notify_cancel()
        return not self.future.cancelled()

    def tell(self, result: Any, failure: BaseException | None) -> None:
        if self.future.cancelled():
            return
        if failure is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(failure)


_Queue = queue.SimpleQueue[_Waiting | None]
_Answers = list[tuple[_Waiting, Any, BaseException | None]]


def _groups(waiting: _Queue) -> Iterator[list[_Waiting]]:
    """What waits, group after group, until None. What was cancelled while it waited is left out."""
    last = False
    while not last and (first := waiting.get()) is not None:
        group = [first]
        while len(group) < MOST_JOBS_A_COMMIT and not waiting.empty():
            more = waiting.get()
            if last := more is None:
                break
            group.append(more)
        yield [one for one in group if one.begins()]


def _tell(answers: _Answers) -> None:
    """Whoever waits in an event loop is told with all the others there: to wake it costs more than to tell them."""
    in_loops: dict[asyncio.AbstractEventLoop, _Answers] = {}
    for answer in answers:
        waiting, result, failure = answer
        if waiting.loop is None:
            waiting.tell(result, failure)
        else:
            in_loops.setdefault(waiting.loop, []).append(answer)
    for loop, theirs in in_loops.items():
        with suppress(RuntimeError):  # the loop has ended, and with it all who waited
            loop.call_soon_threadsafe(_tell_here, theirs)


def _tell_here(answers: _Answers) -> None:
    for waiting, result, failure in answers:
        waiting.tell(result, failure)


class _Reader:
    """A connection that stays open: to get one from the pool takes longer than a short question."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def answers(self, batch: list[_Waiting]) -> _Answers:
        """Of one moment. Raises what the database raises; then nobody was answered."""
        return self.answer(lambda connection: [(one, *_answer(one.job, connection)) for one in batch])

    def answer(self, job: Job[T]) -> T:
        """Of one moment."""
        if self._connection is None:
            self._connection = _connect(self._engine)
        try:
            return job(self._connection)
        except (DBAPIError, sqlite3.Error):
            self.close()
            raise
        finally:
            if self._connection is not None:
                self._connection.rollback()

    def close(self) -> None:
        _let_go(self._connection)
        self._connection = None


def _answer(job: Job[T], connection: Connection) -> tuple[T | None, Exception | None]:
    try:
        return job(connection), None
    except (DBAPIError, sqlite3.Error):
        raise
    except Exception as error:
        return None, error


class _Writer:
    """The one connection that writes; opened anew after the database went away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def commit(self, batch: list[_Waiting]) -> None:
        """Carry out the jobs, commit, then answer."""
        try:
            if self._connection is None:
                self._connection = _connect(self._engine)
            answers = _together(self._connection, batch)
            if answers is None:
                answers = _apart(self._connection, batch)
        except BaseException as error:  # the commit failed: nobody's write is there
            self.close()
            if isinstance(error, SQLAlchemyError | sqlite3.Error):
                error = unusable(self._engine.url, error)
            answers = [(one, None, error) for one in batch]
        _tell(answers)

    def close(self) -> None:
        _let_go(self._connection)
        self._connection = None


def _connect(engine: Engine) -> Connection:
    """PostgreSQL plans what comes again once: short statements by index, for which a plan each time costs more."""
    connection = engine.connect()
    if connection.dialect.name == "postgresql":
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("SET plan_cache_mode = force_generic_plan")
        driver.commit()
    return connection


def _let_go(connection: Connection | None) -> None:
    if connection is not None:
        connection.invalidate()
        connection.close()


def _together(connection: Connection, batch: list[_Waiting]) -> _Answers | None:
    """What nearly always goes well. None: one of several jobs failed, and nothing of any is there.

    Raises:
        Exception: the database went away, or the commit failed.
    """
    with connection.begin() as transaction:
        try:
            with _pipeline(connection):
                lock_for_writing(connection)
                answers: _Answers = [(one, one.job(connection), None) for one in batch]
            _refuse_what_failed(connection)
        except BaseException as error:
            if connection.invalidated:
                raise
            transaction.rollback()
            return [(batch[0], None, error)] if len(batch) == 1 else None
    return answers


def _apart(connection: Connection, batch: list[_Waiting]) -> _Answers:
    """Each as if it were alone, and one commit."""
    with connection.begin():
        lock_for_writing(connection)
        return [(one, *_in_savepoint(connection, one.job)) for one in batch]


@contextmanager
def _pipeline(connection: Connection) -> Iterator[None]:
    """PostgreSQL: what has no answer is sent, and not waited for (`Prepared.run`)."""
    if connection.dialect.name != "postgresql":
        yield
        return
    info, driver = connection.info, connection.connection.driver_connection
    assert driver is not None
    try:
        with driver.pipeline() as pipeline:
            info[PIPELINE] = pipeline
            try:
                yield
            finally:
                del info[PIPELINE]
    except connection.dialect.loaded_dbapi.Error as error:  # of a statement for which nobody has waited
        raise told(connection, error) from error


def _refuse_what_failed(connection: Connection) -> None:
    """A job went on after PostgreSQL had refused something: PostgreSQL would answer the commit by taking all back."""
    if connection.dialect.name == "postgresql":
        from psycopg.pq import TransactionStatus

        driver = connection.connection.driver_connection
        assert driver is not None
        if driver.info.transaction_status == TransactionStatus.INERROR:
            connection.exec_driver_sql("SELECT 1")  # raises


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
