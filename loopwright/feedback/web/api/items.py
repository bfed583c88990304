"""Items: published, uploaded, listed, withdrawn; gold answers and scores; how far a batch is."""

import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import Field
from sqlalchemy import Connection

from loopwright.feedback.projects import Name
from loopwright.feedback.store import administration, reports
from loopwright.feedback.store.items import Item, Score
from loopwright.feedback.web.admission import ManagesProject, PublishesInProject, ReadsProject, database_of
from loopwright.feedback.web.api.projects import Done
from loopwright.feedback.web.uploads import Upload, Uploaded
from loopwright.schemas import Message, Record

router = APIRouter(prefix="/api/v1", tags=["items"])

MOST_AT_ONCE = 1_000
Batch = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^/\x00-\x1f]+$")]
Key = Annotated[str, Field(min_length=1, max_length=100)]
Overlap = Annotated[int, Field(ge=1, le=1_000)]
State = Literal["open", "taken", "gold", "own", "withdrawn"]  # own: of somebody's conversation
Cursor = Annotated[str, Query(max_length=100)]


class Publication(Record):
    items: Annotated[tuple[Item, ...], Field(max_length=MOST_AT_ONCE)]
    batch: Batch | None = None  # a name by which to ask how far these are
    overlap: Overlap | None = None  # people for each; none: as the project says


class PublishedCounts(Record):
    new: int
    known: int  # were there before, under the same key: asked once


class ItemShown(Record):
    id: int
    key: str
    state: State
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    tags: dict[str, Any]
    policy: str | None
    reward_model: str | None
    scores: tuple[Score, ...] | None
    gold: dict[str, Any] | None
    skill: str | None
    batch: str | None
    arm: str  # random or active: how it was picked
    selection_probability: float
    overlap: int
    labels: int
    leases: int
    flags: int
    created: float


class ItemList(Record):
    items: tuple[ItemShown, ...]
    cursor: str | None  # ask for the next page with it; null: this is the last


class Keys(Record):
    keys: Annotated[tuple[Key, ...], Field(min_length=1, max_length=MOST_AT_ONCE)]


class Count(Record):
    count: int


class Gold(Record):
    key: Key
    gold: dict[str, Any] | None  # the right answer in the form's words, by the places of `responses`; null: none


class Skill(Record):
    key: Key
    skill: Name | None  # of those who are asked; null: everybody is


class Scores(Record):
    reward_model: Annotated[str, Field(min_length=1, max_length=100)]  # artifact id of who gave them
    scores: Annotated[dict[Key, tuple[Score, ...]], Field(min_length=1, max_length=MOST_AT_ONCE)]  # by key


class BatchProgress(Record):
    items: int
    labels: int  # that count
    wanted: int
    answering: str | None  # where people talk with a model: the policy that did last


@router.get("/projects/{project}/items")
def items(  # noqa: PLR0913 -- one argument a filter
    request: Request,
    member: ReadsProject,
    state: State | None = None,
    batch: Annotated[str | None, Query(max_length=100)] = None,
    flagged: bool = False,
    text: Annotated[str, Query(max_length=200)] = "",
    cursor: Cursor | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = reports.PAGE,
) -> ItemList:
    """A page of items, by key; those of one state as they wait in the queue. A search for text looks at some thousands
    of items and may return few or none with a cursor: go on until the cursor is null."""

    def look(connection: Connection) -> reports.ItemsPage:
        return reports.list_items(
            connection, member.project.id, state=state, batch=batch, flagged=flagged, text=text,
            cursor=checked_cursor(cursor, state),
            most=limit,
        )  # fmt: skip

    found = database_of(request).read(look)
    return ItemList(items=tuple(shown(row) for row in found.rows), cursor=found.cursor)


@router.post("/projects/{project}/items", status_code=201)
def publish(request: Request, member: PublishesInProject, new: Publication) -> PublishedCounts:
    """Put items into the queue: all of them, or none where one does not fit the project."""

    published = database_of(request).write(
        lambda connection: administration.publish(
            connection, member.account, member.project, new.items, batch=new.batch, overlap=new.overlap,
            now=time.time(),
        )
    )  # fmt: skip
    return PublishedCounts(**published._asdict())


@router.post(
    "/uploads/{project}/items",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
    },
)
async def upload(
    request: Request, member: PublishesInProject, batch: Annotated[Batch | None, Query()] = None
) -> Uploaded:
    """Publish a file, one item a line, as it comes. Bad lines are told with their reasons; the good ones go in."""
    return await Upload(database_of(request), member.project, member.account, batch=batch).read(request.stream())


@router.post("/projects/{project}/items/withdraw")
def withdraw(request: Request, member: ManagesProject, given: Keys) -> Count:
    """Ask no more about these; what was said of them stays. How many there were."""

    count = database_of(request).write(
        lambda connection: administration.withdraw(
            connection, member.account, member.project, given.keys, now=time.time()
        )
    )
    return Count(count=count)


@router.put("/projects/{project}/gold")
def gold(request: Request, member: ManagesProject, given: Gold) -> Done:
    """Say what the right answer to an item is. It is then asked of everybody, and its labels train nothing."""

    database_of(request).write(
        lambda connection: administration.set_gold(
            connection, member.account, member.project, given.key, given.gold, now=time.time()
        )
    )
    return Done()


@router.put("/projects/{project}/skill")
def skill(request: Request, member: ManagesProject, given: Skill) -> Done:
    """Ask only those with a skill about an item, or everybody."""

    database_of(request).write(
        lambda connection: administration.set_skill(
            connection, member.account, member.project, given.key, given.skill, now=time.time()
        )
    )
    return Done()


@router.put("/projects/{project}/scores")
def scores(request: Request, member: PublishesInProject, given: Scores) -> Count:
    """Note what a reward model thinks of the responses: what to ask next is chosen by it. Labelers never see it."""

    count = database_of(request).write(
        lambda connection: administration.set_scores(
            connection, member.account, member.project, given.scores, given.reward_model, now=time.time()
        )
    )
    return Count(count=count)


@router.get("/projects/{project}/batches/{batch}")
def batch(request: Request, member: ReadsProject, batch: Batch) -> BatchProgress:
    """How many labels of how many are there, of what was published under this name; where people talk with a model, of
    what the policy of this name answered."""
    found = database_of(request).read(lambda connection: reports.batch_progress(connection, member.project.id, batch))
    if not found.items and not member.project.config.talks:
        raise HTTPException(404, f"nothing was published under the name {batch}, or all of it was withdrawn")
    return BatchProgress(**found._asdict())


def checked_cursor(cursor: str | None, state: str | None) -> str | None:
    """A key, or in a list of one state a place in the queue."""
    if cursor and state is not None and not re.fullmatch("[0-9]{1,18}", cursor):
        raise HTTPException(422, "the cursor is of another list; begin without one")
    return cursor or None


def shown(row: reports.ItemRow) -> ItemShown:
    return ItemShown.model_validate({name: getattr(row, name) for name in ItemShown.model_fields})
