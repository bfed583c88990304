"""What every generation engine takes and gives back."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple, Protocol, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.config.base import Config
from loopwright.errors import DataError
from loopwright.models.tokens import context_length


class SamplingConfig(Config):
    """How responses are sampled."""

    max_new_tokens: PositiveInt = 64
    temperature: Annotated[float, Field(ge=0)] = 1.0  # 0: greedy
    top_k: PositiveInt | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _greedy_has_no_choice(self) -> Self:
        for name in ("top_k", "top_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect at temperature = 0 (greedy); leave it out")
        return self


class Rollouts(NamedTuple):
    """Prompts and the responses sampled for them. Tokens are the truth: nothing is decoded in between."""

    prompt_ids: Tensor  # [B, P] int64, padded on the left
    prompt_mask: Tensor  # [B, P] bool
    response_ids: Tensor  # [B, R] int64, padded on the right
    response_mask: Tensor  # [B, R] bool, EOS included
    logprobs: Tensor  # [B, R] float32 of the sampled tokens at the sampling temperature; 0 outside the mask
    finished: Tensor  # [B] bool: an EOS was sampled

    def sequences(self) -> Tensor:
        """[B, P + R] prompt and response ids."""
        return torch.cat((self.prompt_ids, self.response_ids), dim=1)

    def attention_mask(self) -> Tensor:
        """[B, P + R] bool, true on real tokens."""
        return torch.cat((self.prompt_mask, self.response_mask), dim=1)

    def rows(self, index: Tensor | slice | Sequence[int]) -> Rollouts:
        """The chosen rows, in the order given."""
        picked = torch.as_tensor(index) if isinstance(index, Sequence) else index
        return Rollouts(*(field[picked] for field in self))

    def response_tokens(self, row: int) -> list[int]:
        """The response of one row without padding, EOS included."""
        return self.response_ids[row][self.response_mask[row]].tolist()

    def prompt_tokens(self, row: int) -> list[int]:
        """The prompt of one row without padding."""
        return self.prompt_ids[row][self.prompt_mask[row]].tolist()


class Engine(Protocol):
    """Samples responses. The row's seed decides its tokens, never the rows it shares a batch with."""

    tokenizer: PreTrainedTokenizerBase

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, seeds: Sequence[int]
    ) -> Rollouts: ...

    def stream(self, prompt: Sequence[int], sampling: SamplingConfig, seed: int) -> Generator[int, None, None]:
        """The tokens that `generate` samples for one prompt, EOS included, each as soon as it is there."""
        ...


def check_prompts(model: Any, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, seeds: Sequence[int]) -> None:
    """What every engine asks of what it is given.

    Raises:
        DataError: there are no prompts, one is empty, or prompt and response do not fit the model's context.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"generate needs one seed a prompt, got {len(prompts)} prompts and {len(seeds)} seeds")
    if not prompts:
        raise DataError("no prompts to answer; give at least one")
    limit = context_length(model)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {row} has no tokens; a response needs at least one token to follow")
        if limit is not None and len(prompt) + sampling.max_new_tokens > limit:
            raise DataError(
                f"prompt {row} has {len(prompt)} tokens, with max_new_tokens = {sampling.max_new_tokens} more than "
                f"the model's context of {limit}; shorten the prompt or lower max_new_tokens"
            )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside (no dropout, no gradient checkpointing), the model's own mode after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def decode_responses(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts) -> list[str]:
    """The responses as text, without the EOS that ends them."""
    texts = []
    for row in range(len(rollouts.response_ids)):
        tokens = rollouts.response_tokens(row)
        if tokens and tokens[-1] == tokenizer.eos_token_id:
            tokens = tokens[:-1]
        texts.append(str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)))
    return texts
