"""The past stays as it was: triggers refuse changes, and a change past them shows."""

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError

from loopwright.feedback.store import chain
from loopwright.feedback.store.tables import audits, events
from tests.feedback.store.team import RIGHT


@pytest.fixture
def said(team):
    team.join("ann")
    team.publish("x", "y", "z")
    task = team.task("ann")
    team.submit("ann", task, seconds=3)  # a whole number: the database gives 3.0 back
    team.submit("ann", task, {**RIGHT, "reason": "Grüße, 你好 🙂"}, seconds=0.1 + 0.2)
    team.now = int(team.now)
    team.label("ann", {"choice": None, "both_bad": True})
    team.write(chain.append, audits, account="ann", action="read labels", about={"of": "bob"}, at=5)
    return team


def without_triggers(team, statement):
    def job(connection):
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE events DISABLE TRIGGER ALL"))
        else:
            for name in ("update", "delete"):
                connection.execute(text(f"DROP TRIGGER events_refuse_{name}"))
        connection.execute(statement)

    team.write(job)


def ids(team):
    query = select(events.c.id).order_by(events.c.id)
    return team.read(lambda connection: list(connection.execute(query).scalars()))


@pytest.mark.parametrize("table", [events, audits], ids=lambda table: table.name)
def test_what_was_said_cannot_be_changed_or_deleted(said, table):
    for statement in (update(table).values(at=0.0), delete(table)):
        with pytest.raises(DBAPIError, match="never changed or deleted"):
            said.write(lambda connection, statement=statement: connection.execute(statement))
    assert said.read(chain.verify, table) is None


def test_an_untouched_past_is_whole(said):
    assert said.read(chain.verify, events) is None
    assert said.read(chain.verify, audits) is None


@pytest.mark.parametrize("change", [{"vote": 7}, {"answer": {}}, {"seconds": None}, {"account": "bob"}, {"at": 1.0}])
def test_a_change_past_the_triggers_shows(said, change):
    said.join("bob")
    _, second, _ = ids(said)
    without_triggers(said, update(events).where(events.c.id == second).values(**change))
    assert said.read(chain.verify, events) == chain.Broken("events", second)


def test_a_row_that_is_gone_shows_at_the_next(said):
    first, _, third = ids(said)
    without_triggers(said, update(events).where(events.c.id != first).values(supersedes=None))
    assert said.read(chain.verify, events).id != third  # the second: it superseded the first
    statement = delete(events).where(events.c.id == first)
    said.write(lambda connection: connection.execute(statement))
    assert said.read(chain.verify, events) == chain.Broken("events", ids(said)[0])


def test_the_hash_is_what_the_documentation_says():
    import hashlib

    row = {"uid": "a", "at": 1.5, "vote": None, "answer": {"b": 1, "a": "ü"}}
    text = "0" * 64 + '{"answer":{"a":"\\u00fc","b":1},"at":1.5,"uid":"a"}'
    assert chain.chained(chain.START, row) == hashlib.sha256(text.encode()).hexdigest()
