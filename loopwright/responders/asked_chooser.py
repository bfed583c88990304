"""A judge behind any responder: the probabilities of its first token where its server gives them, else its words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from loopwright.responders.judge_text import verdict_in
from loopwright.responders.openai import OpenAIResponder
from loopwright.schemas import Message, ReplySettings, Responder, whole

AT_ONCE = 8  # requests
SHORT = ReplySettings(temperature=0, max_new_tokens=8)  # a verdict alone; what goes on is none
UNSAID = -30.0  # nats: of what a reply in words might have been instead

T = TypeVar("T")
R = TypeVar("R")


class AskedChooser:
    """See `Chooser`. Which version of the model answers, the server decides; its name is all that is known."""

    policy: str | None = None

    def __init__(self, responder: Responder, *, logprobs: bool = True) -> None:
        """`logprobs`: whether to ask an OpenAI-compatible server for them; other responders only speak."""
        self.responder, self.name = responder, responder.name
        self.logprobs = logprobs and isinstance(responder, OpenAIResponder)

    def choose(
        self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]
    ) -> list[Sequence[float] | None]:
        """See `Chooser.choose`. A choice among others in a text is none: an answer that is quoted decides nothing."""

        def one(messages: Sequence[Message]) -> Sequence[float] | None:
            if self.logprobs:
                assert isinstance(self.responder, OpenAIResponder)
                likely, reply = self.responder.first_token(messages)
                return of_tokens(likely, choices) if likely else of_text(reply.text, choices)
            return of_text(whole(self.responder.reply(messages, SHORT)).text, choices)

        return _side_by_side(one, conversations)

    def write(self, conversations: Sequence[Sequence[Message]], settings: Sequence[ReplySettings]) -> list[str]:
        """See `Chooser.write`."""

        def one(number: int) -> str:
            return whole(self.responder.reply(conversations[number], settings[number])).text

        return _side_by_side(one, range(len(conversations)))


def of_tokens(likely: Mapping[str, float], choices: Sequence[str]) -> list[float] | None:
    """Log-probability of each choice from those of tokens, spaces aside; None where no choice is among them.

    One that is not among them is at most as likely as the last that is, and counts as that.
    """
    masses = [sum(math.exp(one) for token, one in likely.items() if token.strip() == choice) for choice in choices]
    if not any(masses):
        return None
    least = min(likely.values())
    return [math.log(mass) if mass else least for mass in masses]


def of_text(text: str, choices: Sequence[str]) -> list[float] | None:
    """A verdict in words: certain, or none."""
    said = verdict_in(text, choices)
    return None if said is None else [0.0 if choice == said else UNSAID for choice in choices]


def _side_by_side(call: Callable[[T], R], given: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(call, given))
