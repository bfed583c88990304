"""A project's figures, as its dashboard shows them."""

import time
from collections.abc import Callable

from fastapi import APIRouter, Request
from sqlalchemy import Connection

from loopwright.feedback.figures import Figures, figures
from loopwright.feedback.store import reports
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.judged import read_judged
from loopwright.feedback.store.projects import get_project
from loopwright.feedback.web.admission import ReadsProject, database_of
from loopwright.feedback.web.background import Background
from loopwright.schemas import Record

router = APIRouter(prefix="/api/v1", tags=["results"])

PATIENCE_SECONDS = 0.5  # small projects' figures are computed within the request


class Stats(Record):
    """Figures that were computed beside the requests, or none yet: ask again."""

    computed: float | None
    seconds: float | None  # that it took
    events_since: int  # labels, edits and so on that are not in them
    figures: Figures | None
    failed: bool = False  # the last attempt to compute newer ones: the server's log says why


@router.get("/projects/{project}/stats")
def stats(request: Request, member: ReadsProject) -> Stats:
    """Progress, agreement, reliability, pulls, disagreement, time and cost."""
    return latest(request, member.project.id)


def latest(request: Request, project: str) -> Stats:
    """The newest figures of a project; if they are out of date, newer ones are on their way."""
    database, background = database_of(request), background_of(request)
    version = database.read(lambda connection: reports.newest_event(connection, project))
    found = background.get(project, version, wait_seconds=PATIENCE_SECONDS)
    failed = background.failed(project)
    if found is None:
        return Stats(computed=None, seconds=None, events_since=0, figures=None, failed=failed)
    since = 0
    if found.version != version:
        since = database.read(lambda connection: reports.events_after(connection, project, found.version))
    return Stats(computed=found.at, seconds=found.seconds, events_since=since, figures=found.value, failed=failed)


def background_of(request: Request) -> Background[Figures]:
    background: Background[Figures] = request.app.state.figures
    return background


def computing(database: Database) -> Callable[[str], Figures]:
    """What the background thread does."""

    def job(connection: Connection, project: str) -> Figures:
        found = get_project(connection, project)
        remaining = reports.progress(connection, project).needed
        return figures(read_judged(connection, found), found.config, remaining=remaining, now=time.time())

    return lambda project: database.read(lambda connection: job(connection, project))
