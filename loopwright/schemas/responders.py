"""Responders: whoever answers in a conversation, for people who chat with a model and for judges that are models."""

from collections.abc import Generator, Sequence
from typing import Annotated, Protocol

from pydantic import AfterValidator, Field, PositiveInt

from loopwright.schemas.base import Record
from loopwright.schemas.prompts import Message

SMALLEST_TEMPERATURE = 0.01  # below, logits divided by it are beyond float32 sooner or later


def _is_zero_or_large_enough(temperature: float) -> float:
    if 0 < temperature < SMALLEST_TEMPERATURE:
        raise ValueError(f"is less than {SMALLEST_TEMPERATURE}; for the likeliest token each time say 0")
    return temperature


Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_is_zero_or_large_enough)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class ReplySettings(Record):
    """How a reply is sampled."""

    temperature: Temperature = 1.0  # 0: the likeliest token each time
    max_new_tokens: PositiveInt = 256
    seed: Seed | None = None  # None: another one each time


class Reply(Record):
    """What a responder said."""

    text: str
    finished: bool  # False: cut off at max_new_tokens
    model: str  # who said it, by the name that its server gives it
    policy: str | None = None  # which version of it: the id of a policy's artifact, or a server's own fingerprint


Pieces = Generator[str | Reply, None, None]  # the text in pieces, as it is written; last, the whole


class Responder(Protocol):
    """Continues conversations. Several threads may ask it at once."""

    name: str

    def reply(self, messages: Sequence[Message], settings: ReplySettings) -> Pieces:
        """Answer the last message, which is not the assistant's. Closing the generator ends the writing.

        Raises:
            ResponderError: its server does not answer, refuses or answers wrongly.
            LoopwrightError: the messages cannot be answered as asked.
        """
        ...


class Chooser(Protocol):
    """A model that judges: it says how likely each of some short replies is, and may think aloud before."""

    name: str
    policy: str | None  # which version of it: see `Reply.policy`

    def choose(
        self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]
    ) -> Sequence[Sequence[float] | None]:
        """For each conversation, the log-probability that the reply is each of the choices; None: it is none of them.

        Raises:
            LoopwrightError: as `Responder.reply`.
        """
        ...

    def write(self, conversations: Sequence[Sequence[Message]], settings: Sequence[ReplySettings]) -> Sequence[str]:
        """A reply to each conversation, each sampled as its own settings say.

        Raises:
            LoopwrightError: as `Responder.reply`.
        """
        ...


def whole(pieces: Pieces) -> Reply:
    """The reply, for those who need it all at once: `whole(responder.reply(messages, settings)).text`."""
    *_, reply = pieces
    assert isinstance(reply, Reply), "a responder's last piece is the Reply"
    return reply
