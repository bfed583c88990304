"""A store with a project in it, on both databases."""

import pytest

from loopwright.feedback.store.migrate import migrate, open_store
from tests.feedback.store.team import Team


@pytest.fixture
def store(database_url):
    """An open, empty store; the test runs once on SQLite and once on PostgreSQL."""
    migrate(database_url)
    with open_store(database_url) as database:
        yield database


@pytest.fixture
def team(store):
    """People who compare answers, three to an item."""
    return Team(store, overlap=3)
