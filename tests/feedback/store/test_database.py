"""Writes one after another and committed together; reads that see one moment; errors for people."""

import asyncio
import itertools
import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from loopwright.errors import ConfigError, StoreError
from loopwright.feedback.store import engines
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.engines import parse_url
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.store.tables import guidelines, projects
from tests.feedback.store.team import Team


def add(key):
    row = {"id": key, "name": key, "config": {}, "state": "open", "created": 1.0}
    return lambda connection: connection.execute(insert(projects).values(**row)) and key


def names(store):
    return store.read(names_in)


def names_in(connection):
    return list(connection.execute(select(projects.c.name).order_by(projects.c.name)).scalars())


class Gate:
    """A job that holds the writer up, so that those behind it are committed together."""

    def __init__(self, store):
        self.reached, self.opened = threading.Event(), threading.Event()
        self.future = store.submit(self.wait)
        assert self.reached.wait(20)

    def wait(self, connection):
        self.reached.set()
        assert self.opened.wait(20)

    def open(self):
        self.opened.set()
        self.future.result(20)


def commits(store):
    """Counts the commits of the writer from now on."""
    counted = []
    event.listen(store._to_write, "commit", counted.append)
    return counted


def test_questions_that_wait_share_a_transaction_and_a_failing_one_hurts_nobody(store):
    """One fails in Python, one in the database, which in PostgreSQL spoils the transaction for those after it."""
    store.write(add("one"))
    held, opened = threading.Event(), threading.Event()
    counted = []
    event.listen(store._to_read, "begin", counted.append)

    def hold(connection):
        held.set()
        assert opened.wait(20)

    def count(connection):
        return connection.execute(select(func.count()).select_from(projects)).scalar()

    def fails(connection):
        raise LookupError("no")

    first = store.look_up(hold)
    assert held.wait(20)
    store.write(add("two"))
    good = [store.look_up(count) for _ in range(3)]
    bad = store.look_up(fails)
    opened.set()
    first.result(20)
    assert [one.result(20) for one in good] == [2, 2, 2]  # what was committed before they were asked
    with pytest.raises(LookupError):
        bad.result(20)
    assert len(counted) == 1  # the one that held them up asked nothing
    spoilt = [store.look_up(job) for job in (count, lambda c: c.execute(text("SELECT nothing")), count)]
    assert (spoilt[0].result(20), spoilt[2].result(20)) == (2, 2)
    with pytest.raises(DBAPIError):
        spoilt[1].result(20)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.look_up(count)


def test_writes_that_wait_share_a_commit_and_a_failing_one_hurts_nobody(store):
    def fails(connection):
        add("lost")(connection)
        raise LookupError("no")

    counted = commits(store)
    gate = Gate(store)
    futures = [store.submit(job) for job in (add("a"), fails, add("b"), add("a"), add("c"))]
    gate.open()
    assert [futures[place].result(20) for place in (0, 2, 4)] == ["a", "b", "c"]
    with pytest.raises(LookupError):
        futures[1].result(20)
    with pytest.raises(IntegrityError):
        futures[3].result(20)
    assert names(store) == ["a", "b", "c"]
    assert len(counted) == 2  # the gate's, and that of the others together


def test_a_job_that_goes_on_after_an_error_hurts_only_itself(store):
    """PostgreSQL refuses everything after an error until the savepoint is rolled back; SQLite does not mind."""
    store.write(add("a"))

    def swallows(connection):
        try:
            add("a")(connection)
        except IntegrityError:
            return "gone on"

    gate = Gate(store)
    swallowed, neighbour = store.submit(swallows), store.submit(add("b"))
    gate.open()
    assert neighbour.result(20) == "b"
    if store.url.get_backend_name() == "postgresql":
        with pytest.raises(DBAPIError):
            swallowed.result(20)
    assert names(store) == ["a", "b"]


def test_a_commit_that_fails_is_told_to_all_and_the_next_one_works(store):
    gate = Gate(store)
    futures = [store.submit(add("a")), store.submit(add("b"))]
    commits = itertools.count(1)

    def fail(connection):
        if next(commits) == 2:  # the first is the gate's
            raise sqlite3.OperationalError("disk I/O error")

    event.listen(store._to_write, "commit", fail)
    gate.open()
    for future in futures:
        with pytest.raises(StoreError, match="disk I/O error"):
            future.result(20)
    assert names(store) == []
    store.write(add("c"))
    assert names(store) == ["c"]


def test_a_database_that_went_away_is_told_to_all_and_found_again(store):
    if store.url.get_backend_name() != "postgresql":
        pytest.skip("SQLite is in this process")
    gate = Gate(store)

    def cut_off(connection):
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        connection.execute(select(1))

    futures = [store.submit(job) for job in (add("a"), cut_off, add("b"))]
    gate.open()
    for future in futures:
        with pytest.raises(StoreError, match="cannot be used"):
            future.result(20)
    assert names(store) == []
    assert store.write(add("c")) == "c"


def test_who_waits_in_an_event_loop_is_told_with_all_of_the_group(store):
    """The loop is woken once for a group, and what was cancelled while it waited is left out."""

    async def work():
        loop, woken = asyncio.get_running_loop(), []
        wake = loop.call_soon_threadsafe
        gate = Gate(store)
        loop.call_soon_threadsafe = lambda *call: woken.append(call) or wake(*call)
        tasks = [asyncio.create_task(store.written(job)) for job in (add("a"), add("b"), add("a"), add("c"))]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.sleep(0)
        gate.open()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert told[:2] == ["a", "b"]
        assert [type(one) for one in told[2:]] == [IntegrityError, asyncio.CancelledError]
        assert len(woken) == 1
        found = await asyncio.gather(*(store.looked_up(names_in) for _ in range(3)))
        assert found == [["a", "b"]] * 3
        with pytest.raises(LookupError):
            await store.looked_up(lambda connection: {}["no"])
        with pytest.raises(DBAPIError):
            await store.looked_up(lambda connection: connection.execute(text("SELECT nothing")))
        assert await store.looked_up(names_in) == ["a", "b"]

    asyncio.run(work())
    assert names(store) == ["a", "b"]
    store.close()
    for late in (store.written(add("late")), store.looked_up(names_in)):
        with pytest.raises(StoreError, match="closed"):
            asyncio.run(late)


def test_a_loop_that_ended_meanwhile_stops_nobody(store):
    gate = Gate(store)

    async def leave():
        task = asyncio.create_task(store.written(add("a")))
        await asyncio.sleep(0)
        task.uncancel()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    after = store.submit(add("b"))
    gate.open()
    assert after.result(20) == "b"
    assert names(store) == ["a", "b"]


def test_questions_find_a_database_again_that_went_away(store):
    if store.url.get_backend_name() != "postgresql":
        pytest.skip("SQLite is in this process")
    pid = store.look_up(lambda connection: connection.execute(text("SELECT pg_backend_pid()")).scalar()).result(20)
    store.write(lambda connection: connection.execute(text(f"SELECT pg_terminate_backend({pid})")).scalar())
    assert store.look_up(names_in).result(20) == []
    assert store.look_up(names_in).result(20) == []


def test_close_finishes_what_waits_and_takes_nothing_more(database_url):
    migrate(database_url)
    store = open_store(database_url)
    gate = Gate(store)
    futures = [store.submit(add(f"p{number:03}")) for number in range(300)]  # more than one commit takes
    closing = threading.Thread(target=store.close)
    closing.start()
    gate.opened.set()
    closing.join(20)
    assert all(future.done() for future in futures)
    with pytest.raises(StoreError, match="closed"):
        store.write(add("late"))
    store.close()  # again does nothing
    with open_store(database_url) as store:
        assert names(store) == [f"p{number:03}" for number in range(300)]


def test_reading_sees_one_moment(store):
    def twice(connection):
        count = select(func.count()).select_from(projects)
        before = connection.execute(count).scalar()
        store.write(add("meanwhile"))
        return before, connection.execute(count).scalar()

    assert store.read(twice) == (0, 0)
    assert names(store) == ["meanwhile"]


def test_a_read_cannot_write(store):
    with pytest.raises(DBAPIError, match="read-?only"):
        store.read(add("a"))
    assert names(store) == []


def test_a_write_inside_a_write_is_refused_before_it_waits_for_itself(sqlite_store):
    with pytest.raises(AssertionError, match="inside a write"):
        sqlite_store.write(lambda connection: sqlite_store.write(add("a")))


def test_a_write_that_was_cancelled_while_it_waited_is_left_out(sqlite_store):
    gate = Gate(sqlite_store)
    future = sqlite_store.submit(add("a"))
    assert future.cancel()
    gate.open()
    assert names(sqlite_store) == []


@pytest.mark.parametrize(("power_safe", "level"), [(False, 1), (True, 2)])
def test_power_safe_waits_for_the_disk_at_each_commit(tmp_path, power_safe, level):
    url = f"sqlite:///{tmp_path / 'f.db'}"
    migrate(url)
    with open_store(url, power_safe=power_safe) as store:
        pragma = store.write(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar())
        assert pragma == level  # 1 NORMAL, 2 FULL
        assert store.write(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode").scalar()) == "wal"


def test_power_safe_has_no_effect_on_postgresql():
    with pytest.raises(ConfigError, match="SQLite's"):
        Database("postgresql://nobody@/nothing", power_safe=True)


@pytest.mark.parametrize("url", ["feedback.db", "sqlite://", "sqlite:///:memory:", "mysql://localhost/x", ""])
def test_a_url_that_is_none_says_how_to_write_one(url):
    with pytest.raises(ConfigError, match="sqlite:///feedback.db or postgresql://"):
        parse_url(url)


def test_an_sqlite_that_is_too_old_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreError, match=r"needs 3\.35"):
        migrate(f"sqlite:///{tmp_path / 'f.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_its_owners_alone(tmp_path):
    migrate(f"sqlite:///{tmp_path / 'f.db'}")
    assert (tmp_path / "f.db").stat().st_mode & 0o077 == 0


def test_what_cannot_be_opened_says_why_and_shows_no_password(tmp_path):
    with pytest.raises(StoreError, match="no folder"):
        migrate(f"sqlite:///{tmp_path / 'nowhere' / 'f.db'}")
    (tmp_path / "text.db").write_text("not a database, " * 1_000)
    with pytest.raises(StoreError, match=r"text\.db.*file is not a database"):
        migrate(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(StoreError) as refused:
        migrate(f"postgresql://someone:secret@/nothing?host={tmp_path}")
    assert "secret" not in str(refused.value)
    assert "someone" in str(refused.value)


def test_a_file_that_may_only_be_read_is_refused_when_it_is_opened():
    folder = Path(tempfile.mkdtemp())  # not tmp_path: another user must reach it
    url = f"sqlite:///{folder / 'f.db'}"
    migrate(url)
    folder.chmod(0o555)
    (folder / "f.db").chmod(0o444)
    root = os.geteuid() == 0  # to whom permissions say nothing
    try:
        if root:
            os.seteuid(65_534)
        with pytest.raises(StoreError, match="readonly|read-only|unable to open"):
            open_store(url)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_another_process_that_never_ends_its_transaction_is_told(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'f.db'}"
    migrate(url)
    monkeypatch.setattr(engines, "BUSY_MS", 10)
    with open_store(url) as store, sqlite3.connect(tmp_path / "f.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            store.write(add("a"))
        other.execute("ROLLBACK")
        assert store.write(add("a")) == "a"


def test_a_reference_to_nothing_is_refused(store):
    row = {"project": "nowhere", "version": 1, "text": "", "created": 1.0}
    with pytest.raises(IntegrityError):
        store.write(lambda connection: connection.execute(insert(guidelines).values(**row)))


def test_a_name_that_is_taken_leaves_the_store_as_it_was(store):
    from loopwright.feedback.projects import ProjectConfig
    from loopwright.feedback.store.projects import create_project, find_project, list_projects

    config = ProjectConfig(kind="thumb")
    first = store.write(lambda connection: create_project(connection, "same", config, now=1.0))
    with pytest.raises(StoreError, match="already"):
        store.write(lambda connection: create_project(connection, "same", config, guideline="x", now=1.0))
    assert store.read(list_projects) == [first]
    with pytest.raises(StoreError, match="there are: same"):
        store.read(lambda connection: find_project(connection, "other"))
    assert Team(store).project.config.kind == "comparison"
