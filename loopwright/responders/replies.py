"""Many conversations answered by one responder: in a batch where it is a model of this process, else side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Protocol, runtime_checkable

from loopwright.schemas import Message, Reply, ReplySettings, Responder

AT_ONCE = 8  # requests to a server
CHARACTERS_A_TOKEN = 32  # more than words have: where a server ignores max_new_tokens, its reply is cut here


@runtime_checkable
class Batched(Protocol):
    """A responder that answers many conversations faster together."""

    def replies(
        self, conversations: Sequence[Sequence[Message]], settings: ReplySettings, seeds: Sequence[int]
    ) -> list[Reply | None]: ...


def replies(
    responder: Responder, conversations: Sequence[Sequence[Message]], settings: ReplySettings, seeds: Sequence[int]
) -> list[Reply | None]:
    """One reply a conversation, in their order, each sampled with its own seed.

    None: the conversation does not fit the context of a model in this process; a server refuses it.

    Raises:
        ResponderError: a server does not answer, refuses or answers wrongly.
        LoopwrightError: the messages cannot be answered as asked.
    """
    if not len(conversations) == len(seeds):
        raise ValueError(f"replies needs one seed a conversation, got {len(conversations)} and {len(seeds)}")
    if not conversations:
        return []
    if isinstance(responder, Batched):
        return responder.replies(conversations, settings, seeds)

    def one(number: int) -> Reply:
        return _read(responder, conversations[number], settings.model_copy(update={"seed": seeds[number]}))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(one, range(len(conversations))))


def _read(responder: Responder, messages: Sequence[Message], settings: ReplySettings) -> Reply:
    """The reply; one without an end is not waited for."""
    most, text = CHARACTERS_A_TOKEN * settings.max_new_tokens, ""
    with closing(responder.reply(messages, settings)) as pieces:
        for piece in pieces:
            if isinstance(piece, Reply):
                cut = len(piece.text) > most
                return piece.model_copy(update={"text": piece.text[:most], "finished": False}) if cut else piece
            text += piece
            if len(text) > most:
                break
    return Reply(text=text[:most], finished=False, model=responder.name)
