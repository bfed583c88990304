"""All that a project's figures are computed from, read in bulk and beside the requests."""

from typing import NamedTuple

from sqlalchemy import Connection, select

from loopwright.feedback.store import votes
from loopwright.feedback.store.projects import Project
from loopwright.feedback.store.tables import accounts, items


class Person(NamedTuple):
    name: str
    hourly_rate: float | None
    imported: bool  # their labels came from another tool


class Judged(NamedTuple):
    """Labels that count, as columns: see `votes`."""

    votes: votes.Votes
    pulls: votes.Pulls
    times: votes.Times
    gold: votes.GoldAnswers
    drawn: votes.Drawn
    people: dict[str, Person]  # by account
    preferred: dict[int, int]  # the vote that the reward model's scores say, by item; without ties


def read_judged(connection: Connection, project: Project) -> Judged:
    times, gold = votes.times(connection, project), votes.gold_answers(connection, project)
    said = {*times.annotators, *gold.annotators}
    rows = connection.execute(select(accounts.c.id, accounts.c.name, accounts.c.hourly_rate, accounts.c.role))
    people = {id: Person(name, rate, role == "imported") for id, name, rate, role in rows if id in said}
    return Judged(
        votes.votes(connection, project),
        votes.pulls(connection, project),
        times,
        gold,
        votes.drawn(connection, project),
        people,
        _preferred(connection, project),
    )


def _preferred(connection: Connection, project: Project) -> dict[int, int]:
    if project.config.kind != "comparison":
        return {}
    query = select(items.c.id, items.c.scores).where(items.c.project == project.id, items.c.scores.is_not(None))
    rows = connection.execution_options(yield_per=votes.ROWS_AT_ONCE).execute(query)
    means = ((id, scores[0]["mean"], scores[1]["mean"]) for id, scores in rows)
    return {id: 1 if second > first else -1 for id, first, second in means if first != second}
