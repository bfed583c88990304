"""A project's figures, as its dashboard shows them."""

from fastapi import APIRouter, Request
from sqlalchemy import Connection

from loopwright.feedback.figures import Figures
from loopwright.feedback.figuring import MOST_LABELS_HERE
from loopwright.feedback.store import reports
from loopwright.feedback.web.admission import ReadsProject, database_of
from loopwright.feedback.web.background import Background
from loopwright.schemas import Record

router = APIRouter(prefix="/api/v1", tags=["results"])

PATIENCE_SECONDS = 0.15  # figures of few labels are computed within the request


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

    def look(connection: Connection) -> tuple[int, int]:
        return reports.newest_event(connection, project), reports.progress(connection, project).labels

    version, labels = database.read(look)
    found = background.get(project, version, wait_seconds=PATIENCE_SECONDS if labels <= MOST_LABELS_HERE else 0.0)
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
