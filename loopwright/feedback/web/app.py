"""The app, put together: guard, routes, errors."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import ValidationError
from sqlalchemy.exc import DataError, StatementError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from loopwright import __version__
from loopwright.errors import LoopwrightError
from loopwright.feedback.figures import Figures
from loopwright.feedback.figuring import Figuring
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.people import Busy
from loopwright.feedback.web.admission import by_browser
from loopwright.feedback.web.api import (
    chat,
    health,
    items,
    labeling,
    own_work,
    people,
    projects,
    results,
    stats,
    webhooks,
)
from loopwright.feedback.web.background import Background
from loopwright.feedback.web.pages import admin, dashboard, entrance, work
from loopwright.feedback.web.pages import chat as chat_page
from loopwright.feedback.web.pages import items as item_pages
from loopwright.feedback.web.pages import people as people_pages
from loopwright.feedback.web.rendering import HERE, page, templates
from loopwright.feedback.web.security import Guard, headers_of
from loopwright.feedback.web.settings import ServerConfig
from loopwright.schemas import Record, Responder

PAGES = (
    entrance.router, work.router, chat_page.router, admin.router, dashboard.router, item_pages.router,
    people_pages.router,
)  # fmt: skip
API = (
    labeling.router, own_work.router, chat.router, projects.router, items.router, results.router, stats.router,
    people.router, webhooks.router,
)  # fmt: skip


class Problem(Record):
    """What every refusal says."""

    error: str  # a sentence


PROBLEMS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Problem, "description": "Refused, and why"}}

# What the framework says of an address that no route has.
ROUTELESS = {"Not Found": "there is no such page", "Method Not Allowed": "this address takes no such request"}

_log = logging.getLogger("loopwright.feedback")


def create_app(database: Database, config: ServerConfig, responders: Mapping[str, Responder] | None = None) -> FastAPI:
    """The app on an open store. Whoever opens the store closes it, after the server has stopped.

    Args:
        responders: the models that people may talk to, by the names that projects know them by.
    """
    app = FastAPI(
        title="Loopwright feedback",
        version=__version__,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # they would load scripts of a third party
        redoc_url=None,
    )
    app.state.database = database
    app.state.config = config
    app.state.responders = responders or {}
    app.state.answers = chat.Running()
    app.state.templates = templates()
    app.state.figures = background_figures(database)
    for router in API:  # before the pages, what is asked most first: routes are looked through in this order
        app.include_router(router, responses=PROBLEMS, dependencies=[Depends(OnlyKnownParameters())])
    app.include_router(health.router, responses=PROBLEMS)
    for router in PAGES:
        app.include_router(router, dependencies=[Depends(by_browser)])
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_middleware(Guard, config=config)
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(ValidationError, _malformed)
    app.add_exception_handler(Busy, _busy)
    app.add_exception_handler(LoopwrightError, _impossible)
    app.add_exception_handler(ValueError, _impossible)
    app.add_exception_handler(OverflowError, _unstorable)
    app.add_exception_handler(StatementError, _unstorable)
    app.add_exception_handler(Exception, _failed)
    return app


def background_figures(database: Database) -> Background[Figures]:
    """Close it before the database."""
    figuring = Figuring(database)
    return Background(figuring, figuring.stop)


class OnlyKnownParameters(HTTPBearer):
    """A misspelt filter would quietly find everything. In the API's description: programs send a token."""

    def __init__(self) -> None:
        super().__init__(scheme_name="HTTPBearer", auto_error=False)

    async def __call__(self, request: HTTPConnection) -> None:
        if not request.scope["query_string"]:
            return
        paths = request.app.openapi()["paths"]
        described = paths[request.scope["route"].path][request.scope["method"].lower()].get("parameters", ())
        known = {one["name"] for one in described if one["in"] == "query"}
        stray = next((name for name in request.query_params if name not in known), None)
        if stray is not None:
            there = ", ".join(sorted(known)) or "none"
            raise HTTPException(422, f"there is no parameter {stray[:40]}; there are: {there}")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    if error.status_code == 401 and _is_page(request):
        return RedirectResponse("/login", 303)
    sentence = ROUTELESS.get(str(error.detail), str(error.detail))
    return _tell(request, error.status_code, sentence, dict(error.headers or {}))


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError | ValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return _tell(request, 422, f"{place}: {first['msg']}".removeprefix(": "))


async def _busy(request: Request, error: Exception) -> Response:
    return _tell(request, 503, str(error), {"Retry-After": "5"})


async def _impossible(request: Request, error: Exception) -> Response:
    """What the store refuses: its sentence says why."""
    return _tell(request, 409 if isinstance(error, LoopwrightError) else 422, str(error))


async def _unstorable(request: Request, error: Exception) -> Response:
    """The database takes no such number or character. What else it may have is ours to see to."""
    if isinstance(error, DataError | OverflowError):
        return _tell(request, 422, "it holds a number or a character that the database cannot store")
    return await _failed(request, error)


async def _failed(request: Request, error: Exception) -> Response:
    route = getattr(request.scope.get("route"), "path", "?")  # not the address: it may hold an invitation
    _log.error("%s %s failed", request.method, route, exc_info=error)
    headers = headers_of(request.url.path, request.app.state.config)
    return _tell(request, 500, "the server failed; its log says more", headers)


def _tell(request: Request, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    if _is_page(request):
        reply: Response = page(request, "error.html", status, code=status, sentence=sentence)
    else:
        reply = JSONResponse({"error": sentence}, status)
    reply.headers.update(headers or {})
    return reply


def _is_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/")
