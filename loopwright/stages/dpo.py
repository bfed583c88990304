"""Improve a policy on pairs of answers, without a reward model. docs/dpo.md has the losses and what differs.

Rafailov et al. 2023 (arXiv:2305.18290): the policy's own log-probabilities, against those it began with, are the
reward. With `loss: ipo`, Azar et al. 2023 (arXiv:2310.12036).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from loopwright.evaluation.implicit_rewards import figures_of_pairs, ranking_accuracy
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.trainable import make_trainable
from loopwright.objectives.direct_preference import dpo_loss, ipo_loss
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import Stage, StageConfig, StageOutput, check_max_length
from loopwright.stages.direct import NEEDS, DirectInputs, bind, files, learn
from loopwright.training.direct_config import DirectConfig, PreferenceConfig
from loopwright.training.judged_answers import check_kinds, read_judged
from loopwright.training.log_ratios import Answered, AnsweredBatch, LogRatios
from loopwright.training.loop import MicroLoss
from loopwright.training.preference_pairs import Pairs, pairs_of


class DPOConfig(DirectConfig, StageConfig):
    """The `dpo` section of a recipe."""

    section: ClassVar[str] = "dpo"
    unit: ClassVar[str] = "pairs"

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


DPOInputs = DirectInputs


def run(config: DPOConfig, inputs: DPOInputs, runtime: Runtime) -> StageOutput:
    """The reference reads all answers once; then the policy learns to prefer the chosen ones (eq. 7)."""
    check_kinds(config, inputs.judgements)
    tokenizer, start = load_tokenizer(inputs.policy), load_causal_lm(inputs.policy, runtime.device)
    check_max_length(runtime.stage, config.max_length, start)
    data = read_judged(config, inputs.judgements, inputs.ages, tokenizer, runtime)
    reference = LogRatios(start, tokenizer, precision=config.precision)
    train, held_out = reference.remember(data.train), reference.remember(data.held_out)

    policy = make_trainable(start, config.trainable, runtime.seed_for("adapters"))
    ratios = LogRatios(policy, tokenizer, per_token=config.per_token, precision=config.precision)
    ratios.check_same(train)
    fitted = learn(
        ratios,
        train,
        partial(loss, ratios, config),
        config,
        runtime,
        evaluate=partial(assess, ratios, held_out, config) if held_out else None,
    )

    save_model(policy, tokenizer, runtime.output / "model")
    pairs, pairs_held_out = (sum(len(one.pairs) for one in side) for side in (data.train, data.held_out))
    counts = {**data.counts, "pairs": pairs, "pairs_held_out": pairs_held_out, "steps": fitted.steps}
    return StageOutput(counts | fitted.evaluation | before(held_out, config))


def loss(ratios: LogRatios, config: DPOConfig, micro: AnsweredBatch) -> MicroLoss:
    """Of all pairs of a microbatch, summed by their weights."""
    found = ratios.of(micro.episodes)
    losses = losses_of(found, micro.pairs, config)
    return MicroLoss((micro.pairs.weight * losses).sum(), micro.weight(), sums(found.detach(), micro.pairs, config))


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


STAGE = Stage(name="dpo", config=DPOConfig, needs=NEEDS, bind=bind, run=run, files=files)
