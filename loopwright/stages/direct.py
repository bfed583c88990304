"""What dpo and kto share: a policy that learns from judgements, against what it was, without a reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from loopwright.feedback.pairs import check_kinds_of
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import FEEDBACK, POLICIES, ages_of_rounds, chosen_input, judged, judgement_files
from loopwright.tracking.artifacts import Artifact
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import steps_to_train
from loopwright.training.direct_config import DirectConfig
from loopwright.training.judged_answers import Given
from loopwright.training.log_ratios import Answered, AnsweredBatch, LogRatios
from loopwright.training.loop import FitResult, MicroLoss, fit

NEEDS = {"policy": POLICIES, "judged.*": FEEDBACK}


@dataclass(frozen=True)
class DirectInputs:
    policy: Path  # a Hugging Face folder of a causal LM: the start, and the frozen reference
    judgements: Given
    ages: Sequence[int] = ()  # of the files of each kind, in rounds before the newest


def bind(config: Any, artifacts: Mapping[str, Artifact]) -> DirectInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways.
    """
    stage, collected = config.section, judged(artifacts)
    check_kinds_of(config.judgements, config.kinds, stage)
    return DirectInputs(
        policy=chosen_input(f"{stage}.policy", config.policy, artifacts.get("policy"), "model", "an sft section"),
        judgements=judgement_files(stage, config.feedback, collected, config.kinds),
        ages=ages_of_rounds(stage, config.earlier_rounds_weight, collected),
    )


def files(config: DirectConfig) -> list[Path]:
    """The user's folders, whose content belongs to the artifact's key."""
    return [path for path in (config.policy, config.feedback) if path is not None]


def learn(
    ratios: LogRatios,
    train: Sequence[Answered],
    loss: Callable[[AnsweredBatch], MicroLoss],
    config: DirectConfig,
    runtime: Runtime,
    *,
    evaluate: Callable[[], dict[str, float]] | None,
    baseline: Callable[[Sequence[Answered]], Tensor] | None = None,
) -> FitResult:
    """All that was said of a prompt in one microbatch; a step's loss is the mean over the weights of all in it.

    Args:
        baseline: of the prompts of a step, computed before it with the policy as it is.
    """
    lengths = [sum(len(row.ids) for row in one.rows) for one in train]
    order = EpochOrder(len(train), config.rows_per_step, runtime.seed_for("order"), lengths)

    def batch(step: int) -> list[AnsweredBatch]:
        numbers = order.rows_of(step)
        level = None if baseline is None else baseline([train[i] for i in numbers])
        micros = split_rows(numbers, config.batch_size_per_device)
        return [ratios.batch([train[i] for i in rows])._replace(baseline=level) for rows in micros]

    return fit(
        ratios.model,
        config,
        runtime,
        batch=batch,
        loss=loss,
        count=AnsweredBatch.weight,
        steps=steps_to_train(config, len(train)),
        evaluate=evaluate,
        unit="prompts" if config.judgements.weigh_by == "prompt" else config.unit,
    )
