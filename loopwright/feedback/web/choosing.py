"""Keeps the queues of projects that ask actively in the order of what is worth asking, beside the requests."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select

from loopwright.feedback.store.database import Database
from loopwright.feedback.store.projects import Project, list_projects
from loopwright.feedback.store.selection import select_next
from loopwright.feedback.store.tables import audits, events

LOOK_EVERY_SECONDS = 20.0
REST = 20  # times as long as it took, a project's order is good enough

_log = logging.getLogger("loopwright.feedback")


class Chooser:
    """Draws anew for each open project with a `selection` when something was said, scored or published since."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, tuple[int, int]] = {}  # project -> the newest event and change when it was drawn for
        self._not_before: dict[str, float] = {}

    def look(self, *, now: float) -> list[str]:
        """Draw where it is due; the names of the projects."""
        newest, found = self._database.read(_newest), []
        for project in self._database.read(list_projects):
            if self._is_due(project, newest, now):
                begun = time.monotonic()
                try:
                    select_next(self._database, project.id)
                except Exception:  # another round tries again; one project must not end the others' turn
                    _log.exception("what project %s asks next could not be drawn", project.id)
                self._seen[project.id] = newest
                self._not_before[project.id] = now + REST * (time.monotonic() - begun)
                found.append(project.name)
        return found

    def _is_due(self, project: Project, newest: tuple[int, int], now: float) -> bool:
        active = project.config.selection != "random" and project.state == "open"
        return active and self._seen.get(project.id) != newest and now >= self._not_before.get(project.id, 0.0)


@contextmanager
def choosing(database: Database) -> Iterator[None]:
    """Inside, a thread of its own looks again and again."""
    ended = threading.Event()
    chooser = Chooser(database)

    def forever() -> None:
        while not ended.wait(LOOK_EVERY_SECONDS):
            try:
                chooser.look(now=time.time())
            except Exception:
                _log.exception("what to ask next could not be looked at")

    thread = threading.Thread(target=forever, name="feedback-choosing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _newest(connection: Connection) -> tuple[int, int]:
    """The newest thing said, and the newest change by a manager: publishing and scoring are such."""
    said, changed = (connection.execute(select(func.max(table.c.id))).scalar() or 0 for table in (events, audits))
    return said, changed
