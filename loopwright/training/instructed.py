"""Answers read under several instructions: their batches, and HIR's loss of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopwright.data.chat import Example
from loopwright.data.packing import IGNORED, PackedBatch, pack_examples, pack_lengths, pad_examples
from loopwright.objectives.hindsight import hindsight_loss
from loopwright.objectives.logprobs import token_logprobs
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.examples import ExamplesConfig, on_device
from loopwright.training.loop import MicroLoss
from loopwright.training.next_tokens import head_before


class Instructed(NamedTuple):
    """An answer, and its prompt under K instructions, of which the first says what it achieved."""

    prompts: list[list[int]]
    response_ids: list[int]  # EOS included

    def readings(self) -> list[Example]:
        """The answer under each instruction."""
        return [Example(prompt, self.response_ids) for prompt in self.prompts]


class Micro(NamedTuple):
    """A microbatch of B answers, each read under K instructions."""

    batch: PackedBatch  # B * K readings
    order: Tensor  # [B * K] int64: which reading stands where, those of an answer counted one after another
    lengths: Tensor  # [B] int64, tokens of each answer
    tokens_per_answer: float  # of the whole step


@dataclass(frozen=True)
class InstructedBatches:
    """The microbatches of any step, from its number alone. The readings of an answer stay together."""

    answers: Sequence[Instructed]
    order: EpochOrder
    config: ExamplesConfig
    pad_id: int
    device: torch.device

    def of_step(self, step: int) -> list[Micro]:
        """The microbatches of a step; answers of like length share one."""
        chosen = sorted((self.answers[i] for i in self.order.rows_of(step)), key=lambda one: len(one.response_ids))
        tokens_per_answer = sum(len(one.response_ids) for one in chosen) / len(chosen)
        return [self._micro(part, tokens_per_answer) for part in split_rows(chosen, self.config.batch_size_per_device)]

    def _micro(self, answers: Sequence[Instructed], tokens_per_answer: float) -> Micro:
        readings = [reading for one in answers for reading in one.readings()]
        if self.config.packing:
            batch = pack_examples(readings, self.config.max_length, self.pad_id)
            rows = pack_lengths([reading.length for reading in readings], self.config.max_length)
            order = [reading for row in rows for reading in row]
        else:
            batch, order = pad_examples(readings, self.pad_id), list(range(len(readings)))
        lengths = torch.tensor([len(one.response_ids) for one in answers], device=self.device)
        places = torch.tensor(order, device=self.device)
        return Micro(on_device(batch, self.device), places, lengths, tokens_per_answer)


def instructed_loss(model: Any, micro: Micro, *, alpha: float, beta: float) -> MicroLoss:
    """`hindsight_loss` of a microbatch, which `fit` divides by `instructed_tokens`."""
    learned = torch.nn.functional.pad(micro.batch.labels[:, 1:] != IGNORED, (0, 1))
    targets = micro.batch.labels[:, 1:][learned[:, :-1]]
    head = head_before(model, micro.batch, learned)
    found = token_logprobs(head.hidden, head.weight, targets, bias=head.bias)

    answers, instructions = len(micro.lengths), len(micro.order) // len(micro.lengths)
    places = torch.arange(int(micro.lengths.max()), device=learned.device)
    filled = places < micro.lengths.repeat_interleave(instructions)[micro.order, None]  # [B * K, T], as they stand
    logprobs, entropy = (
        values.new_zeros(filled.shape)
        .masked_scatter(filled, values)[micro.order.argsort()]
        .view(answers, instructions, -1)
        for values in found
    )
    terms = hindsight_loss(
        logprobs,
        entropy[:, 0],
        places < micro.lengths[:, None],
        torch.zeros_like(micro.lengths),
        alpha=alpha,
        beta=beta,
        tokens_per_answer=micro.tokens_per_answer,
    )
    stats = {"supervised_loss": float(terms.supervised), "entropy": float(terms.entropy)}
    if instructions > 1:
        stats["contrastive_loss"] = float(terms.contrastive) * micro.tokens_per_answer
    return MicroLoss(terms.total, instructed_tokens(micro), stats)


def instructed_tokens(micro: Micro) -> float:
    """Tokens of the answers, each counted once, whatever it is read under."""
    return float(micro.lengths.sum())
