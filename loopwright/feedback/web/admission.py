"""Who asks, and whether they may. Every route has one of these dependencies; a test goes through them all."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple, TypeVar

from fastapi import Depends, HTTPException, Request
from sqlalchemy import Connection

from loopwright.feedback.store.database import Database
from loopwright.feedback.store.people import Account, session_account, token_account, touch_session
from loopwright.feedback.store.projects import Project, get_project, member_role
from loopwright.feedback.web.settings import ServerConfig

T = TypeVar("T")
ALL_SCOPES = frozenset({"label", "read", "publish", "manage", "admin"})


class Caller(NamedTuple):
    """An account, through a browser's session (which may all that the account may) or a program's token."""

    account: Account
    scopes: frozenset[str]
    cookie: str | None  # of the session; none: a token

    @property
    def is_admin(self) -> bool:
        return self.account.role == "admin"


def database_of(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def config_of(request: Request) -> ServerConfig:
    config: ServerConfig = request.app.state.config
    return config


def cookie_name(config: ServerConfig) -> str:
    return "__Host-session" if config.secure else "session"  # the prefix makes browsers insist on Secure


async def who(request: Request) -> Caller | None:
    """The caller, if there is one. A request with a token is judged by the token alone."""
    now = time.time()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found = await asked(request, lambda connection: token_account(connection, token.strip(), now=now))
        return None if found is None else Caller(found[0], found[1], None)
    cookie = request.cookies.get(cookie_name(config_of(request)))
    if not cookie:
        return None
    account, touch = await asked(request, lambda connection: session_account(connection, cookie, now=now))
    if touch:
        database_of(request).submit(lambda connection: touch_session(connection, cookie, now=now))
    meant = request.headers.get("x-account")  # a page says whose it is: meanwhile somebody else may have logged in
    if account is None or meant not in (None, account.id):
        return None
    return Caller(account, ALL_SCOPES, cookie)


class NotLoggedIn(HTTPException):
    """401: pages lead to the log-in, programs are told."""

    def __init__(self) -> None:
        super().__init__(401, "log in, or send a token that is valid", {"WWW-Authenticate": "Bearer"})


async def anybody(request: Request) -> Caller | None:
    """Pages before the log-in."""
    return await who(request)


async def somebody(request: Request) -> Caller:
    """Any account, for what is its own."""
    caller = await who(request)
    if caller is None:
        raise NotLoggedIn
    return caller


async def asked(request: Request, look: Callable[[Connection], T]) -> T:
    """What the database says. SQLite answers such questions sooner than a thread could be handed them."""
    database = database_of(request)
    return database.read(look) if database.is_embedded else await asyncio.wrap_future(database.look_up(look))


def refuse_token(caller: Caller) -> None:
    """What lets somebody in is not for tokens to make: it would let in for more, and outlive the token."""
    if caller.cookie is None:
        raise HTTPException(403, "a token may not do this; log in")


async def by_browser(request: Request) -> None:
    """For pages: what one shows and takes is of several scopes."""
    if request.headers.get("authorization", "").lower().startswith("bearer"):
        raise HTTPException(403, "pages are for browsers; programs use /api/v1")


async def in_person(caller: Annotated[Caller, Depends(somebody)]) -> Caller:
    """Somebody at a browser."""
    refuse_token(caller)
    return caller


async def reads(caller: Annotated[Caller, Depends(somebody)]) -> Caller:
    """For lists of what the caller manages, which may be empty."""
    if "read" not in caller.scopes:
        raise HTTPException(403, "this token may not read")
    return caller


async def admin(caller: Annotated[Caller, Depends(somebody)]) -> Caller:
    """Accounts with the role admin; tokens with that scope."""
    if not caller.is_admin or "admin" not in caller.scopes:
        raise HTTPException(403, "only administrators may do this")
    return caller


async def admin_in_person(caller: Annotated[Caller, Depends(admin)]) -> Caller:
    refuse_token(caller)
    return caller


class Member(NamedTuple):
    """A caller in a project."""

    caller: Caller
    project: Project
    manages: bool

    @property
    def account(self) -> str:
        return self.caller.account.id


def _member(scope: str, *, manages: bool) -> Callable[..., Awaitable[Member]]:
    async def dependency(request: Request, project: str, caller: Annotated[Caller, Depends(somebody)]) -> Member:
        def look(connection: Connection) -> tuple[Project | None, str | None]:
            role = member_role(connection, project, caller.account.id)
            if role is None and not caller.is_admin:
                return None, None
            return get_project(connection, project), role

        found, role = await asked(request, look)
        if found is None:  # whether there is such a project is nobody else's business
            raise HTTPException(404, "there is no such project of yours")
        may_manage = caller.is_admin or role == "manager"
        if scope not in caller.scopes:
            raise HTTPException(403, f"this token may not {scope}")
        if manages and not may_manage:
            raise HTTPException(403, "only the project's managers may do this")
        return Member(caller, found, may_manage)

    return dependency


labels_in_project = _member("label", manages=False)  # works on its tasks
reads_project = _member("read", manages=True)  # sees what everybody said: noted in the audit log where it is by name
publishes_in_project = _member("publish", manages=True)
manages_project = _member("manage", manages=True)


async def labels(caller: Annotated[Caller, Depends(somebody)]) -> Caller:
    """For a task or label named by itself: whose it is, the store checks."""
    if "label" not in caller.scopes:
        raise HTTPException(403, "this token may not label")
    return caller


Anybody = Annotated[Caller | None, Depends(anybody)]
Somebody = Annotated[Caller, Depends(somebody)]
InPerson = Annotated[Caller, Depends(in_person)]
Reader = Annotated[Caller, Depends(reads)]
Labeler = Annotated[Caller, Depends(labels)]
Admin = Annotated[Caller, Depends(admin)]
AdminInPerson = Annotated[Caller, Depends(admin_in_person)]
LabelsInProject = Annotated[Member, Depends(labels_in_project)]
ReadsProject = Annotated[Member, Depends(reads_project)]
PublishesInProject = Annotated[Member, Depends(publishes_in_project)]
ManagesProject = Annotated[Member, Depends(manages_project)]
ADMISSIONS = (
    anybody, somebody, in_person, reads, labels, admin, admin_in_person,
    labels_in_project, reads_project, publishes_in_project, manages_project,
)  # fmt: skip
