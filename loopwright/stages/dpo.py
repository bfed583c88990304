"""Improve a policy on pairs of answers, without a reward model. docs/dpo.md has the losses and what differs.

Rafailov et al. 2023 (arXiv:2305.18290): the policy's own log-probabilities, against those it began with, are the
reward. With `loss: ipo`, Azar et al. 2023 (arXiv:2310.12036).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from loopwright.evaluation.implicit_rewards import figures_of_pairs, ranking_accuracy
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.trainable import make_trainable
from loopwright.objectives.direct_preference import dpo_loss, ipo_loss
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import (
    FEEDBACK,
    POLICIES,
    Stage,
    StageConfig,
    StageOutput,
    check_max_length,
    chosen_input,
    judged,
    judgement_files,
)
from loopwright.tracking.artifacts import Artifact
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import steps_to_train
from loopwright.training.direct_config import DirectConfig, PreferenceConfig
from loopwright.training.judged_answers import Given, check_kinds, read_judged
from loopwright.training.log_ratios import Answered, AnsweredBatch, LogRatios
from loopwright.training.loop import FitResult, MicroLoss, fit
from loopwright.training.preference_pairs import Pairs, pairs_of


class DPOConfig(DirectConfig, StageConfig):
    """The `dpo` section of a recipe."""

    kinds: tuple[Literal["comparisons", "rankings", "ratings", "corrections"], ...] = ("comparisons", "rankings")
    judgements: PreferenceConfig = PreferenceConfig()
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # share of labels that are taken to be wrong
    per_token: bool = False  # log-ratios are means over a response's tokens, so that long ones do not weigh more

    @model_validator(mode="after")
    def _smoothing_has_an_effect(self) -> Self:
        if self.loss == "ipo" and "label_smoothing" in self.model_fields_set:
            raise ValueError("label_smoothing has no effect with loss = ipo, whose margin is finite; leave it out")
        return self


@dataclass(frozen=True)
class DPOInputs:
    policy: Path  # a Hugging Face folder of a causal LM: the start, and the frozen reference
    judgements: Given


def run(config: DPOConfig, inputs: DPOInputs, runtime: Runtime) -> StageOutput:
    """The reference reads all answers once; then the policy learns to prefer the chosen ones (eq. 7)."""
    check_kinds("dpo", config, inputs.judgements)
    tokenizer, start = load_tokenizer(inputs.policy), load_causal_lm(inputs.policy, runtime.device)
    check_max_length(config.max_length, start)
    data = read_judged(config, config.judgements, inputs.judgements, tokenizer, runtime)
    reference = LogRatios(start, tokenizer)
    train, held_out = reference.remember(data.train), reference.remember(data.held_out)

    policy = make_trainable(start, config.trainable, runtime.seed_for("adapters"))
    ratios = LogRatios(policy, tokenizer, per_token=config.per_token)
    ratios.check_same(train)
    fitted = learn(ratios, train, held_out, config, runtime)

    save_model(policy, tokenizer, runtime.output / "model")
    pairs, pairs_held_out = (sum(len(one.pairs) for one in side) for side in (data.train, data.held_out))
    counts = {**data.counts, "pairs": pairs, "pairs_held_out": pairs_held_out, "steps": fitted.steps}
    return StageOutput(counts | fitted.evaluation | before(held_out, config))


def learn(
    ratios: LogRatios, train: Sequence[Answered], held_out: Sequence[Answered], config: DPOConfig, runtime: Runtime
) -> FitResult:
    """All pairs of a prompt in one microbatch; a step's loss is the mean over the weights of its pairs."""
    lengths = [sum(len(row.ids) for row in one.rows) for one in train]
    order = EpochOrder(len(train), config.rows_per_step, runtime.seed_for("order"), lengths)

    def batch(step: int) -> list[AnsweredBatch]:
        micros = split_rows(order.rows_of(step), config.batch_size_per_device)
        return [ratios.batch([train[i] for i in rows]) for rows in micros]

    def loss(micro: AnsweredBatch) -> MicroLoss:
        found = ratios.of(micro.episodes)
        losses = losses_of(found, micro.pairs, config)
        return MicroLoss((micro.pairs.weight * losses).sum(), micro.weight(), sums(found.detach(), micro.pairs, config))

    return fit(
        ratios.model,
        config,
        runtime,
        batch=batch,
        loss=loss,
        count=AnsweredBatch.weight,
        steps=steps_to_train(config, len(train)),
        evaluate=(lambda: assess(ratios, held_out, config)) if held_out else None,
        unit="prompts" if config.judgements.weigh_by == "prompt" else "pairs",
    )


def losses_of(log_ratios: Tensor, pairs: Pairs, config: DPOConfig) -> Tensor:
    """[P] of [N] log-ratios, before weights."""
    chosen, rejected = log_ratios[pairs.chosen], log_ratios[pairs.rejected]
    if config.loss == "ipo":
        return ipo_loss(chosen, rejected, beta=config.beta, probability=pairs.probability)
    smoothing = config.label_smoothing
    return dpo_loss(chosen, rejected, beta=config.beta, label_smoothing=smoothing, probability=pairs.probability)


def sums(log_ratios: Tensor, pairs: Pairs, config: DPOConfig) -> dict[str, float]:
    """What a step reports of its pairs, summed by their weights."""
    chosen, rejected = log_ratios[pairs.chosen], log_ratios[pairs.rejected]
    each = {
        "accuracy": torch.where(chosen == rejected, 0.5, (chosen > rejected).float()),
        "margin": config.beta * (chosen - rejected),
        "reward_chosen": config.beta * chosen,
        "reward_rejected": config.beta * rejected,
    }
    return {name: float((pairs.weight * values).sum()) for name, values in each.items()}


def assess(ratios: LogRatios, held_out: Sequence[Answered], config: DPOConfig) -> dict[str, float]:
    """Figures on held-out pairs, each counted once."""
    rows = [row for one in held_out for row in one.rows]
    found, pairs = ratios.of_rows(rows), pairs_of([one.group for one in held_out], {})
    tokens = torch.tensor([row.tokens for row in rows])
    logprobs = logprobs_before(held_out) + (found * tokens if config.per_token else found)
    figures = {"loss": float(losses_of(found, pairs, config).mean())}
    figures |= figures_of_pairs(found, pairs, beta=config.beta)
    figures["ranking_accuracy"] = ranking_accuracy(logprobs, pairs)
    return {f"held_out_{name}": value for name, value in figures.items()}


def before(held_out: Sequence[Answered], config: DPOConfig) -> dict[str, float]:
    """What the loss and the ranking were while policy and reference were one."""
    if not held_out:
        return {}
    pairs, logprobs = pairs_of([one.group for one in held_out], {}), logprobs_before(held_out)
    return {
        "held_out_loss_before": float(losses_of(torch.zeros_like(logprobs), pairs, config).mean()),
        "held_out_ranking_accuracy_before": ranking_accuracy(logprobs, pairs),
    }


def logprobs_before(answered: Sequence[Answered]) -> Tensor:
    """[N] log-probabilities of whole responses under the reference."""
    return torch.stack([row.reference.sum() for one in answered for row in one.rows])


def bind(config: DPOConfig, artifacts: Mapping[str, Artifact]) -> DPOInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways.
    """
    return DPOInputs(
        policy=chosen_input("dpo.policy", config.policy, artifacts.get("policy"), "model", "an sft section"),
        judgements=judgement_files("dpo", config.feedback, judged(artifacts), config.kinds),
    )


def files(config: DPOConfig) -> list[Path]:
    """The user's folders, whose content belongs to the artifact's key."""
    return [path for path in (config.policy, config.feedback) if path is not None]


STAGE = Stage(
    name="dpo",
    config=DPOConfig,
    needs={"policy": POLICIES, "judged.*": FEEDBACK},
    bind=bind,
    run=run,
    files=files,
)
