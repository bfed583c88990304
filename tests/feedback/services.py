"""What the tests of feedback need beside Python: a PostgreSQL server and a Chromium, both the operating system's."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest

STARTS_WITHIN_SECONDS = 60
STOPS_WITHIN_SECONDS = 60


def missing(what: str, install: str) -> NoReturn:
    """Skip the test; fail it where LOOPWRIGHT_REQUIRE_SERVICES=1 says that nothing may be missing."""
    message = f"{what} is not installed: {install}"
    if os.environ.get("LOOPWRIGHT_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{message} (LOOPWRIGHT_REQUIRE_SERVICES=1 asks for it)", pytrace=False)
    pytest.skip(message)


@contextmanager
def postgresql_server() -> Iterator[Path]:
    """A server with data of its own; it listens on a socket in the folder that is given, and on no port."""
    binaries = _postgresql_binaries()
    as_root = os.geteuid() == 0
    # The server ends even if this process is killed. It refuses to run as root; Debian's package made it an account.
    start = ["setpriv", "--pdeathsig=INT"]
    start += ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if as_root else []
    with tempfile.TemporaryDirectory(prefix="loopwright-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if as_root:
            shutil.chown(folder, "postgres", "postgres")
        create = [*start, binaries / "initdb", f"--pgdata={folder / 'data'}", "--username=loopwright", "--auth=trust"]
        create += ["--encoding=UTF8", "--no-locale", "--no-sync"]
        created = subprocess.run(create, cwd=folder, capture_output=True, text=True, check=False)
        assert created.returncode == 0, created.stderr
        serve = [*start, binaries / "postgres", "-D", folder / "data", "-k", folder]
        for setting in ("listen_addresses=", "fsync=off", "full_page_writes=off", "synchronous_commit=off"):
            serve += ["-c", setting]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(serve, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for(server, folder)
            yield folder
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown: whoever is still connected is cut off
            try:
                server.wait(STOPS_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def fresh_database(folder: Path, template: str = "template1") -> Iterator[str]:
    """The URL of a database of the server, which is dropped afterwards whoever is still connected.

    Args:
        template: the database that it is a copy of, to which nobody is connected; the usual one is empty.
    """
    name = f"test_{uuid.uuid4().hex}"
    with _connected(folder) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    try:
        yield f"postgresql+psycopg://loopwright@/{name}?host={folder}"
    finally:
        with _connected(folder) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def chromium() -> str:
    """The path of the operating system's Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing("Chromium", "apt-get install chromium")


def _postgresql_binaries() -> Path:
    """Debian keeps the server's programs of every version in a folder that is on nobody's PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        missing("PostgreSQL", "apt-get install postgresql")
    return found[-1].parent


def _wait_for(server: subprocess.Popen, folder: Path) -> None:
    given_up = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        try:
            _connected(folder).close()
        except psycopg.OperationalError:
            running = server.poll() is None and time.monotonic() < given_up
            assert running, f"PostgreSQL did not start:\n{(folder / 'log').read_text()}"
            time.sleep(0.05)
        else:
            return


def _connected(folder: Path) -> psycopg.Connection:
    return psycopg.connect(host=str(folder), user="loopwright", dbname="postgres", autocommit=True)
