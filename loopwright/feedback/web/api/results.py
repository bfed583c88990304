"""What people said: as records to train on, as figures; and what counts of it."""

import json
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import Field, model_validator
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from loopwright.feedback.kinds import FORMS
from loopwright.feedback.store import administration, labels, lineage, reports
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.exclusions import exclusions as in_force
from loopwright.feedback.store.projects import Project
from loopwright.feedback.web.admission import ManagesProject, Member, PublishesInProject, ReadsProject, database_of
from loopwright.feedback.web.api.labeling import Uid
from loopwright.feedback.web.api.projects import Done, Id
from loopwright.schemas import Record

T = TypeVar("T")
router = APIRouter(prefix="/api/v1", tags=["results"])

LABELS_AT_ONCE = 500
LARGEST_ID = 2**53  # that JSON's readers keep exactly
ArtifactId = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$")]
After = Annotated[int, Query(ge=0, le=LARGEST_ID)]
JSON_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}, "description": "JSON lines"}
}


class LabelLine(Record):
    """A line of the stream of labels."""

    event: int  # to go on from: `after`
    label: str  # its uid: several records may be one label's
    kind: str  # the file it belongs in: comparisons, corrections, …
    record: dict[str, Any]


class Exclusion(Record):
    """Labels that count no more: one annotator's, one day's, or those under one guideline."""

    annotator: Id | None = None
    day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None  # UTC
    guideline: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "Exclusion":
        if len(self.what()) != 1:
            raise ValueError("name one annotator, one day or one guideline")
        return self

    def what(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class ExclusionShown(Record):
    id: str
    what: dict[str, Any]
    by: str
    at: float


class ExclusionList(Record):
    exclusions: tuple[ExclusionShown, ...]  # in force, oldest first


class NewExclusion(Record):
    uid: Uid  # made by the client: sent twice, it counts once
    exclude: Exclusion


class TakenBack(Record):
    uid: Uid


class Registration(Record):
    """An artifact of a run, and what it was made from."""

    id: ArtifactId
    kind: Annotated[str, Field(min_length=1, max_length=40)]
    parents: dict[Annotated[str, Field(max_length=40)], ArtifactId] = {}  # by role
    labels: Annotated[tuple[Uid, ...], Field(max_length=20_000)] = ()  # uids; more in further requests
    where: Annotated[str, Field(max_length=1_000)] | None = None


class Registered(Record):
    labels: int  # that are new to it


class ArtifactShown(Record):
    id: str
    kind: str
    parents: dict[str, str]
    where: str | None
    created: float
    labels: int  # of this project, that it was made from itself
    stale_labels: int | None  # its own that count no more; null: it is not stale
    stale_because_of: str | None  # the artifact it descends from that is stale


class ArtifactList(Record):
    artifacts: tuple[ArtifactShown, ...]  # oldest first


class SourceShown(Record):
    label: str
    annotator: str
    item: str
    at: float


class SourceList(Record):
    labels: tuple[SourceShown, ...]


class ArtifactIds(Record):
    artifacts: tuple[str, ...]


@router.get("/projects/{project}/labels", response_class=StreamingResponse, responses=JSON_LINES)
def stream(
    request: Request,
    member: ReadsProject,
    batch: Annotated[str | None, Query(max_length=100)] = None,
    after: After = 0,
) -> StreamingResponse:
    """Every label that counts, one JSON line each: event, label, kind, record. `after` goes on from an event."""
    lines = (
        line.model_dump_json() for line in label_lines(database_of(request), member.project, batch=batch, after=after)
    )
    return _stream(_noted(lines, request, member, batch=batch, after=after))


@router.get("/projects/{project}/records/{kind}", response_class=StreamingResponse, responses=JSON_LINES)
def records_of_kind(
    request: Request, member: ReadsProject, kind: str, batch: Annotated[str | None, Query(max_length=100)] = None
) -> StreamingResponse:
    """The labels that count, as the file that a reward model is trained on: comparisons, rankings, corrections, …"""
    made = FORMS[member.project.config.kind].makes
    if kind not in made:
        raise HTTPException(404, f"a {member.project.config.kind} project makes {' and '.join(made)}, not {kind[:40]}")
    lines = (
        json.dumps(line.record, ensure_ascii=False)
        for line in label_lines(database_of(request), member.project, batch=batch)
        if line.kind == kind
    )
    return _stream(_noted(lines, request, member, batch=batch, kind=kind), f"{member.project.name}-{kind}.jsonl")


@router.get("/projects/{project}/exclusions")
def exclusions(request: Request, member: ReadsProject) -> ExclusionList:
    found = database_of(request).read(lambda connection: in_force(connection, member.project.id))
    shown = (ExclusionShown(id=one.uid, what=one.what, by=one.by, at=one.at) for one in found)
    return ExclusionList(exclusions=tuple(shown))


@router.post("/projects/{project}/exclusions", status_code=201)
def exclude(request: Request, member: ManagesProject, given: NewExclusion) -> Done:
    """Leave labels out, until that is taken back. What was made from them is stale: see the artifacts."""

    def job(connection: Connection) -> Done:
        what = given.exclude.what()
        administration.exclude(connection, member.account, member.project.id, what, uid=given.uid, now=time.time())
        return Done()

    return database_of(request).write(job)


@router.post("/projects/{project}/exclusions/{exclusion}/restore")
def restore(request: Request, member: ManagesProject, exclusion: Uid, given: TakenBack) -> Done:
    """Let what an exclusion left out count again."""

    def job(connection: Connection) -> Done:
        administration.restore(
            connection, member.account, member.project.id, exclusion, uid=given.uid, now=time.time()
        )  # fmt: skip
        return Done()

    return database_of(request).write(job)


@router.get("/projects/{project}/artifacts")
def artifacts(request: Request, member: ReadsProject) -> ArtifactList:
    """What rests on the project's labels, and what of it is stale: made from labels that count no more."""
    return ArtifactList(artifacts=database_of(request).read(lambda connection: listed(connection, member.project.id)))


@router.post("/projects/{project}/artifacts", status_code=201)
def register(request: Request, member: PublishesInProject, given: Registration) -> Registered:
    """Note an artifact of a run, and the labels it was made from: these are frozen. Doing it twice does nothing."""

    def job(connection: Connection) -> int:
        return administration.register_artifact(
            connection, member.account, member.project.id, given.id, given.kind, parents=given.parents,
            made_from=given.labels, where=given.where, now=time.time(),
        )  # fmt: skip

    return Registered(labels=database_of(request).write(job))


@router.get("/projects/{project}/sources")
def sources(request: Request, member: ReadsProject, artifact: Annotated[str, Query(max_length=100)]) -> SourceList:
    """The project's labels that an artifact and its ancestors were made from, the first thousand."""

    def job(connection: Connection) -> list[lineage.Source]:
        found = lineage.labels_behind(connection, artifact)
        mine = reports.events_of_uids(connection, member.project.id, [one.uid for one in found])
        return [one for one in found if one.uid in mine]

    found = list(_noted(database_of(request).read(job), request, member, artifact=artifact))
    shown = (SourceShown(label=one.uid, annotator=one.annotator, item=one.item_key, at=one.at) for one in found)
    return SourceList(labels=tuple(shown))


@router.get("/projects/{project}/labels/{label}/artifacts")
def made_from(request: Request, member: ReadsProject, label: Uid) -> ArtifactIds:
    """What was made from a label, and what descends from that."""

    def look(connection: Connection) -> list[str]:
        mine = reports.events_of_uids(connection, member.project.id, [label])
        return lineage.made_from(connection, label) if mine else []

    return ArtifactIds(artifacts=tuple(database_of(request).read(look)))


def listed(connection: Connection, project: str) -> tuple[ArtifactShown, ...]:
    """The project's artifacts, with what is stale of them."""
    rows = reports.list_artifacts(connection, project)
    stale = {one.id: one for one in lineage.stale(connection)} if rows else {}
    return tuple(
        ArtifactShown(
            **row._asdict(),
            stale_labels=stale[row.id].labels if row.id in stale else None,
            stale_because_of=stale[row.id].because_of if row.id in stale else None,
        )
        for row in rows
    )


def label_lines(
    database: Database, project: Project, *, batch: str | None = None, after: int = 0
) -> Iterator[LabelLine]:
    """Every label that counts. Read in portions: no transaction waits for a slow reader."""
    while portion := database.read(partial(_portion, project=project, batch=batch, after=after)):
        yield from portion
        after = portion[-1].event


def _portion(connection: Connection, project: Project, batch: str | None, after: int) -> list[LabelLine]:
    """The next labels, each with all its records."""
    rows = labels.records(connection, project, batch=batch, after=after)
    portion: list[LabelLine] = []
    for (event, label), of_label in groupby(rows, key=itemgetter(0, 1)):
        made = [(kind, record.model_dump(mode="json")) for *_, kind, record in of_label]
        portion.extend(LabelLine(event=event, label=label, kind=kind, record=record) for kind, record in made)
        if len(portion) >= LABELS_AT_ONCE:
            break
    return portion


def _stream(lines: Iterator[str], name: str | None = None) -> StreamingResponse:
    headers = {} if name is None else {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return StreamingResponse((f"{line}\n" for line in lines), media_type="application/x-ndjson", headers=headers)


def _noted(rows: Iterable[T], request: Request, member: Member, **which: Any) -> Iterator[T]:
    """The rows. Who looks is noted before they see anything; where there is nothing to see (programs ask again and
    again) there is nothing to note."""
    left = iter(rows)
    first = list(islice(left, 1))
    if first:
        known = {name: value for name, value in which.items() if value}
        database_of(request).write(
            lambda connection: administration.labels_read(
                connection, member.account, member.project.id, now=time.time(), **known
            )
        )
    return chain(first, left)
