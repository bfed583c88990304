"""Accounts of simulated annotators: members of a project, with a token and no password."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from loopwright.errors import StoreError
from loopwright.feedback.annotators import SimulatedAnnotator
from loopwright.feedback.simulation import Labeler
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.people import create_account, create_token, find_account
from loopwright.feedback.store.projects import add_member

TOKEN_SECONDS = 30 * 86_400.0


def hire(database: Database, project: str, annotators: Sequence[SimulatedAnnotator], *, now: float) -> list[Labeler]:
    """Each annotator with the token of an account of that name, which is made where it is not there.

    Raises:
        StoreError: an account of that name is a person's.
    """

    def job(connection: Connection, annotator: SimulatedAnnotator) -> Labeler:
        account = find_account(connection, annotator.id)
        if account is None:
            account = create_account(connection, annotator.id, role="simulated", now=now)
        if account.role != "simulated":
            raise StoreError(f"there is a person called {annotator.id}; a simulated annotator cannot be them")
        add_member(connection, project, account.id)
        token = create_token(connection, account.id, "simulation", ["label"], expires=now + TOKEN_SECONDS, now=now)
        return Labeler(annotator, token)

    return [database.write(partial(job, annotator=one)) for one in annotators]
