"""What a reward server and its clients say to each other. docs/rewards.md describes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from loopwright.schemas import Prompt, Record

PROTOCOL = 1
TOKEN_VARIABLE = "LOOPWRIGHT_REWARD_TOKEN"  # holds the secret of server and clients

Name = Annotated[str, Field(max_length=200)]


class Message(Record):
    """Strict: what comes from another machine is of its type, or refused."""

    model_config = ConfigDict(strict=True)


class Version(BaseModel):
    """What is read of a message first: under another version its other keys may be others."""

    protocol: int


class TextSample(Message):
    """A response to score. Ids mean nothing on another machine, so only text travels."""

    id: int  # the client counts its samples; the reply names them in the same order
    prompt: Prompt
    response: str
    finished: bool


class ScoreRequest(Message):
    """`POST /score`."""

    protocol: int = PROTOCOL
    samples: tuple[TextSample, ...] = Field(min_length=1)


class ServedModel(Message):
    """Who scores."""

    name: Name
    hash: Annotated[str, Field(max_length=200)] | None  # of the model's files and settings; None where it is not known


class Health(Message):
    """Reply to `GET /health`."""

    protocol: int = PROTOCOL
    model: ServedModel
    scores_text: bool


class ScoreReply(Message):
    """Reply to `POST /score`: lists as long as the request's, in its order."""

    protocol: int = PROTOCOL
    model: ServedModel
    ids: list[int]
    scores: list[FiniteFloat]
    std: list[FiniteFloat] | None = None
    parts: Annotated[dict[Name, list[FiniteFloat]], Field(max_length=64)] = {}


class Refusal(BaseModel):
    """Reply with any other status than 200."""

    error: str
