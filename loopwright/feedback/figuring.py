"""Computes a project's figures: of few labels here, of many in a process of its own.

Threads share one interpreter: beside one that reads a million rows, a request that needs 10 ms takes 300.
"""

import json
import os
import subprocess
import sys
import threading
import time
from subprocess import PIPE

from sqlalchemy import Connection

from loopwright.errors import StoreError
from loopwright.feedback.figures import Figures, figures
from loopwright.feedback.store import reports
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.judged import read_judged
from loopwright.feedback.store.projects import get_project

MOST_LABELS_HERE = 20_000  # a fifth of a second; another process takes longer to start
LEAVES_CORES = 10  # niceness


class Figuring:
    """For one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def __call__(self, project: str) -> Figures:
        """Raises StoreError where the other process ends without figures."""
        labels = self._database.read(lambda connection: reports.progress(connection, project).labels)
        return figures_of(self._database, project) if labels <= MOST_LABELS_HERE else self._apart(project)

    def stop(self) -> None:
        """Wait for no figures any more."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def _apart(self, project: str) -> Figures:
        with self._lock:
            if self._stopped:
                raise StoreError("the server stops")
            self._child = subprocess.Popen([sys.executable, "-m", __name__], stdin=PIPE, stdout=PIPE, text=True)
        url = self._database.url.render_as_string(hide_password=False)
        found, _ = self._child.communicate(json.dumps([url, project]))
        if self._child.returncode:
            raise StoreError(f"the process of its own ended with status {self._child.returncode}")
        return Figures.model_validate_json(found)


def figures_of(database: Database, project: str) -> Figures:
    """All of one consistent view of the database."""

    def job(connection: Connection) -> Figures:
        found = get_project(connection, project)
        remaining = reports.progress(connection, project).needed
        return figures(read_judged(connection, found), found.config, remaining=remaining, now=time.time())

    return database.read(job)


def main() -> None:
    """The other process: URL and project come in on stdin, where nobody else can read a password."""
    os.nice(LEAVES_CORES)
    url, project = json.load(sys.stdin)
    with Database(url) as database:
        sys.stdout.write(figures_of(database, project).model_dump_json())


if __name__ == "__main__":
    main()
