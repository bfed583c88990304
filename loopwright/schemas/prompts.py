"""Prompts and demonstrations."""

from typing import Any, Literal

from pydantic import Field, field_validator

from loopwright.schemas.base import Record


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(Record):
    """A conversation that waits for an answer.

    A tokenizer with a chat template renders it as a chat; one without continues the plain text.
    Tags are JSON values for rewards, judges and reports ("task", "adversarial", "reference"); models never see them.
    """

    id: str
    messages: tuple[Message, ...] = Field(min_length=1)
    tags: dict[str, Any] = {}

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if messages[-1].role == "assistant":
            raise ValueError("the last message of a prompt is the assistant's; end it with a user message")
        return messages

    @classmethod
    def user(cls, id: str, text: str, **tags: Any) -> "Prompt":
        """A single user message."""
        return cls(id=id, messages=(Message(role="user", content=text),), tags=tags)


class Demonstration(Record):
    """A prompt with an answer that a person wrote."""

    id: str
    prompt: tuple[Message, ...] = Field(min_length=1)
    response: str
    annotator: str | None = None
    created: str | None = None
