"""Improve a policy on answers that were liked or not, without pairs and without a reward model. docs/kto.md.

Ethayarajh et al. 2024 (arXiv:2402.01306): a gain over what the policy gives any answer is worth less the larger it is,
and so is a loss, as Kahneman and Tversky found of people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import PositiveFloat
from torch import Tensor

from loopwright.errors import DataError
from loopwright.evaluation.implicit_rewards import figures_of_labels, figures_of_pairs
from loopwright.feedback.pairs import check_both_kinds
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.trainable import make_trainable
from loopwright.objectives.direct_preference import kto_loss, mismatched_kl
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
from loopwright.training.direct_config import DirectConfig, ThumbConfig
from loopwright.training.judged_answers import Given, as_thumbs, check_kinds, read_judged
from loopwright.training.judged_groups import Group
from loopwright.training.log_ratios import Answered, AnsweredBatch, LogRatios, mismatched
from loopwright.training.loop import FitResult, MicroLoss, fit
from loopwright.training.preference_pairs import Labels, labels_of, pairs_of

BALANCE = (1.0, 4 / 3)  # the authors advise lambda_D n_D / (lambda_U n_U) between these; TRL warns beyond them


class KTOConfig(DirectConfig, StageConfig):
    """The `kto` section of a recipe."""

    kinds: tuple[Literal["thumbs", "comparisons", "rankings", "ratings", "corrections"], ...] = ("thumbs",)
    judgements: ThumbConfig = ThumbConfig()
    desirable_weight: PositiveFloat = 1.0  # lambda_D
    undesirable_weight: PositiveFloat = 1.0  # lambda_U


@dataclass(frozen=True)
class KTOInputs:
    policy: Path  # a Hugging Face folder of a causal LM: the start, and the frozen reference
    judgements: Given


class HeldOut(NamedTuple):
    """What is assessed: thumbs, and the pairs that some of them were made of."""

    answered: list[Answered]  # with labels
    paired: list[Group]  # the same groups with what was said of pairs


def run(config: KTOConfig, inputs: KTOInputs, runtime: Runtime) -> StageOutput:
    """The reference reads all answers once; then the policy gains on good answers and loses on bad ones (eq. 8)."""
    check_kinds("kto", config, inputs.judgements)
    tokenizer, start = load_tokenizer(inputs.policy), load_causal_lm(inputs.policy, runtime.device)
    check_max_length(config.max_length, start)
    data = read_judged(config, config.judgements, inputs.judgements, tokenizer, runtime)
    thumbs, thumbs_held_out = (as_thumbs(side, config.judgements) for side in (data.train, data.held_out))
    balance = balance_of(thumbs, config, runtime)

    reference, seed = LogRatios(start, tokenizer), runtime.seed_for("mismatched")
    train, assessed = (
        reference.remember(side, mismatches=mismatched(side, seed, config.max_length))
        for side in (thumbs, thumbs_held_out)
    )
    policy = make_trainable(start, config.trainable, runtime.seed_for("adapters"))
    ratios = LogRatios(policy, tokenizer)
    ratios.check_same(train)
    fitted = learn(ratios, train, HeldOut(assessed, data.held_out), config, runtime)

    save_model(policy, tokenizer, runtime.output / "model")
    said, said_held_out = (sum(len(one.labels) for one in side) for side in (thumbs, thumbs_held_out))
    counts = {**data.counts, "thumbs": said, "thumbs_held_out": said_held_out, "steps": fitted.steps}
    return StageOutput(counts | {"balance": balance} | fitted.evaluation)


def balance_of(thumbs: Sequence[Group], config: KTOConfig, runtime: Runtime) -> float:
    """lambda_D n_D / (lambda_U n_U), n the weight of what is desirable and of what is not.

    Raises:
        DataError: there is one prompt alone, or all answers are of one kind.
    """
    if len(thumbs) < 2:
        raise DataError(
            "kto has answers to one prompt alone, and judges gains against answers to other prompts; give more"
        )
    labels = labels_of(thumbs)
    check_both_kinds(labels.target.tolist())
    good = float((labels.weight * labels.target).sum())
    balance = config.desirable_weight * good / (config.undesirable_weight * (float(labels.weight.sum()) - good))
    if not BALANCE[0] <= round(balance, 3) <= round(BALANCE[1], 3):
        runtime.log(
            f"desirable answers weigh {balance:.2f} times as much as undesirable ones; 1 to 1.33 is advised: see "
            "desirable_weight and undesirable_weight"
        )
    return balance


def learn(
    ratios: LogRatios, train: Sequence[Answered], held_out: HeldOut, config: KTOConfig, runtime: Runtime
) -> FitResult:
    """A step's loss is the mean over the weights of its labels; its baseline is that of the whole step."""
    lengths = [sum(len(row.ids) for row in one.rows) for one in train]
    order = EpochOrder(len(train), config.rows_per_step, runtime.seed_for("order"), lengths)

    def batch(step: int) -> list[AnsweredBatch]:
        numbers = order.rows_of(step)
        baseline = baseline_of(ratios, [train[i] for i in numbers])
        micros = split_rows(numbers, config.batch_size_per_device)
        return [ratios.batch([train[i] for i in rows])._replace(baseline=baseline) for rows in micros]

    def loss(micro: AnsweredBatch) -> MicroLoss:
        assert micro.baseline is not None
        found, labels = ratios.of(micro.episodes), micro.labels
        losses = losses_of(found, labels, micro.baseline, config)
        return MicroLoss(
            (labels.weight * losses).sum(), micro.weight(), sums(found.detach(), labels, micro.baseline, config)
        )

    return fit(
        ratios.model,
        config,
        runtime,
        batch=batch,
        loss=loss,
        count=AnsweredBatch.weight,
        steps=steps_to_train(config, len(train)),
        evaluate=(lambda: assess(ratios, held_out, config)) if held_out.answered else None,
        unit="prompts" if config.judgements.weigh_by == "prompt" else "thumbs",
    )


def baseline_of(ratios: LogRatios, answered: Sequence[Answered]) -> Tensor:
    """z_0 of the policy as it is, from the prompts of a step with other prompts' responses."""
    rows = [row for one in answered for row in one.mismatched]
    return mismatched_kl(ratios.of_rows(rows)).to(ratios.device)


def losses_of(log_ratios: Tensor, labels: Labels, baseline: Tensor, config: KTOConfig) -> Tensor:
    """[M] of [N] log-ratios, before weights."""
    return kto_loss(
        log_ratios[labels.place],
        labels.target,
        baseline,
        beta=config.beta,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
    )


def sums(log_ratios: Tensor, labels: Labels, baseline: Tensor, config: KTOConfig) -> dict[str, float]:
    """What a step reports of its labels, summed by their weights."""
    own, good = log_ratios[labels.place], labels.target
    above = torch.where(own == baseline, 0.5, (own > baseline).float())
    each = {"accuracy": good * above + (1 - good) * (1 - above), "kl": baseline.expand_as(own), "log_ratio": own}
    return {name: float((labels.weight * values).sum()) for name, values in each.items()}


def assess(ratios: LogRatios, held_out: HeldOut, config: KTOConfig) -> dict[str, float]:
    """Figures on held-out thumbs, and on pairs where there are some, each counted once."""
    found = ratios.of_rows([row for one in held_out.answered for row in one.rows])
    baseline = baseline_of(ratios, held_out.answered).cpu()
    labels = labels_of([one.group for one in held_out.answered])
    figures = {"loss": float(losses_of(found, labels, baseline, config).mean())}
    figures |= figures_of_labels(found, labels, baseline, beta=config.beta)
    if any(one.pairs for one in held_out.paired):
        figures |= figures_of_pairs(found, pairs_of(held_out.paired, {}), beta=config.beta)
    return {f"held_out_{name}": value for name, value in figures.items()}


def bind(config: KTOConfig, artifacts: Mapping[str, Artifact]) -> KTOInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways.
    """
    return KTOInputs(
        policy=chosen_input("kto.policy", config.policy, artifacts.get("policy"), "model", "an sft section"),
        judgements=judgement_files("kto", config.feedback, judged(artifacts), config.kinds),
    )


def files(config: KTOConfig) -> list[Path]:
    """The user's folders, whose content belongs to the artifact's key."""
    return [path for path in (config.policy, config.feedback) if path is not None]


STAGE = Stage(
    name="kto",
    config=KTOConfig,
    needs={"policy": POLICIES, "judged.*": FEEDBACK},
    bind=bind,
    run=run,
    files=files,
)
