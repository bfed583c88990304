"""Which model answers, as a recipe says it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from loopwright.config.base import Config
from loopwright.responders.openai import OpenAIResponder
from loopwright.schemas import Responder

if TYPE_CHECKING:
    import torch


class ResponderConfig(Config):
    """A model of this machine, or one behind a server."""

    path: Path | None = None  # a Hugging Face folder of a causal LM
    url: str | None = None  # of an OpenAI-compatible server: http://host:8400/v1
    model: str | None = None  # its name there; None: the only one that the server has

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("a model is named by path or by url; give one of them")
        if self.model is not None and self.url is None:
            raise ValueError("model has no effect without url, the address of a server that has several; leave it out")
        return self

    def open(self, device: torch.device, say: Callable[[str], None] | None = None) -> Responder:
        """The responder; `say` hears of it where our own engine cannot run its model.

        Raises:
            ModelError: the folder is no causal LM.
            ConfigError: the url makes no sense, or httpx is not installed.
        """
        if self.path is not None:
            from loopwright.responders.local import LocalResponder  # takes torch, which a server's model does not need

            return LocalResponder.open(self.path, device, say)
        assert self.url is not None
        return OpenAIResponder(self.url, self.model)
