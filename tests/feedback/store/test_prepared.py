"""Statements that are carried out past SQLAlchemy give and refuse what they give and refuse through it."""

import pytest
from sqlalchemy import bindparam, event, insert, null, select, text, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from loopwright.errors import StoreError
from loopwright.feedback.store import projects
from loopwright.feedback.store.prepared import Prepared
from loopwright.feedback.store.tables import accounts, assignments, guidelines
from tests.feedback.store.team import Team
from tests.feedback.store.test_database import Gate

ROW = {"id": "ann", "name": "Ann", "role": "annotator", "skills": ["math", "é"], "preferences": {}, "disabled": False}
GIVEN = {name: bindparam(name) for name in (*ROW, "hourly_rate", "created")}
ADD = Prepared(insert(accounts).values(GIVEN))
FIND = Prepared(select(accounts, null().label("missing")).where(accounts.c.id == bindparam("id")))
GUIDELINE = Prepared(insert(guidelines).values(project=bindparam("project"), version=1, text="secret", created=1.0))


def add(id, **more):
    values = {**ROW, "id": id, "name": id, "hourly_rate": None, "created": 1.5, **more}
    return lambda connection: ADD.run(connection, **values)


def names(store):
    return store.read(
        lambda connection: connection.execute(select(accounts.c.id).order_by(accounts.c.id)).scalars().all()
    )


def test_rows_are_those_that_sqlalchemy_gives(store):
    store.write(add("ann", hourly_rate=12.5, disabled=True))
    store.write(add("bob"))
    for id in ("ann", "bob"):
        query = select(accounts, null().label("missing")).where(accounts.c.id == id)
        theirs = store.read(lambda connection, query=query: connection.execute(query).one())
        ours = store.read(lambda connection, id=id: FIND.one(connection, id=id))
        assert ours == tuple(theirs)
        assert ours._asdict() == dict(theirs._mapping)
    assert store.read(lambda connection: FIND.first(connection, id="nobody")) is None
    assert store.read(lambda connection: FIND.all(connection, id="nobody")) == []
    with pytest.raises(ValueError, match="expected 1"):
        store.read(lambda connection: FIND.one(connection, id="nobody"))


def test_what_a_statement_returns_is_read_as_what_it_selects(store):
    skills = Prepared(update(accounts).values(skills=bindparam("to")).returning(accounts.c.skills, accounts.c.disabled))
    store.write(add("ann"))
    assert store.write(lambda connection: skills.all(connection, to=["law"])) == [(["law"], False)]
    assert store.read(lambda connection: FIND.one(connection, id="ann")).skills == ["law"]


def test_all_parameters_are_given_and_no_other(store):
    for given in ({}, {"id": "ann", "name": "Ann"}):
        with pytest.raises(TypeError, match="takes id"):
            store.read(lambda connection, given=given: FIND.all(connection, **given))


def test_an_error_is_sqlalchemys_and_tells_nothing_of_what_was_asked(store):
    with pytest.raises(IntegrityError) as refused:
        store.write(lambda connection: GUIDELINE.run(connection, project="nowhere"))
    assert "secret" not in str(refused.value)
    with pytest.raises(DBAPIError, match="read-?only"):
        store.read(add("ann"))
    if store.url.get_backend_name() == "postgresql":
        with pytest.raises(DataError, match="NUL"):
            store.write(add("a\0nn"))
    assert names(store) == []


def test_a_read_of_several_statements_sees_one_moment(store):
    def twice(connection):
        before = FIND.first(connection, id="ann")
        store.write(add("ann"))
        return before, FIND.first(connection, id="ann")

    assert store.read(twice) == (None, None)
    assert names(store) == ["ann"]


@pytest.mark.parametrize("goes_on", [False, True])
def test_one_that_fails_in_a_group_hurts_only_its_own_job(store, goes_on):
    """In a pipeline its failure is heard of later, in the middle of another job."""

    def fails(connection):
        add("lost")(connection)
        GUIDELINE.run(connection, project="nowhere")
        return FIND.all(connection, id="ann") if goes_on else None

    gate = Gate(store)
    futures = [store.submit(job) for job in (add("a"), fails, add("b"), lambda c: FIND.one(c, id="b").name)]
    gate.open()
    assert [futures[place].result(20) for place in (0, 2, 3)] == [None, None, "b"]
    with pytest.raises(IntegrityError):
        futures[1].result(20)
    assert names(store) == ["a", "b"]


def test_one_that_fails_alone_is_told_though_nothing_comes_after_it(store):
    with pytest.raises(IntegrityError):
        store.write(lambda connection: GUIDELINE.run(connection, project="nowhere"))
    store.write(add("a"))
    assert names(store) == ["a"]


def test_both_ways_to_carry_out_a_statement_see_each_others_work(store):
    def both(connection):
        add("a")(connection)
        counted = connection.execute(select(accounts.c.id)).scalars().all()
        connection.execute(update(accounts).values(role="admin"))
        add("b")(connection)
        return counted, [FIND.one(connection, id=id).role for id in "ab"], connection.execute(text("SELECT 7")).scalar()

    assert store.write(both) == (["a"], ["admin", "annotator"], 7)


def test_a_group_in_which_nothing_fails_needs_no_savepoint(store):
    said = []
    event.listen(store._to_write, "before_cursor_execute", lambda *about: said.append(about[2]))
    gate = Gate(store)
    futures = [store.submit(add(name)) for name in "abc"]
    gate.open()
    for future in futures:
        future.result(20)
    assert not any("SAVEPOINT" in statement for statement in said)
    with pytest.raises(IntegrityError):
        store.write(add("a"))
    gate = Gate(store)
    futures = [store.submit(add(name)) for name in "ad"]
    gate.open()
    assert futures[1].result(20) is None
    assert sum(statement == "SAVEPOINT job" for statement in said) == 2
    assert names(store) == ["a", "b", "c", "d"]


def test_postgresql_plans_what_comes_again_once(store):
    if store.url.get_backend_name() != "postgresql":
        pytest.skip("SQLite keeps what it prepared")
    mode = text("SHOW plan_cache_mode")
    for ask in (store.submit, store.look_up):
        assert ask(lambda connection: connection.execute(mode).scalar()).result(20) == "force_generic_plan"
    assert store.read(lambda connection: connection.execute(mode).scalar()) == "auto"  # of reports, which are long


def test_a_claim_and_a_label_wait_for_few_answers(store, monkeypatch):
    """Each answer of PostgreSQL is a way there and back. A claim looks at the member and takes a slot."""
    team = Team(store)
    team.join("ann")
    team.publish("x", "y")
    team.label("ann")
    counted = []
    monkeypatch.setattr(
        Prepared,
        "all",
        lambda self, *given, all=Prepared.all, **more: counted.append(self) or all(self, *given, **more),
    )  # noqa: E501
    (task,) = team.claim("ann")
    assert len(counted) == 2
    counted.clear()
    team.submit("ann", task)
    assert len(counted) == 1
    state = select(assignments.c.state)
    assert team.read(lambda connection: connection.execute(state).scalars().all()) == ["labeled", "labeled"]


def test_a_project_that_is_not_there_has_no_member(store):
    team = Team(store)
    team.join("ann")
    assert team.read(projects.membership, team.id, "ann")[1] == "annotator"
    assert team.read(projects.membership, team.id, "bob") == (team.project, None)
    assert team.read(projects.membership, "nowhere", "ann") == (None, None)
    with pytest.raises(StoreError, match="no project"):
        team.read(projects.get_project, "nowhere")
