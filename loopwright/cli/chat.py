"""A conversation with a local model, in the terminal or through a pipe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import torch

from loopwright.config import build
from loopwright.data.chat import render_prompt
from loopwright.errors import ModelError
from loopwright.generation.base import Engine, SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.models.tokens import context_length
from loopwright.schemas import Message
from loopwright.schemas.steps import stage_of
from loopwright.stages.base import POLICIES
from loopwright.tracking import current_artifacts


def find_model(path: Path) -> Path:
    """The Hugging Face folder meant by a folder or a run directory.

    Raises:
        ModelError: it is neither.
        ArtifactError: it is a run directory in which nothing has finished.
    """
    if (path / "config.json").is_file():
        return path
    if (path / "model" / "config.json").is_file():  # an artifact's folder
        return path / "model"
    if (path / "config.yaml").is_file():
        made = current_artifacts(path)
        newest = next((step for step in reversed(made) if stage_of(step) in POLICIES), None)
        if newest is None:
            raise ModelError(f"{path}: no stage of this run has made a model that writes; run pretrain or sft first")
        return made[newest].file("model")
    raise ModelError(f"{path}: neither a Hugging Face folder (no config.json) nor a run directory (no config.yaml)")


def read_messages(stdin: TextIO) -> Iterator[str]:
    """One message a line, empty lines passed over; a prompt when a person types."""
    while True:
        if stdin.isatty():
            try:
                line = input("> ")
            except EOFError:
                return
        elif not (line := stdin.readline()):
            return
        if message := line.strip():
            yield message


@dataclass
class Conversation:
    """What was said so far. The oldest turns are forgotten when the model's context is full."""

    model: Any
    tokenizer: Any
    sampling: SamplingConfig
    seed: int
    turns: list[Message] = field(default_factory=list)
    say: Callable[[str], None] | None = None  # hears of it where the fast engine cannot run the model

    @classmethod
    def open(
        cls, folder: Path, *, temperature: float, max_new_tokens: int, seed: int, say: Callable[[str], None]
    ) -> "Conversation":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sampling = build(SamplingConfig, {"temperature": temperature, "max_new_tokens": max_new_tokens}, "chat")
        return cls(load_causal_lm(folder, device), load_tokenizer(folder), sampling, seed, say=say)

    def reply(self, message: str) -> str:
        """Add a user's message, answer it, and remember both."""
        self.turns.append(Message(role="user", content=message))
        prompt = self._fitting_prompt()
        rollouts = self._engine.generate([prompt], self.sampling, [self.seed + len(self.turns)])
        answer = decode_responses(self.tokenizer, rollouts)[0]
        self.turns.append(Message(role="assistant", content=answer))
        return answer

    @cached_property
    def _engine(self) -> Engine:
        return make_engine(self.model, self.tokenizer, self.say)

    def _fitting_prompt(self) -> list[int]:
        longest = context_length(self.model)
        while True:
            prompt = render_prompt(self.tokenizer, self.turns)
            fits = longest is None or len(prompt) + self.sampling.max_new_tokens <= longest
            if fits or len(self.turns) == 1:  # a single message that is too long is the engine's to refuse
                return prompt
            del self.turns[:2]  # a question with its answer
