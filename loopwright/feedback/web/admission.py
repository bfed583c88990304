"""Who asks, and whether they may. Every route has one of these dependencies; a test goes through them all."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, NamedTuple, TypeVar

from fastapi import Depends, HTTPException, Request
from sqlalchemy import Connection

from loopwright.feedback.store.database import Database
from loopwright.feedback.store.people import Account, session_account, token_account, touch_session
from loopwright.feedback.store.projects import Project, get_project, membership
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
    """The caller, if there is one."""
    find = _finder(request)
    return None if find is None else _noted(request, await asked(request, find))


class _Found(NamedTuple):
    caller: Caller | None
    touched: str | None = None  # the cookie of a session whose use is to be noted


def _finder(request: Request) -> Callable[[Connection], _Found] | None:
    """What looks up the caller; None: nothing is shown. A request with a token is judged by the token alone."""
    now = time.time()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return partial(_by_token, token=token.strip(), now=now)
    cookie = request.cookies.get(cookie_name(config_of(request)))
    # a page says whose it is: meanwhile somebody else may have logged in
    meant = request.headers.get("x-account")
    return partial(_by_cookie, cookie=cookie, meant=meant, now=now) if cookie else None


def _by_token(connection: Connection, *, token: str, now: float) -> _Found:
    found = token_account(connection, token, now=now)
    return _Found(None if found is None else Caller(found[0], found[1], None))


def _by_cookie(connection: Connection, *, cookie: str, meant: str | None, now: float) -> _Found:
    account, touch = session_account(connection, cookie, now=now)
    caller = None if account is None or meant not in (None, account.id) else Caller(account, ALL_SCOPES, cookie)
    return _Found(caller, cookie if touch else None)


def _noted(request: Request, found: _Found) -> Caller | None:
    if found.touched is not None:
        now = time.time()
        database_of(request).submit(partial(touch_session, cookie=found.touched, now=now))
    return found.caller


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
    """What the database says."""
    return await database_of(request).looked_up(look)


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
    async def dependency(request: Request, project: str) -> Member:
        find = _finder(request)
        if find is None:
            raise NotLoggedIn

        def look(connection: Connection) -> tuple[_Found, Project | None, str | None]:
            by = find(connection)
            if by.caller is None:
                return by, None, None
            found, role = membership(connection, project, by.caller.account.id)
            if by.caller.is_admin:
                return by, found or get_project(connection, project), role
            return by, None if role is None else found, role

        by, found, role = await asked(request, look)
        caller = _noted(request, by)
        if caller is None:
            raise NotLoggedIn
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
