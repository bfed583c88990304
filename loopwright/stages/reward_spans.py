"""A model of where people mark passages: its rewards belong to tokens (Wu et al. 2023, arXiv:2306.01693)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from loopwright.data.splits import split_by_hash
from loopwright.errors import DataError
from loopwright.evaluation.metrics import area_under_curve
from loopwright.models.heads import Critic, reward_model_from
from loopwright.models.loading import load_causal_lm, load_tokenizer, merged, save_model
from loopwright.models.trainable import make_trainable
from loopwright.objectives.spans import span_loss
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import StageOutput, check_max_length
from loopwright.stages.reward_config import RewardConfig
from loopwright.stages.reward_data import RewardInputs
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import steps_to_train
from loopwright.training.judged_groups import keys_of
from loopwright.training.judgement_files import read_all
from loopwright.training.loop import FitResult, MicroLoss, fit
from loopwright.training.marked import Marked, MarkedBatch, collate_marked, marked_tokens


def run(config: RewardConfig, inputs: RewardInputs, runtime: Runtime) -> StageOutput:
    """Marked passages as labels of tokens, the policy's body under a head for each token, assessment."""
    tokenizer = load_tokenizer(inputs.model)
    lm = load_causal_lm(inputs.model, runtime.device)
    check_max_length(runtime.stage, config.max_length, lm)
    train_rows, held_out, figures = load_marked(config, inputs, tokenizer, runtime)
    model = make_trainable(
        reward_model_from(lm, runtime.seed_for("head")), config.trainable, runtime.seed_for("adapters")
    )
    del lm
    fitted = train(model, config, train_rows, tokenizer.pad_token_id, runtime)
    final = merged(model)
    final.config.finds_spans = True  # so that nobody takes it for a reward model of whole responses
    final.config.append_eos = config.append_eos
    save_model(final, tokenizer, runtime.output / "model")
    assessed = assess(final, held_out, tokenizer.pad_token_id) if held_out else {}
    return StageOutput({"steps": fitted.steps, **figures, **assessed})


def load_marked(
    config: RewardConfig, inputs: RewardInputs, tokenizer: PreTrainedTokenizerBase, runtime: Runtime
) -> tuple[list[Marked], list[Marked], dict[str, Any]]:
    """Token rows to train on and to assess on, split by prompt, and how many there are.

    Raises:
        DataError: no response is left, or none of their tokens, or all, are marked.
    """
    read = read_all({"spans": inputs.spans}, runtime, config.max_bad_share)
    records, bad_rows = read.judgements, read.bad_rows
    rows = marked_tokens(records, tokenizer, config.span_labels, append_eos=config.append_eos)
    keys = keys_of(records)
    fits = [len(row.prompt_ids) + len(row.response_ids) <= config.max_length for row in rows]
    kept = [i for i, fit_ in enumerate(fits) if fit_]
    split = split_by_hash([keys[i] for i in kept], config.held_out_share, runtime.seed_for("split"))
    train_rows, held_out = ([rows[kept[i]] for i in side] for side in split)
    marks = [mark for row in train_rows for mark in row.marks]
    if not 0 < sum(marks) < len(marks):
        found = sorted({span.label for one in records for span in one.spans})
        raise DataError(
            f"{sum(marks)} of {len(marks)} tokens of {len(train_rows)} responses are marked: nothing to tell apart; "
            f"the labels are {', '.join(found) or 'none'}: check reward.span_labels and the data"
        )
    figures = {
        "responses": len(train_rows),
        "responses_held_out": len(held_out),
        "marked_share": sum(marks) / len(marks),
        "too_long": len(rows) - len(kept),
        "bad_rows": bad_rows,
    }
    return train_rows, held_out, figures


def train(model: Any, config: RewardConfig, rows: Sequence[Marked], pad_id: int, runtime: Runtime) -> FitResult:
    """Logistic loss on every response token."""
    critic = Critic(model)
    order = EpochOrder(len(rows), config.rows_per_step, runtime.seed_for("order"), [len(row.marks) for row in rows])

    def batch(step: int) -> list[MarkedBatch]:
        micros = split_rows(order.rows_of(step), config.batch_size_per_device)
        return [collate_marked([rows[i] for i in numbers], pad_id, runtime.device) for numbers in micros]

    def loss(micro: MarkedBatch) -> MicroLoss:
        logits = critic(micro.input_ids, micro.attention_mask)
        return MicroLoss(span_loss(logits, micro.marks, micro.learned), float(micro.learned.sum()))

    steps = steps_to_train(config, len(rows))
    return fit(
        model, config, runtime, batch=batch, loss=loss, count=lambda micro: float(micro.learned.sum()), steps=steps
    )


@torch.no_grad()
def assess(model: Any, rows: Sequence[Marked], pad_id: int) -> dict[str, Any]:
    """How well the model tells marked tokens of held-out responses from the others; 0.5 of the area is chance."""
    critic, scores, marks = Critic(model), [], []
    for some in split_rows(rows, 32):
        batch = collate_marked(some, pad_id, next(model.parameters()).device)
        logits = critic(batch.input_ids, batch.attention_mask)[batch.learned]
        scores += logits.tolist()
        marks += [bool(mark) for mark in batch.marks[batch.learned]]
    return {"token_auc": area_under_curve(scores, marks), "tokens_held_out": len(scores)}
