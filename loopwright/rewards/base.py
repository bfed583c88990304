"""What every reward takes and gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.errors import CheckError
from loopwright.schemas import Prompt


@dataclass(frozen=True)
class Sample:
    """A response as it was sampled. Models of the same tokenizer score its tokens; others, and callables, its text.

    Of a sample that came over a network only the text is known: it has no ids, and no tokenizer.
    """

    prompt: Prompt
    response: str
    prompt_ids: list[int]
    response_ids: list[int]  # EOS included
    finished: bool  # an EOS was sampled
    tokenizer: PreTrainedTokenizerBase | None  # what the ids mean; None: there are none


class Scores(NamedTuple):
    """What a reward gives back, on the CPU wherever it was computed; PPO moves the sum to the policy's device, once.

    `check_scores` and `WeightedSum` bring there what a user's own reward leaves on a GPU.
    """

    total: Tensor  # [B] float32
    per_token: Tensor | None = None  # [B, T]
    std: Tensor | None = None  # [B] how unsure the reward is
    parts: Mapping[str, Tensor] = {}  # name -> [B], what a sum was made of
    heads: Tensor | None = None  # [H, B] of several heads on one body, whose mean the total is

    def whole(self) -> Tensor:
        """[B] what a response is worth: its total, and the scores of its tokens."""
        return self.total if self.per_token is None else self.total + self.per_token.sum(1)

    def cpu(self) -> Scores:
        """The same, with every tensor on the CPU."""
        per_token, std, heads = (
            None if part is None else part.cpu() for part in (self.per_token, self.std, self.heads)
        )
        parts = {name: part.cpu() for name, part in self.parts.items()}
        return Scores(self.total.cpu(), per_token, std, parts, heads)


@runtime_checkable
class Reward(Protocol):
    """Scores responses; the more, the better."""

    @property
    def name(self) -> str: ...

    def score(self, samples: Sequence[Sample]) -> Scores: ...


@runtime_checkable
class Stateful(Protocol):
    """A reward that remembers what a run must not forget where it goes on, such as who answered it."""

    def state(self) -> dict[str, Any]: ...  # numbers and text alone

    def load(self, state: Mapping[str, Any]) -> None: ...


def check_scores(name: str, scores: Sequence[float] | Tensor, samples: Sequence[Sample]) -> Tensor:
    """[B] float32 scores on the CPU, one finite number for each sample.

    Raises:
        CheckError: there are more or fewer, or one is not a finite number.
    """
    if not isinstance(scores, Sized):
        raise CheckError(f"reward {name} gave {scores!r:.60} for {len(samples)} responses; give a list of numbers")
    if len(scores) != len(samples):
        raise CheckError(f"reward {name} gave {len(scores)} scores for {len(samples)} responses; give one for each")
    try:
        total = torch.as_tensor(scores, dtype=torch.float32).cpu().reshape(len(samples))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckError(f"reward {name} gave something other than numbers ({error}); give one for each") from error
    if not torch.isfinite(total).all():
        bad = int((~torch.isfinite(total)).nonzero()[0, 0])
        raise CheckError(f"reward {name} gave {float(total[bad])} to {described(samples[bad])}; give finite numbers")
    return total


def described(sample: Sample) -> str:
    """A sample in an error for people."""
    response = repr(sample.response)
    shown = response if len(response) <= 200 else f"{response[:200]}…"
    return f"{shown} (prompt {sample.prompt.id!r})"
