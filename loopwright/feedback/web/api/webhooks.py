"""Webhooks of a project: whom to tell what is said. Signed as standardwebhooks.com says."""

import time
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from sqlalchemy import Connection

from loopwright.feedback.outbound import checked_url
from loopwright.feedback.store import webhooks
from loopwright.feedback.store.administration import note
from loopwright.feedback.web.admission import ManagesProject, config_of, database_of
from loopwright.feedback.webhooks import secret_of
from loopwright.schemas import Record

router = APIRouter(prefix="/api/v1", tags=["webhooks"])


class Wanted(Record):
    url: Annotated[str, Field(max_length=2_000)]


class Added(Record):
    webhook: str
    secret: str  # to check signatures with; it follows from the server's key and is stored nowhere


class WebhookShown(Record):
    webhook: str
    url: str
    problem: str | None
    disabled: bool


class Webhooks(Record):
    webhooks: tuple[WebhookShown, ...]


class Removed(Record):
    removed: bool = True


@router.post("/projects/{project}/webhooks")
def add(request: Request, member: ManagesProject, wanted: Wanted) -> Added:
    """Tell this address of every event from now on, at most 100 in a message."""
    config = config_of(request)
    checked_url(wanted.url, allow_loopback=config.webhooks_to_this_machine)

    def job(connection: Connection) -> str:
        now = time.time()
        id = webhooks.add_webhook(connection, member.project.id, wanted.url, now=now)
        note(connection, member.account, "webhook added", now=now, project=member.project.id, webhook=id)
        return id

    id = database_of(request).write(job)
    return Added(webhook=id, secret=secret_of(config.key.get_secret_value().encode(), id))


@router.get("/projects/{project}/webhooks")
def listed(request: Request, member: ManagesProject) -> Webhooks:
    """The project's webhooks, and what went wrong with them last."""
    found = database_of(request).read(lambda connection: webhooks.list_webhooks(connection, member.project.id))
    return Webhooks(
        webhooks=tuple(
            WebhookShown(webhook=one.id, url=one.url, problem=one.problem, disabled=one.disabled) for one in found
        )
    )


@router.delete("/projects/{project}/webhooks/{webhook}")
def remove(request: Request, member: ManagesProject, webhook: str) -> Removed:
    """Tell it nothing more."""

    def job(connection: Connection) -> None:
        webhooks.remove_webhook(connection, member.project.id, webhook)
        note(
            connection, member.account, "webhook removed", now=time.time(), project=member.project.id, webhook=webhook
        )  # fmt: skip

    database_of(request).write(job)
    return Removed()
