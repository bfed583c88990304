"""What every server of ours does with a request before it looks at what is asked. Requests are hostile until then."""

import asyncio
import hmac
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from loopwright.errors import ConfigError

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.responses import StreamingResponse
    from starlette.exceptions import HTTPException as AnyHTTPException
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    raise ConfigError(f'a server needs {error.name}: pip install "loopwright[serve]"') from error

# Servers take FastAPI's names from here, so that who lacks them reads the sentence above.
__all__ = [
    "FastAPI",
    "HTTPException",
    "Request",
    "Response",
    "StreamingResponse",
    "admit",
    "bare_app",
    "is_loopback",
    "json_response",
    "listen",
    "listening_socket",
    "parse",
    "quiet",
    "read_body",
    "serve",
    "shown_address",
]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
BODY_SECONDS = 60.0  # for a client to send its request
MOST_CONNECTIONS = 64  # further ones are told 503, and clients come back
BACKLOG = 2_048  # connections that wait, also while the server starts: who finds no room comes back seconds later
IDLE_SECONDS = 75  # that an unused connection stays open: a step of PPO lies between two requests

M = TypeVar("M", bound=BaseModel)


def listen(host: str, port: int, token: str | None, variable: str) -> socket.socket:
    """A socket that nobody else has; port 0 takes any that is free.

    Args:
        variable: the environment variable with the token, for the error.

    Raises:
        ConfigError: the address is not this machine's or is taken, or others could reach it and there is no token.
    """
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: other machines can reach this address, and without a token anybody would be answered; set "
            f"{variable} or give --token-file"
        )
    return listening_socket(host, port)


def listening_socket(host: str, port: int) -> socket.socket:
    """Raises ConfigError where the address is not this machine's or is taken."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host}:{port} cannot be listened on ({error}); choose another --host or --port") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown_address(listening: socket.socket) -> str:
    """host:port of a socket, as a URL has it."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer until the process is told to stop, and then what was asked before.

    Who answers for long sees `app.state.stopping` and makes an end.
    """
    config = quiet(app, most_connections=MOST_CONNECTIONS, http="h11", proxy_headers=False)
    _Server(config, app).run(sockets=[listening])


def quiet(app: FastAPI, *, most_connections: int, **more: Any) -> uvicorn.Config:
    """Settings of a server that tells nothing of itself, and notes no addresses: they may hold invitations."""
    return uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=most_connections,
        timeout_keep_alive=IDLE_SECONDS,
        **more,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.state.stopping = True
        await super().shutdown(sockets)


def bare_app(title: str, refusal: Callable[[int, str], Mapping[str, Any]]) -> FastAPI:
    """An app without pages about itself, whose refusals are JSON: what `refusal` makes of a status and a sentence."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.stopping = False

    @app.exception_handler(AnyHTTPException)
    async def refuse(request: Request, error: AnyHTTPException) -> Response:
        headers = {**(error.headers or {}), "Connection": "close"}  # else what is left of the request would be read
        return json_response(refusal(error.status_code, str(error.detail)), error.status_code, headers)

    return app


def admit(request: Request, token: str | None) -> None:
    """Raises HTTPException (401, 403) for those who may not ask.

    Without a token only requests that name this machine `localhost` may, so that no web page asks by a name of its own.
    """
    if token is None:
        if request.url.hostname not in LOOPBACK_NAMES:
            raise HTTPException(403, "without a token this server answers only to the name localhost")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())  # takes as long however much is right
    if scheme.lower() != "bearer" or not same:
        raise HTTPException(
            401, "the token is missing or wrong; send it as Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


async def read_body(request: Request, most_bytes: int, advice: str) -> bytes:
    """The JSON text of a request; of one that is longer than `most_bytes`, no more is read, and `advice` is given.

    Raises:
        HTTPException: 400, 408, 413 or 415, for what is no JSON, too large, too slow or not whole.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send the request as Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise HTTPException(413, f"the request is longer than {most_bytes} bytes; {advice}")
    except TimeoutError:
        raise HTTPException(408, f"the request took longer than {BODY_SECONDS:g} seconds to arrive") from None
    except ClientDisconnect:
        raise HTTPException(400, "the request ended before its end") from None
    return bytes(body)


def parse(kind: type[M], body: bytes, page: str, *, status: int = 422) -> M:
    """The message in a body, or HTTPException with this status, which names the first fault and the page to read."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise HTTPException(status, f"the request is not as {page} says: {place}: {first['msg']}") from None


def json_response(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON with the shortest digits that read back."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")
