"""What holds for every request: whom it may come from, how long it may be, what a browser may do with the reply."""

import math
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopwright.feedback.store.reports import managed_projects
from loopwright.feedback.web.admission import asked, who
from loopwright.feedback.web.settings import ServerConfig

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# Bodies are parsed in the event loop, before the routes ask who sends them: meanwhile nobody else is answered.
STRANGERS_BODY_BYTES = 16 * 2**10  # a log-in fits
SHORT_BODY_BYTES = 320 * 2**10  # of who is known; the longest answer and the largest draft fit
LONG = re.compile(  # what managers send: as long as the settings say
    r"/api/v1/projects(/[^/]+/(items|items/withdraw|scores|artifacts|guidelines))?"
    r"|/admin/new|/admin/projects/[^/]+/guidelines"
)
UPLOADS = ("/api/v1/uploads/", "/uploads/")  # files: they are read in pieces, after the route has asked who sends them

# No script, style, image or connection but our own; no plugin, frame or form that leads elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Refuses what comes from a foreign page or under a foreign name, and sets the headers of every reply."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config
        self._raw, self._raw_static = (
            [(name.lower().encode(), value.encode()) for name, value in headers_of(path, config).items()]
            for path in ("/", "/static/")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        limit = self._limit(scope["path"])
        if refusal is None and _length(headers) > STRANGERS_BODY_BYTES:
            refusal = await _too_long_for_the_sender(Request(scope), limit)
        if refusal is not None:
            reply = _refused(scope["path"], *refusal)
            reply.headers.update({**headers_of(scope["path"], self._config), "Connection": "close"})
            await reply(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:  # sent in pieces without saying how long it would be
                raise HTTPException(413, f"the request is longer than {limit} bytes", {"Connection": "close"})
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", [])
                names = {name.lower() for name, _ in given}
                ours = self._raw_static if scope["path"].startswith("/static/") else self._raw
                message = {**message, "headers": [*given, *(pair for pair in ours if pair[0] not in names)]}
            await send(message)

        await self._app(scope, counted, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if headers.get("host", "").lower() != self._config.host:  # a foreign name that leads here (DNS rebinding)
            return 421, f"this server answers to {self._config.host}; open {self._config.url}"
        if "content-length" in headers and _length(headers) > self._limit(scope["path"]):
            return 413, f"the request is longer than {self._limit(scope['path'])} bytes"
        if scope["method"] not in SAFE_METHODS and not from_here(headers, self._config.origin):
            return 403, "this request comes from another site; reload the page and try again"
        return None

    def _limit(self, path: str) -> int:
        if path.startswith(UPLOADS):
            return self._config.longest_upload_bytes
        longest = self._config.longest_body_bytes
        return longest if LONG.fullmatch(path) else min(longest, SHORT_BODY_BYTES)


def headers_of(path: str, config: ServerConfig) -> dict[str, str]:
    """What every reply tells browsers; that of a server that failed, made outside of the guard, takes it from here."""
    cache = "no-cache" if path.startswith("/static/") else "no-store"
    https = {"Strict-Transport-Security": "max-age=31536000"} if config.secure else {}
    return {**HEADERS, **https, "Cache-Control": cache}


def _length(headers: Headers) -> float:
    """Bytes of the body; of one that is sent in pieces nobody knows."""
    return math.inf if "transfer-encoding" in headers else int(headers.get("content-length") or 0)


async def _too_long_for_the_sender(request: Request, limit: int) -> tuple[int, str] | None:
    """Why a body that is not short is not read from this sender."""
    caller = await who(request)
    if caller is None:
        return 401, "log in, or send a token that is valid"
    if min(_length(request.headers), limit) <= SHORT_BODY_BYTES or caller.is_admin:
        return None
    if not await asked(request, lambda connection: managed_projects(connection, caller.account.id)):
        return 403, f"only managers of projects may send more than {SHORT_BODY_BYTES} bytes"
    return None


def _refused(path: str, status: int, why: str) -> Response:
    if status == 401 and not path.startswith("/api/"):
        return RedirectResponse("/login", 303)
    return JSONResponse({"error": why}, status)


def from_here(headers: Headers, origin: str) -> bool:
    """Whether an unsafe request comes from a page of ours, or from a program that shows a token.

    Browsers say where a request comes from (Sec-Fetch-Site), older ones at least the page's origin. A request that says
    neither is no browser's: it is heard only with a token, and then its cookies are not (`admission`).
    """
    if headers.get("authorization", "").lower().startswith("bearer "):
        return True
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    given = urlsplit(headers.get("origin", ""))
    return bool(given.netloc) and f"{given.scheme}://{given.netloc}".lower() == origin
