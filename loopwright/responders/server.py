"""A responder for other processes and machines, over HTTP. Requests are hostile until they prove otherwise.

The model speaks in one thread, a reply at a time; a few requests wait. What the model computes for nobody ends with
the token that it is at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from loopwright.errors import LoopwrightError, ResponderError
from loopwright.responders.wire import DONE, ChatRequest, completion, failure
from loopwright.schemas import Message, Reply, ReplySettings, Responder
from loopwright.serving.server import (
    FastAPI,
    HTTPException,
    Request,
    Response,
    StreamingResponse,
    admit,
    bare_app,
    json_response,
    parse,
    read_body,
)
from loopwright.serving.tokens import check_token

PAGE = "docs/responders.md"  # what a request should have been like
BUSY_WAIT_SECONDS = 2  # after which a client is asked to come back

T = TypeVar("T")
_log = logging.getLogger("loopwright.model_server")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    body_bytes: int = 2**20
    new_tokens: int = 1024  # of a reply
    waiting: int = 8  # requests, besides the one that is answered
    seconds: float = 600.0  # from the first word of a reply to its last, however slowly it is read


def model_app(
    responder: Responder, policy: str | None = None, token: str | None = None, *, limits: Limits = Limits()
) -> FastAPI:
    """`GET /v1/models` and `POST /v1/chat/completions` of a responder, which writes one reply at a time.

    Args:
        policy: the version of the model, which replies name as `system_fingerprint`.
        token: what clients must send. None: nothing, and only requests that name this machine `localhost` are answered,
            so that no web page can ask by a name of its own.

    Raises:
        ConfigError: the token could be guessed.
    """
    if token is not None:
        check_token(token, "model_app")
    app = bare_app("loopwright model server", failure)
    speaker, started = _Speaker(responder, limits, app.state), int(time.time())

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        admit(request, token)
        card = {"id": responder.name, "object": "model", "created": started, "owned_by": "loopwright"}
        return json_response({"object": "list", "data": [card]})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        admit(request, token)
        body = await read_body(request, limits.body_bytes, "send a shorter conversation")
        asked = parse(ChatRequest, body, PAGE, status=400)
        if asked.model != responder.name:
            raise HTTPException(404, f"this server has no such model; it has {responder.name}")
        settings = asked.settings(limits.new_tokens)
        if settings.max_new_tokens > limits.new_tokens:
            raise HTTPException(
                400, f"max_tokens = {settings.max_new_tokens} is more than the {limits.new_tokens} allowed here"
            )
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": responder.name,
            "fingerprint": policy,
        }
        pieces = speaker.reply(asked.messages, settings)
        if not asked.stream:
            return json_response(await _unless_gone(request, _whole(pieces, head, limits.seconds)))
        first = await _unless_gone(request, anext(pieces))  # what is wrong with the request is still a status here
        return _Events(_events(first, pieces, head), limits.seconds)

    return app


class _Speaker:
    """The one reply that is written, and those that wait to be."""

    def __init__(self, responder: Responder, limits: Limits, state: Any) -> None:
        """`state.stopping` becomes true when the server is told to stop."""
        self.responder, self.limits, self.state = responder, limits, state
        self._thread = ThreadPoolExecutor(1, "responder")
        self._turn = asyncio.Lock()
        self._inside = 0

    async def reply(self, messages: Sequence[Message], settings: ReplySettings) -> AsyncGenerator[str | Reply, None]:
        """Raises HTTPException: 503 where too many wait or the server stops, 400 where the request is to blame, 5xx."""
        if self._inside > self.limits.waiting:
            raise HTTPException(
                503, f"{self._inside} replies are asked for already; ask later", {"Retry-After": str(BUSY_WAIT_SECONDS)}
            )
        self._inside += 1
        try:
            async with self._turn:
                pieces = self.responder.reply(messages, settings)
                try:
                    while (piece := await self._in_thread(next, pieces, None)) is not None:
                        if self.state.stopping:
                            raise HTTPException(503, "the server is stopping")
                        yield piece
                finally:  # not awaited: who is cancelled may wait for nothing; the next reply's turn comes after it
                    self._thread.submit(pieces.close)
        finally:
            self._inside -= 1

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        except ResponderError as error:
            raise HTTPException(502, str(error)) from error
        except LoopwrightError as error:
            raise HTTPException(400, str(error)) from error
        except Exception as error:
            _log.exception("%s failed", self.responder.name)
            raise HTTPException(
                500, f"the model failed ({type(error).__name__}); its server's log says more"
            ) from error


async def _whole(pieces: AsyncGenerator[str | Reply, None], head: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    try:
        piece = await anext(pieces)  # it may wait for its turn, which does not count
        async with asyncio.timeout(seconds):
            while not isinstance(piece, Reply):
                piece = await anext(pieces)
        said = {"role": "assistant", "content": piece.text}
        return completion(**head, message=said, finish_reason=_reason(piece))
    except TimeoutError:
        raise HTTPException(500, f"the reply took longer than {seconds:g} seconds; ask for fewer tokens") from None
    finally:
        await pieces.aclose()


async def _events(
    first: str | Reply, pieces: AsyncGenerator[str | Reply, None], head: Mapping[str, Any]
) -> AsyncGenerator[str, None]:
    """The reply as server-sent events."""
    try:
        yield _event(completion(**head, delta={"role": "assistant", "content": ""}, finish_reason=None))
        piece: str | Reply = first
        while not isinstance(piece, Reply):
            yield _event(completion(**head, delta={"content": piece}, finish_reason=None))
            piece = await anext(pieces)
        yield _event(completion(**head, delta={}, finish_reason=_reason(piece)))
        yield f"data: {DONE}\n\n"
    except HTTPException as error:  # too late for a status
        yield _event(failure(error.status_code, str(error.detail)))
    finally:
        await pieces.aclose()


class _Events(StreamingResponse):
    """A stream that ends its generator in every case, and itself when the time is over."""

    def __init__(self, events: AsyncGenerator[str, None], seconds: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self.events, self.seconds = events, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            _log.warning("a reply was not written and read within %g seconds", self.seconds)
        finally:
            await self.events.aclose()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled when the client hangs up."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(400, "the client hung up")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _reason(reply: Reply) -> str:
    return "stop" if reply.finished else "length"


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"  # ASCII: no reader takes one of Unicode's line ends for the event's
