"""Prompts with answers to learn: their batches, their loss and how they are fitted, whoever wrote the answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from loopwright.data.chat import Example
from loopwright.data.packing import PackedBatch, pack_examples, pad_by_length, pad_examples
from loopwright.errors import CheckError
from loopwright.models.layers import unwrapped
from loopwright.runtime.runtime import Runtime
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import TrainConfig, steps_to_train
from loopwright.training.loop import FitResult, MicroLoss, fit
from loopwright.training.next_tokens import predict

PACKING_TOLERANCE = 1e-3  # of the largest hidden state; rounding is far below, a leak above


class ExamplesConfig(TrainConfig):
    """How answers are learned."""

    packing: bool = True  # several examples in a row, blind to each other; changes the speed and nothing else


def fit_examples(
    model: Any,
    examples: Sequence[Example],
    config: ExamplesConfig,
    runtime: Runtime,
    *,
    order_seed: int,
    pad_id: int,
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> FitResult:
    """Cross-entropy of the answers' tokens, EOS included, given their prompts."""
    if config.packing and len(examples) > 1:
        check_packing(model, examples, config.max_length)
    batches = ExampleBatches.of(examples, config, order_seed, pad_id, runtime.device)
    return fit(
        model,
        config,
        runtime,
        batch=batches.of_step,
        loss=partial(answer_loss, model),
        count=learned_tokens,
        steps=steps_to_train(config, len(examples)),
        evaluate=evaluate,
    )


@dataclass(frozen=True)
class ExampleBatches:
    """The microbatches of any step, from its number alone."""

    examples: Sequence[Example]
    order: EpochOrder
    config: ExamplesConfig
    pad_id: int
    device: torch.device

    @classmethod
    def of(
        cls, examples: Sequence[Example], config: ExamplesConfig, order_seed: int, pad_id: int, device: torch.device
    ) -> ExampleBatches:
        order = EpochOrder(len(examples), config.rows_per_step, order_seed)
        return cls(examples, order, config, pad_id, device)

    def examples_of(self, step: int) -> list[Example]:
        """What a step learns."""
        return [self.examples[i] for i in self.order.rows_of(step)]

    def of_step(self, step: int) -> list[PackedBatch]:
        examples = self.examples_of(step)
        if self.config.packing:
            parts = split_rows(examples, self.config.batch_size_per_device)
            batches = [pack_examples(part, self.config.max_length, self.pad_id) for part in parts]
        else:
            batches = pad_by_length(examples, self.config.accumulation, self.config.most_tokens, self.pad_id)
        return [on_device(batch, self.device) for batch in batches]


def answer_loss(model: Any, batch: PackedBatch) -> MicroLoss:
    """The sum over the answers' tokens, which `fit` divides by how many there are."""
    found = predict(model, batch)
    return MicroLoss(found.total, float(found.tokens), {"response_loss": float(found.total.detach())})


def learned_tokens(batch: PackedBatch) -> float:
    """How many tokens the loss is a sum over."""
    return float((batch.labels[:, 1:] >= 0).sum())


@torch.no_grad()
def assess_examples(model: Any, examples: Sequence[Example], rows_at_once: int, pad_id: int) -> dict[str, float]:
    """Loss, perplexity and share of right tokens on held-out answers, token means, the right prefix given."""
    total, tokens, right = 0.0, 0, 0
    by_length = sorted(examples, key=attrgetter("length"))
    for start in range(0, len(by_length), rows_at_once):
        batch = pad_examples(by_length[start : start + rows_at_once], pad_id)
        found = predict(model, on_device(batch, model.device), count_right=True)
        assert found.right is not None
        total, tokens, right = total + float(found.total), tokens + found.tokens, right + found.right
    loss = total / tokens
    return {"held_out_loss": loss, "held_out_perplexity": math.exp(loss), "held_out_accuracy": right / tokens}


def on_device(batch: PackedBatch, device: torch.device) -> PackedBatch:
    return PackedBatch(*(tensor.to(device) for tensor in batch))


@torch.no_grad()
def check_packing(model: Any, examples: Sequence[Example], max_length: int) -> None:
    """Compare an example's hidden states behind another example with those it has alone.

    Raises:
        CheckError: they differ, because this model builds its mask or positions some other way.
    """
    first, second = ([*e.prompt_ids, *e.response_ids] for e in sorted(examples, key=attrgetter("length"))[:2])
    if len(first) + len(second) > max_length:
        return
    base = unwrapped(model)

    def states(*segments: list[int]) -> Tensor:
        ids = torch.tensor([[token for segment in segments for token in segment]], device=model.device)
        places = torch.tensor([[place for segment in segments for place in range(len(segment))]], device=model.device)
        return base.base_model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state[0]

    alone = states(second)
    gap = float((states(first, second)[len(first) :] - alone).abs().max() / alone.abs().max())
    if not gap <= PACKING_TOLERANCE:
        raise CheckError(
            f"packing changes hidden states by {gap:.2g} of their size: {type(base).__name__} lets examples that share "
            "a row see each other; set packing: false"
        )
