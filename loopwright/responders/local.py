"""Replies of a model in this process, through our own generation engine. The one module here that needs torch."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import render_prompt, render_prompts
from loopwright.generation.base import Engine, Rollouts, SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.models.tokens import context_length
from loopwright.schemas import Message, Pieces, Reply, ReplySettings
from loopwright.tracking.artifacts import MANIFEST, Artifact, id_of_file, read_manifest, verify

UNDECIDED = "\ufffd"  # what bytes that are no whole letter yet are decoded as


class LocalResponder:
    """Answers with a model and a tokenizer of this process."""

    def __init__(self, engine: Engine, name: str, policy: str | None = None, context: int | None = None) -> None:
        """`policy`: the id of the model's artifact, which replies name; `context`: tokens that the model can read."""
        self.engine, self.name, self.policy, self.context = engine, name, policy, context

    @classmethod
    def open(
        cls, folder: Path, device: torch.device | None = None, say: Callable[[str], None] | None = None
    ) -> LocalResponder:
        """The model of a Hugging Face folder; without a device, on the GPU where there is one.

        `say` hears of it where the fast engine cannot run the model.

        Raises:
            ModelError: the folder is no causal LM of transformers.
            ArtifactError: the folder is an artifact's and was changed after it was made.
        """
        name, policy = identity(folder)
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_causal_lm(folder, device)
        return cls(make_engine(model, load_tokenizer(folder), say), name, policy, context_length(model))

    def reply(self, messages: Sequence[Message], settings: ReplySettings) -> Pieces:
        """See `Responder.reply`.

        Raises:
            DataError: the messages and the reply do not fit the model's context; none of them is forgotten.
            ModelError: the chat template refuses the messages.
        """
        prompt = render_prompt(self.engine.tokenizer, messages)
        sampling = SamplingConfig(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
        seed = secrets.randbits(63) if settings.seed is None else settings.seed
        text, finished, letters = "", False, _Letters(self.engine.tokenizer)
        for token in self.engine.stream(prompt, sampling, seed):
            finished = token == self.engine.tokenizer.eos_token_id
            piece = letters.rest() if finished else letters.add(token)
            text += piece
            if piece:
                yield piece
        if not finished and (piece := letters.rest()):
            text += piece
            yield piece
        yield Reply(text=text, finished=finished, model=self.name, policy=self.policy)

    def replies(
        self, conversations: Sequence[Sequence[Message]], settings: ReplySettings, seeds: Sequence[int]
    ) -> list[Reply | None]:
        """What `reply` says to each conversation with its seed, in one batch; None where it does not fit the context.

        Raises:
            ModelError: the chat template refuses the messages.
        """
        prompts = render_prompts(self.engine.tokenizer, conversations)
        most = None if self.context is None else self.context - settings.max_new_tokens
        fits = [i for i, prompt in enumerate(prompts) if most is None or len(prompt) <= most]
        replies: list[Reply | None] = [None] * len(prompts)
        if fits:
            sampling = SamplingConfig(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
            rollouts = self.engine.generate([prompts[i] for i in fits], sampling, [seeds[i] for i in fits])
            for i, reply in zip(fits, self._whole(rollouts), strict=True):
                replies[i] = reply
        return replies

    def _whole(self, rollouts: Rollouts) -> list[Reply]:
        texts = decode_responses(self.engine.tokenizer, rollouts)
        return [
            Reply(text=text, finished=finished, model=self.name, policy=self.policy)
            for text, finished in zip(texts, rollouts.finished.tolist(), strict=True)
        ]


class _Letters:
    """Tokens as text while they come in: a letter whose bytes are spread over several tokens waits for its last."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.start = self.end = 0  # of the tokens given out last: some tokenizers write a token by what is before it

    def add(self, token: int) -> str:
        self.tokens.append(token)
        piece = self._new()
        if not piece or piece.endswith(UNDECIDED):
            return ""
        self.start, self.end = self.end, len(self.tokens)
        return piece

    def rest(self) -> str:
        return self._new()

    def _new(self) -> str:
        before, now = self._decoded(self.end), self._decoded(len(self.tokens))
        return now[len(before) :]

    def _decoded(self, end: int) -> str:
        tokens = self.tokens[self.start : end]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def identity(folder: Path) -> tuple[str, str]:
    """The name of the model in a folder, and its version: its artifact's id, or a hash of its files.

    Raises:
        ArtifactError: it is an artifact's, and a file was changed after the artifact was made.
    """
    folder = folder.resolve()
    if (folder.parent / MANIFEST).is_file():
        artifact = Artifact(folder.parent, read_manifest(folder.parent))
        verify(artifact)
        return folder.parent.name, artifact.id
    return folder.name, id_of_file(folder)  # as runs know it, which wait for labels of what it answers
