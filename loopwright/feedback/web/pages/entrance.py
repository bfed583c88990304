"""The way in and out: log-in, log-out, invitations, one's own account."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from sqlalchemy import Connection
from starlette.responses import HTMLResponse, RedirectResponse, Response

from loopwright.errors import StoreError
from loopwright.feedback.store import people
from loopwright.feedback.web.admission import Anybody, InPerson, Somebody, config_of, cookie_name, database_of
from loopwright.feedback.web.rendering import page

router = APIRouter(include_in_schema=False)

Text = Annotated[str, Form(max_length=200)]


@router.get("/login")
def login_page(request: Request, caller: Anybody) -> Response:
    return RedirectResponse("/", 303) if caller is not None else _login(request)


@router.post("/login")
def login(request: Request, caller: Anybody, name: Text, password: Text) -> Response:
    """A new session, whatever cookie came with the request. Wrong name and wrong password look the same."""
    database = database_of(request)
    wait = _wait(request, name)
    if wait:
        return _later(_login(request, _too_many(wait), status=429), wait)
    account, password_hash = database.read(lambda connection: people.password_of(connection, name))
    if not people.matches(password_hash, password) or account is None:
        _failed(request, name)
        return _login(request, "The name or the password is wrong.", status=401)
    return _enter(request, account, old=caller.cookie if caller else None)


@router.post("/logout")
def logout(request: Request, caller: Somebody) -> Response:
    """The session is gone from the store, not only its cookie."""
    cookie = caller.cookie
    if cookie is not None:
        database_of(request).write(lambda connection: people.end_session(connection, cookie))
    reply = RedirectResponse("/login", 303)
    config = config_of(request)  # browsers heed a reply on a __Host- cookie only where it is Secure
    reply.delete_cookie(cookie_name(config), httponly=True, samesite="lax", secure=config.secure, path="/")
    return reply


@router.get("/invitation/{secret}")
def invitation_page(request: Request, caller: Anybody, secret: str) -> Response:
    found = database_of(request).read(lambda connection: people.open_invitation(connection, secret, now=time.time()))
    if found is None:
        raise HTTPException(404, "This invitation was used or has run out. Ask for another.")
    return _invitation(request, secret)


@router.post("/invitation/{secret}")
def accept(request: Request, caller: Anybody, secret: str, name: Text, password: Text) -> Response:
    """Make the account, and log in. A hash costs much: nobody gets one without an invitation."""
    database, now = database_of(request), time.time()
    wait = _wait(request)
    if wait:
        return _later(_invitation(request, secret, _too_many(wait), status=429), wait)
    try:
        database.read(lambda connection: people.checked_invitation(connection, secret, now=now))
        password_hash = people.hash_password(password)
        account = database.write(
            lambda connection: people.accept(connection, secret, name.strip(), password_hash, now=now)
        )
    except people.Busy:
        raise
    except StoreError as error:
        _failed(request)
        return _invitation(request, secret, f"{error}.".capitalize(), status=409)
    return _enter(request, account.id, old=caller.cookie if caller else None)


@router.post("/account/password")
def change_password(request: Request, caller: InPerson, old: Text, new: Text) -> Response:
    """All sessions and tokens end, this session gets another cookie."""
    database = database_of(request)
    name = caller.account.name
    wait = _wait(request, name)
    if wait:
        raise HTTPException(429, _too_many(wait), {"Retry-After": str(int(wait) + 1)})
    _, password_hash = database.read(lambda connection: people.password_of(connection, name))
    if not people.matches(password_hash, old):
        _failed(request, name)
        raise HTTPException(403, "The old password is wrong.")
    fresh = people.hash_password(new)
    database.write(lambda connection: people.set_password(connection, caller.account.id, fresh, now=time.time()))
    return _enter(request, caller.account.id, old=None)


def _enter(request: Request, account: str, *, old: str | None) -> Response:
    """A session with an id of its own: whoever planted the old cookie has nothing."""

    def job(connection: Connection) -> str:
        if old is not None:
            people.end_session(connection, old)
        return people.start_session(connection, account, now=time.time())

    cookie = database_of(request).write(job)
    config = config_of(request)
    reply = RedirectResponse("/", 303)
    reply.set_cookie(cookie_name(config), cookie, httponly=True, samesite="lax", secure=config.secure, path="/")
    return reply


def _login(request: Request, problem: str = "", status: int = 200) -> HTMLResponse:
    return page(request, "login.html", status, problem=problem)


def _invitation(request: Request, secret: str, problem: str = "", status: int = 200) -> HTMLResponse:
    return page(
        request, "invitation.html", status, secret=secret, problem=problem, shortest=people.SHORTEST_PASSWORD
    )  # fmt: skip


def _wait(request: Request, name: str | None = None) -> float:
    address, now = _address(request), time.time()
    return database_of(request).read(lambda connection: people.wait_before_try(connection, name, address, now=now))


def _failed(request: Request, name: str | None = None) -> None:
    address, now = _address(request), time.time()
    database_of(request).write(lambda connection: people.note_attempt(connection, name, address, now=now))


def _too_many(wait: float) -> str:
    return f"Too many tries. Wait {max(int(wait // 60), 1)} minutes and try again."


def _later(reply: Response, wait: float) -> Response:
    reply.headers["Retry-After"] = str(int(wait) + 1)
    return reply


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"
