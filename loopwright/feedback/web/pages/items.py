"""Managers' pages of items: the list, an upload, one item and what was said of it, what people disagree on."""

import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import Response

from loopwright.errors import LoopwrightError
from loopwright.feedback.kinds import FORMS
from loopwright.feedback.projects import NAME
from loopwright.feedback.store import administration, reports
from loopwright.feedback.web.admission import ManagesProject, Member, PublishesInProject, ReadsProject, database_of
from loopwright.feedback.web.api.items import checked_cursor
from loopwright.feedback.web.api.stats import latest
from loopwright.feedback.web.pages.admin import Form, project_page, to
from loopwright.feedback.web.uploads import Upload, Uploaded

router = APIRouter(include_in_schema=False)

CHUNK_BYTES = 2**16
STATES = ("open", "taken", "gold", "withdrawn")
LONGEST_BATCH = 100
SKILL = re.compile(NAME)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


@router.get("/admin/projects/{project}/items")
def items(
    request: Request, member: ReadsProject, show: str = "", text: str = "", batch: str = "", cursor: str = ""
) -> Response:
    """`show` is a state, or flagged."""
    return _items(request, member, show=show, text=text, batch=batch, cursor=cursor)


@router.post("/uploads/{project}/items")
async def upload(request: Request, member: PublishesInProject) -> Response:
    """A file of a plain form. It is read here and not before the caller was let in."""
    async with request.form(max_files=1, max_fields=4) as form:
        file, batch = form.get("file"), form.get("batch")
        if not isinstance(file, UploadFile) or not file.filename:
            return await run_in_threadpool(_items, request, member, problem="Choose a file of JSON lines first.")
        name = str(batch).strip()[:LONGEST_BATCH] if batch else None
        done = await Upload(database_of(request), member.project, member.account, batch=name or None).read(
            _chunks(file)
        )
    return await run_in_threadpool(_items, request, member, uploaded=done)


@router.get("/admin/projects/{project}/items/{item}")
def item(request: Request, member: ReadsProject, item: int) -> Response:
    """One item, and who said what of it: that somebody looked is noted."""
    return _item(request, member, item)


@router.post("/admin/projects/{project}/items/{item}/gold")
def set_gold(request: Request, member: ManagesProject, item: int, form: Form) -> Response:
    key = _key(request, member, item)
    text = form.get("gold", "").strip()
    try:
        given = json.loads(text) if text else None
        if given is not None and not isinstance(given, dict):
            raise ValueError("the gold answer is an object, as the form sends it")
        database_of(request).write(
            lambda connection: administration.set_gold(
                connection, member.account, member.project, key, given, now=time.time()
            )
        )
    except (ValueError, RecursionError, LoopwrightError) as error:
        problem = " ".join(str(error).split("For further information", maxsplit=1)[0].split())
        return _item(request, member, item, problem=problem, gold=text)
    return to(member, f"items/{item}", "gold" if given is not None else "saved")


@router.post("/admin/projects/{project}/items/{item}/skill")
def set_skill(request: Request, member: ManagesProject, item: int, form: Form) -> Response:
    key, skill = _key(request, member, item), form.get("skill", "").strip() or None
    if skill is not None and not SKILL.fullmatch(skill):
        raise HTTPException(422, "a skill is named in letters and digits, with spaces, dots, dashes and _ between them")
    database_of(request).write(
        lambda connection: administration.set_skill(
            connection, member.account, member.project, key, skill, now=time.time()
        )
    )
    return to(member, f"items/{item}", "saved")


@router.post("/admin/projects/{project}/items/{item}/withdraw")
def withdraw(request: Request, member: ManagesProject, item: int) -> Response:
    key = _key(request, member, item)
    database_of(request).write(
        lambda connection: administration.withdraw(connection, member.account, member.project, [key], now=time.time())
    )
    return to(member, f"items/{item}", "withdrawn")


@router.get("/admin/projects/{project}/disagreements")
def disagreements(request: Request, member: ReadsProject) -> Response:
    """What people disagree on, most disputed first."""
    stats = latest(request, member.project.id)
    disputed = stats.figures.disputed[: reports.PAGE] if stats.figures else ()

    def look(connection: Connection) -> list[tuple[Any, reports.ItemRow]]:
        found = ((one, reports.get_item(connection, member.project.id, one.item)) for one in disputed)
        return [(one, row) for one, row in found if row is not None]

    rows = database_of(request).read(look)
    return project_page(request, "admin_disagreements.html", member, tab="disagreements", rows=rows, stats=stats)


def _items(  # noqa: PLR0913 -- one argument a filter
    request: Request,
    member: Member,
    *,
    show: str = "",
    text: str = "",
    batch: str = "",
    cursor: str = "",
    uploaded: Uploaded | None = None,
    problem: str = "",
) -> Response:
    def look(connection: Connection) -> tuple[reports.ItemsPage, reports.Progress]:
        state = show if show in STATES else None
        found = reports.list_items(
            connection, member.project.id, state=state, flagged=show == "flagged", text=text[:200],
            batch=batch or None, cursor=checked_cursor(cursor, state),
        )  # fmt: skip
        return found, reports.progress(connection, member.project.id)

    found, progress = database_of(request).read(look)
    return project_page(
        request, "admin_items.html", member, tab="items", status=422 if problem else 200, found=found,
        progress=progress, states=STATES, show=show, text=text, batch=batch, uploaded=uploaded, problem=problem,
    )  # fmt: skip


def _item(request: Request, member: Member, item: int, problem: str = "", gold: str | None = None) -> Response:
    def job(connection: Connection) -> tuple[reports.ItemRow, list[reports.EventRow]]:
        row = reports.get_item(connection, member.project.id, item)
        if row is None:
            raise HTTPException(404, "this project has no such item")
        events = reports.item_events(connection, item)
        if events:
            administration.labels_read(connection, member.account, member.project.id, item=item, now=time.time())
        return row, events

    row, events = database_of(request).write(job)
    shown = json.dumps(row.gold, ensure_ascii=False) if row.gold is not None else ""
    return project_page(
        request, "admin_item.html", member, tab="items", status=422 if problem else 200, item=row, events=events,
        problem=problem, gold=shown if gold is None else gold, said_of=_said, ordinals=ORDINALS,
        quick={name: json.dumps(answer) for name, answer in FORMS[member.project.config.kind].quick_gold.items()},
    )  # fmt: skip


def _said(event: reports.EventRow) -> list[tuple[str, str]]:
    """An answer as names and values. Places are those on the labeler's screen: they are told with the stored ones."""
    order, shown = event.order_shown or [], []
    for name, value in (event.answer or {}).items():
        if name in ("choice", "chosen"):
            there = isinstance(value, int) and value < len(order)
            text = f"{'ABCDEFGHI'[value]}, the {ORDINALS[order[value]]} answer" if there else "neither"
            shown.append((name, text))
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            shown.append((name.replace("_", " "), text))
    if len(order) > 1:
        shown.append(("shown", ", then ".join(ORDINALS[place] for place in order)))
    return shown


def _key(request: Request, member: Member, item: int) -> str:
    row = database_of(request).read(lambda connection: reports.get_item(connection, member.project.id, item))
    if row is None:
        raise HTTPException(404, "this project has no such item")
    return row.key


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk
