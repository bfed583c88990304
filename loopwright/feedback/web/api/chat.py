"""Talking with a model: conversations whose answers are judged as they come."""

import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import closing
from typing import Annotated, Any, Literal

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request
from pydantic import Field
from sqlalchemy import Connection
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from loopwright.errors import StoreError
from loopwright.feedback.forms import LONGEST
from loopwright.feedback.store import conversations
from loopwright.feedback.store.conversations import Conversation
from loopwright.feedback.store.database import Database
from loopwright.feedback.web.admission import Labeler, LabelsInProject, database_of
from loopwright.feedback.web.text import render
from loopwright.schemas import Message, Record, Reply, ReplySettings, Responder

router = APIRouter(prefix="/api/v1", tags=["chat"])
_log = logging.getLogger("loopwright.feedback")

Id = Annotated[str, Field(max_length=32)]
MOST_ANSWERS = 64  # that models write at once; more wait


class Begun(Record):
    conversation: str


class TurnShown(Record):
    role: Literal["system", "user", "assistant"]
    content: str
    html: str
    ticket: str | None  # of an answer that can be judged, by the calls of labeling
    label: str | None  # of an answer that was judged
    answer: dict[str, Any] | None


class ConversationShown(Record):
    conversation: str
    kind: str
    turns: tuple[TurnShown, ...]


class Question(Record):
    content: Annotated[str, Field(min_length=1, max_length=LONGEST)]


class ConversationName(Record):
    conversation: str
    begins: str


class ConversationNames(Record):
    conversations: tuple[ConversationName, ...]


@router.post("/projects/{project}/conversations")
def begin(request: Request, member: LabelsInProject) -> Begun:
    """A new conversation with the project's model."""
    now = time.time()
    return Begun(
        conversation=database_of(request).write(
            lambda connection: conversations.start(connection, member.project, member.account, now=now)
        )
    )


@router.get("/projects/{project}/conversations")
def recent(request: Request, member: LabelsInProject) -> ConversationNames:
    """The caller's newest conversations."""
    found = database_of(request).read(
        lambda connection: conversations.recent(connection, member.project.id, member.account)
    )
    names = (ConversationName(conversation=id, begins=first[:80]) for id, first in found)
    return ConversationNames(conversations=tuple(names))


@router.get("/conversations/{conversation}")
def read(request: Request, caller: Labeler, conversation: Id) -> ConversationShown:
    """What was said, and how its answers were judged."""
    found = database_of(request).read(lambda connection: conversations.get(connection, conversation, caller.account.id))
    return ConversationShown(
        conversation=found.id,
        kind=found.project.config.kind,
        turns=tuple(
            TurnShown(
                role=message.role, content=message.content, html=render(message.content), ticket=turn.ticket,
                label=turn.label, answer=turn.answer,
            )
            for turn, message in zip(found.turns, found.messages, strict=True)
        ),
    )  # fmt: skip


@router.post("/conversations/{conversation}/messages", response_class=StreamingResponse)
def say(request: Request, caller: Labeler, conversation: Id, question: Question) -> StreamingResponse:
    """Ask, and read the answer as it is written.

    JSON lines: `{"piece": text}` as it comes, then `{"ticket": …, "html": …, "finished": …}`, or `{"error": sentence}`.
    """
    database = database_of(request)
    running: Running = request.app.state.answers

    def ask(connection: Connection) -> Conversation:
        found = conversations.get(connection, conversation, caller.account.id)
        conversations.ask(connection, found, question.content, now=time.time())
        return conversations.get(connection, conversation, caller.account.id)

    running.begin(caller.account.id)
    try:
        asked = database.write(ask)
        responders: Mapping[str, Responder] = request.app.state.responders
        responder = responders.get(asked.project.config.responder or "")
        if responder is None:
            name = asked.project.config.responder
            _log.error("this server knows no model %s; start it with --responder NAME=URL", name)
            raise HTTPException(409, "this project's model is not there; tell its manager")
    except BaseException:
        running.end(caller.account.id)
        raise
    return AnswerStream(running, caller.account.id, _lines(database, asked, responder))


class Running:
    """The answers that are being written. A model may think for minutes: they have threads of their own, so that other
    requests never wait for one, and each account has one at a time."""

    def __init__(self) -> None:
        self.threads = CapacityLimiter(MOST_ANSWERS)
        self._accounts: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, account: str) -> None:
        """Raises HTTPException (429) where the account has one."""
        with self._lock:
            if account in self._accounts:
                raise HTTPException(429, "the model is still answering you; wait for it, or stop it")
            self._accounts.add(account)

    def end(self, account: str) -> None:
        with self._lock:
            self._accounts.discard(account)


class AnswerStream(StreamingResponse):
    """The lines of one answer, from threads of their own; whether all are sent or not, the answer ends with it."""

    def __init__(self, running: Running, account: str, lines: Generator[str]) -> None:
        super().__init__(self._from_threads(lines), media_type="application/x-ndjson")
        self._running, self._account, self._lines = running, account, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):  # who stopped reading ends the writing, too
                await to_thread.run_sync(self._lines.close, limiter=self._running.threads)
            self._running.end(self._account)

    async def _from_threads(self, lines: Iterator[str]) -> AsyncIterator[str]:
        while (line := await to_thread.run_sync(next, lines, None, limiter=self._running.threads)) is not None:
            yield line


def _lines(database: Database, asked: Conversation, responder: Responder) -> Generator[str]:
    """The stream of one answer. Who stops reading ends the writing, and nothing of it is kept."""
    try:
        settings = ReplySettings(max_new_tokens=asked.project.config.reply_tokens)
        with closing(responder.reply(asked.messages, settings)) as pieces:
            for piece in pieces:
                if isinstance(piece, Reply):
                    yield _line(_kept(database, asked, asked.messages, piece))
                else:
                    yield _line({"piece": piece})
    except StoreError as error:
        yield _line({"error": str(error)})
    except Exception:  # what it says may name the model or where it runs: labelers judge blindly
        _log.exception("the model %s failed", responder.name)
        yield _line({"error": "the model does not answer now; try again in some minutes"})


def _kept(database: Database, asked: Conversation, messages: list[Message], reply: Reply) -> dict[str, Any]:
    if not reply.text.strip():
        raise StoreError("the model said nothing; ask again, or otherwise")
    ticket = database.write(
        lambda connection: conversations.answer(connection, asked, messages, reply, now=time.time())
    )
    return {"ticket": ticket, "html": render(reply.text), "finished": reply.finished}


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
