"""Improve a policy on answers that were liked or not, without pairs and without a reward model. docs/kto.md.

Ethayarajh et al. 2024 (arXiv:2402.01306): a gain over what the policy gives any answer is worth less the larger it is,
and so is a loss, as Kahneman and Tversky found of people.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple

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
from loopwright.stages.base import Stage, StageConfig, StageOutput, check_max_length
from loopwright.stages.direct import NEEDS, DirectInputs, bind, files, learn
from loopwright.training.direct_config import DirectConfig, ThumbConfig
from loopwright.training.judged_answers import as_thumbs, check_kinds, read_judged
from loopwright.training.judged_groups import Group
from loopwright.training.log_ratios import Answered, AnsweredBatch, LogRatios, mismatched
from loopwright.training.loop import MicroLoss
from loopwright.training.preference_pairs import Labels, labels_of, pairs_of

CORRECTIONS = "learn from what people made of these, too (corrections, by kto.kinds in a recipe)"
BALANCE = (1.0, 4 / 3)  # the authors advise lambda_D n_D / (lambda_U n_U) between these; TRL warns beyond them


class KTOConfig(DirectConfig, StageConfig):
    """The `kto` section of a recipe."""

    section: ClassVar[str] = "kto"
    unit: ClassVar[str] = "thumbs"

    kinds: tuple[Literal["thumbs", "comparisons", "rankings", "ratings", "corrections", "attacks"], ...] = ("thumbs",)
    judgements: ThumbConfig = ThumbConfig()
    desirable_weight: PositiveFloat = 1.0  # lambda_D
    undesirable_weight: PositiveFloat = 1.0  # lambda_U


KTOInputs = DirectInputs


class HeldOut(NamedTuple):
    """What is assessed: thumbs, and the pairs that some of them were made of."""

    answered: list[Answered]  # with labels
    paired: list[Group]  # the same groups with what was said of pairs


def run(config: KTOConfig, inputs: KTOInputs, runtime: Runtime) -> StageOutput:
    """The reference reads all answers once; then the policy gains on good answers and loses on bad ones."""
    check_kinds(config, inputs.judgements)
    tokenizer, start = load_tokenizer(inputs.policy), load_causal_lm(inputs.policy, runtime.device)
    check_max_length(runtime.stage, config.max_length, start)
    data = read_judged(config, inputs.judgements, inputs.ages, tokenizer, runtime)
    thumbs, thumbs_held_out = (as_thumbs(side, config.judgements) for side in (data.train, data.held_out))
    balance = balance_of(thumbs, config, runtime)

    reference, seed = LogRatios(start, tokenizer, precision=config.precision), runtime.seed_for("mismatched")
    train, assessed = (
        reference.remember(side, mismatches=mismatched(side, seed, config.max_length))
        for side in (thumbs, thumbs_held_out)
    )
    policy = make_trainable(start, config.trainable, runtime.seed_for("adapters"))
    ratios = LogRatios(policy, tokenizer, precision=config.precision)
    ratios.check_same(train)
    held_out = HeldOut(assessed, data.held_out)
    fitted = learn(
        ratios,
        train,
        partial(loss, ratios, config),
        config,
        runtime,
        evaluate=partial(assess, ratios, held_out, config) if assessed else None,
        baseline=partial(baseline_of, ratios),
    )

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
    check_both_kinds(labels.target.tolist(), CORRECTIONS)
    good = float((labels.weight * labels.target).sum())
    balance = config.desirable_weight * good / (config.undesirable_weight * (float(labels.weight.sum()) - good))
    if not BALANCE[0] <= round(balance, 3) <= round(BALANCE[1], 3):
        runtime.log(
            f"desirable answers weigh {balance:.2f} times as much as undesirable ones; 1 to 1.33 is advised: see "
            "desirable_weight and undesirable_weight"
        )
    return balance


def loss(ratios: LogRatios, config: KTOConfig, micro: AnsweredBatch) -> MicroLoss:
    """Of all labels of a microbatch, summed by their weights."""
    assert micro.baseline is not None
    found, labels = ratios.of(micro.episodes), micro.labels
    total = (labels.weight * losses_of(found, labels, micro.baseline, config)).sum()
    return MicroLoss(total, micro.weight(), sums(found.detach(), labels, micro.baseline, config))


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


STAGE = Stage(name="kto", config=KTOConfig, needs=NEEDS, bind=bind, run=run, files=files)
