"""Fixtures for the store and the app: databases of both kinds, and a browser whose pages are watched."""

import pytest

from loopwright.feedback.store.migrate import migrate, open_store
from tests.feedback import services
from tests.feedback.browsing import Watch, running_browser


@pytest.fixture(scope="session")
def postgresql_server():
    """One server for each worker of the tests that need one."""
    with services.postgresql_server() as folder:
        yield folder


@pytest.fixture
def postgresql_url(postgresql_server):
    """An empty PostgreSQL database, the test's own."""
    with services.fresh_database(postgresql_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """An empty database, the test's own: the test runs once for each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'feedback.db'}"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def sqlite_store(tmp_path):
    """An open, empty store, for what does not depend on the database."""
    url = f"sqlite:///{tmp_path / 'feedback.db'}"
    migrate(url)
    with open_store(url) as database:
        yield database


@pytest.fixture(scope="module")
def browser():
    """Chromium. No longer than a module: while it runs, `asyncio.run` and `anyio.run` refuse to in the same thread."""
    with running_browser() as running:
        yield running


@pytest.fixture
def watch(browser):
    """Opens pages, `watch.open()` one for each person; the test fails if one asks other hosts or has an error."""
    watch = Watch(browser)
    yield watch
    watch.close()


@pytest.fixture
def page(watch):
    """One watched page of a person who has not signed in."""
    return watch.open()
