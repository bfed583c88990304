"""An app on a fresh copy of the world, with cheap password hashes."""

import pytest
from argon2 import PasswordHasher

from loopwright.feedback.store import people
from loopwright.feedback.store.database import Database
from tests.feedback import services
from tests.feedback.web.world import client_of, fresh_copy, make_app, make_world, opened


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def world(request, tmp_path_factory):
    """What asks for it runs once on each kind of database."""
    if request.param == "sqlite":
        yield make_world(f"sqlite:///{tmp_path_factory.mktemp('world') / 'world.db'}")
        return
    with services.fresh_database(request.getfixturevalue("postgresql_server")) as url:
        yield make_world(url)


@pytest.fixture(scope="session")
def world_app():
    return make_app()


@pytest.fixture
def quick_hashes(monkeypatch):
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(people, "_hasher", hasher)
    monkeypatch.setattr(people, "_NOBODYS", hasher.hash("nobody's"))


@pytest.fixture
def store(world, tmp_path):
    """The URL of a copy of the world."""
    with fresh_copy(world, tmp_path) as url:
        yield url


@pytest.fixture
def client(world_app, store, quick_hashes):
    """Asks an app on the copy; nothing but what a test sends."""
    with opened(world_app, store):
        yield client_of(world_app)


@pytest.fixture
def database(client, world_app) -> Database:
    return world_app.state.database
