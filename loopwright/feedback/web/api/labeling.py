"""What a labeler's screen does: get tasks, save drafts, submit, undo, skip, flag. The same for programs."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, HTTPException, Request
from pydantic import AfterValidator, Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from loopwright.feedback.sendable import sendable
from loopwright.feedback.store import labels as store_labels
from loopwright.feedback.store import queue
from loopwright.feedback.store.queue import Task
from loopwright.feedback.web.admission import Labeler, LabelsInProject, database_of
from loopwright.feedback.web.text import raw, render
from loopwright.feedback.web.word_diff import diff
from loopwright.schemas import Message, Record

T = TypeVar("T")
router = APIRouter(prefix="/api/v1", tags=["labeling"])

Uid = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]  # made by the client: sent twice, it counts once
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Ticket = Annotated[str, Field(max_length=32)]
Place = Annotated[int, Field(ge=0, lt=100)]
MOST_VALUES = 5_000  # in an answer


def _small(answer: dict[str, Any]) -> dict[str, Any]:
    """What is wrong with an answer is told value by value, while other labels wait to be written."""
    left: list[Any] = [answer]
    for _ in range(MOST_VALUES):
        if not left:
            return answer
        value = left.pop()
        if isinstance(value, dict | list):
            left.extend(value.values() if isinstance(value, dict) else value)
    raise ValueError(f"an answer has at most {MOST_VALUES:,} values")


class Html(Record):
    """A text as HTML that is safe to show."""

    raw: str  # as it is, for `white-space: pre-wrap`
    rendered: str  # as Markdown


class Shown(Record):
    prompt: tuple[Html, ...]
    answers: tuple[Html, ...]


class TaskShown(Record):
    """An item as a labeler sees it: answers in the order shown, nothing of who wrote them or what a model thinks."""

    ticket: str
    kind: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    html: Shown | None  # the same texts, where they were asked for
    guideline: int | None
    seconds_left: float
    draft: dict[str, Any] | None


class Wanted(Record):
    tasks: Annotated[int, Field(ge=1, le=queue.MOST_HELD)] = 1  # to have open afterwards: 2 to fetch the next one early
    html: bool = False  # the texts as HTML too


class Tasks(Record):
    tasks: tuple[TaskShown, ...]  # none: nothing is left for this labeler now
    new_guideline: int | None  # a version to acknowledge; until then there are no tasks


class Difference(Record):
    """Two answers as HTML; words that only one has stand in <del> in the first, in <ins> in the second."""

    first: str
    second: str


class Draft(Record):
    draft: Annotated[dict[str, Any], AfterValidator(sendable)]  # what could not be sent back would close the task


class Kept(Record):
    seconds_left: float


class Given(Record):
    uid: Uid
    answer: Annotated[dict[str, Any], AfterValidator(_small)]  # as the kind's form sends it: see docs/annotate.md
    seconds: Seconds | None = None


class Stored(Record):
    label: str  # the uid
    late: bool  # kept, but others had filled the item's slots: it does not count


class TakenBack(Record):
    uid: Uid


class Reopened(Record):
    ticket: str


class Skipped(Record):
    uid: Uid
    reason: str
    note: Annotated[str, Field(max_length=2_000)] | None = None


class Flagged(Record):
    uid: Uid
    note: Annotated[str, Field(min_length=1, max_length=2_000)]


class Done(Record):
    done: bool = True


class Seen(Record):
    version: Annotated[int, Field(ge=1)]


@router.post("/projects/{project}/tasks")
async def tasks(request: Request, member: LabelsInProject, wanted: Wanted) -> Tasks:
    """The caller's open tasks in a project; new ones are given out until there are as many as wanted."""
    now = time.time()

    def job(connection: Connection) -> tuple[list[Task], int | None]:
        return queue.claim_or_guideline(connection, member.project.id, member.account, now=now, tasks=wanted.tasks)

    found, unseen = await written(request, job)
    if wanted.html:
        return await run_in_threadpool(_tasks, found, unseen, now, html=True)
    return _tasks(found, unseen, now, html=False)


@router.get("/tasks/{ticket}")
def task(request: Request, caller: Labeler, ticket: Ticket) -> TaskShown:
    """One of the caller's tasks, with its texts as HTML: to change an answer that was given."""
    found = database_of(request).read(lambda connection: queue.get_task(connection, ticket, caller.account.id))
    return shown(found, time.time(), html=True)


@router.get("/tasks/{ticket}/difference")
def difference(request: Request, caller: Labeler, ticket: Ticket, first: Place = 0, second: Place = 1) -> Difference:
    """Where two answers of a task differ, by the places at which they are shown."""
    found = database_of(request).read(lambda connection: queue.get_task(connection, ticket, caller.account.id))
    answers = shown(found, time.time(), html=False).answers
    if max(first, second) >= len(answers):
        raise HTTPException(404, f"this task has {len(answers)} answers, counted from 0")
    old, new = diff(answers[first], answers[second])
    return Difference(first=old, second=new)


@router.put("/tasks/{ticket}/draft")
async def draft(request: Request, caller: Labeler, ticket: Ticket, given: Draft) -> Kept:
    """Keep what is on the screen; the task stays the caller's for as long again."""
    now = time.time()

    def job(connection: Connection) -> Kept:
        task = queue.get_task(connection, ticket, caller.account.id)
        return Kept(seconds_left=queue.save_draft(connection, task, given.draft, now=now) - now)

    return await written(request, job)


@router.post("/tasks/{ticket}/label")
async def label(request: Request, caller: Labeler, ticket: Ticket, given: Given) -> Stored:
    """Submit an answer; for a task that was answered, edit it."""

    def job(connection: Connection) -> Stored:
        stored = store_labels.submit(
            connection, ticket, caller.account.id, uid=given.uid, answer=given.answer, seconds=given.seconds,
            now=time.time(),
        )  # fmt: skip
        return Stored(label=stored.uid, late=stored.late)

    return await written(request, job)


@router.post("/labels/{label}/undo")
async def undo(request: Request, caller: Labeler, label: Uid, given: TakenBack) -> Reopened:
    """Take a label back; its task is open again."""

    def job(connection: Connection) -> Reopened:
        now = time.time()
        ticket = store_labels.undo(connection, label, caller.account.id, uid=given.uid, now=now)
        return Reopened(ticket=ticket)

    return await written(request, job)


@router.post("/tasks/{ticket}/skip")
async def skip(request: Request, caller: Labeler, ticket: Ticket, given: Skipped) -> Done:
    """Give a task back with a reason."""

    def job(connection: Connection) -> Done:
        store_labels.skip(
            connection, ticket, caller.account.id, uid=given.uid, reason=given.reason, note=given.note, now=time.time()
        )
        return Done()

    return await written(request, job)


@router.post("/tasks/{ticket}/skip/undo")
async def undo_skip(request: Request, caller: Labeler, ticket: Ticket, given: TakenBack) -> Done:
    """Have a skipped task open again."""

    def job(connection: Connection) -> Done:
        store_labels.undo_skip(connection, ticket, caller.account.id, uid=given.uid, now=time.time())
        return Done()

    return await written(request, job)


@router.post("/tasks/{ticket}/flag")
async def flag(request: Request, caller: Labeler, ticket: Ticket, given: Flagged) -> Done:
    """Say that something is the matter with an item."""

    def job(connection: Connection) -> Done:
        store_labels.flag(connection, ticket, caller.account.id, uid=given.uid, note=given.note, now=time.time())
        return Done()

    return await written(request, job)


async def written(request: Request, job: Callable[[Connection], T]) -> T:
    """What the store's writer makes of a job."""
    return await database_of(request).written(job)


def _tasks(found: Sequence[Task], unseen: int | None, now: float, *, html: bool) -> Tasks:
    return Tasks(tasks=tuple(shown(task, now, html=html) for task in found), new_guideline=unseen)


def shown(task: Task, now: float, *, html: bool) -> TaskShown:
    answers = tuple(task.asked.responses[place] for place in task.asked.order)
    prompt = task.asked.prompt
    return TaskShown(
        ticket=task.ticket,
        kind=task.project.config.kind,
        prompt=prompt,
        answers=answers,
        html=Shown(prompt=tuple(as_html(message.content) for message in prompt), answers=tuple(map(as_html, answers)))
        if html
        else None,
        guideline=task.guideline,
        seconds_left=max(task.until - now, 0.0),
        draft=task.draft,
    )


@lru_cache(256)
def as_html(text: str) -> Html:
    """Each task is sent twice, as the next one and as the one on the screen, and each item to several people."""
    return Html(raw=raw(text), rendered=render(text))
