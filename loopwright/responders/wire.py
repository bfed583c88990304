"""What a chat server and its clients say to each other: the part of OpenAI's chat completions that is honoured here.

Our server refuses every key that it does not honour. Our client reads over keys that it does not know: servers differ.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loopwright.schemas import Message, Record, ReplySettings
from loopwright.schemas.responders import Seed, Temperature

TOKEN_VARIABLE = "LOOPWRIGHT_MODEL_TOKEN"  # holds the secret of server and clients
DONE = "[DONE]"  # the last event of a stream
WITHOUT_EFFECT = {"n": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}  # many clients send them all

Name = Annotated[str, Field(max_length=200)]


class _Asked(Record):
    model_config = ConfigDict(strict=True)


class ChatRequest(_Asked):
    """`POST /v1/chat/completions`, as our server takes it."""

    model: Name
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    temperature: Temperature | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None  # the newer name of the same
    seed: Seed | None = None
    stream: bool | None = None
    n: int | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    @model_validator(mode="after")
    def _what_would_have_an_effect_is_refused(self) -> Self:
        for name, value in WITHOUT_EFFECT.items():
            if getattr(self, name) not in (None, value):
                raise ValueError(f"{name} = {getattr(self, name)} is not supported; leave it out")
        return self

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are two names of one limit; send one")
        return self

    @model_validator(mode="after")
    def _waits_for_the_assistant(self) -> Self:
        if self.messages[-1].role == "assistant":
            raise ValueError("the last message is the assistant's; end with the one to answer")
        return self

    def settings(self, most_tokens: int) -> ReplySettings:
        """What is not said is as `ReplySettings` has it, but at most so many tokens."""
        default = ReplySettings()
        return ReplySettings(
            temperature=default.temperature if self.temperature is None else self.temperature,
            max_new_tokens=self.max_tokens or self.max_completion_tokens or min(default.max_new_tokens, most_tokens),
            seed=self.seed,
        )


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Said(_Read):
    """What a message or a delta holds that we read."""

    content: str | None = None


class Likely(_Read):
    """A token that a reply might have had in a place."""

    token: str
    logprob: Annotated[float, Field(le=1e-3, allow_inf_nan=False)]  # nats


class Place(Likely):
    """The token that stands there, and the likeliest ones."""

    top_logprobs: list[Likely] = []


class Logprobs(_Read):
    content: list[Place] | None = None


class Choice(_Read):
    """One of the replies, or the next piece of it; we ask for one reply."""

    logprobs: Logprobs | None = None  # where they were asked for
    index: int = 0
    message: Said | None = None  # of a whole reply
    delta: Said | None = None  # of a chunk
    finish_reason: Name | None = None


class Completion(_Read):
    """A whole reply, or a chunk of a stream."""

    model: Name | None = None
    system_fingerprint: Name | None = None
    choices: list[Choice] = []
    error: Any = None  # in place of the choices


class ModelCard(_Read):
    """A model that a server has."""

    id: Name


class ModelList(_Read):
    """Reply to `GET /v1/models`."""

    data: list[ModelCard]


def completion(
    *, id: str, created: int, model: str, fingerprint: str | None, finish_reason: str | None, **said: dict[str, str]
) -> dict[str, Any]:
    """A whole reply (`message=…`) or a chunk of a stream (`delta=…`), as our server writes it."""
    return {
        "id": id,
        "object": "chat.completion.chunk" if "delta" in said else "chat.completion",
        "created": created,
        "model": model,
        "system_fingerprint": fingerprint,
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}],
    }


def failure(status: int, sentence: str) -> dict[str, Any]:
    """Why there is no reply."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None}}
