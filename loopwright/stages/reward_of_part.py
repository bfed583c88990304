"""Reward models of comparisons that no policy learns from: the taste of simulated annotators, and evaluation's judge.

Gao, Schulman and Hilton 2022 (arXiv:2210.10760): a reward model stands in for the people, so that new answers can be
labelled and judged. Here they are two, of prompts that neither shares with the other or with the policy: what pleases
the annotators' model by its mistakes need not please the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from pydantic import model_validator

from loopwright.errors import ConfigError
from loopwright.runtime.runtime import Runtime
from loopwright.stages import reward
from loopwright.stages.base import Stage, StageOutput, judgement_files
from loopwright.stages.reward_config import RewardConfig
from loopwright.stages.reward_data import HELD_OUT, RewardInputs
from loopwright.tracking.artifacts import Artifact

OF_THE_DATASET = (
    "comparisons", "feedback", "labelled", "held_out", "held_out_share", "part_of_prompts", "teacher",
    "earlier_rounds_weight",
)  # fmt: skip


class PartConfig(RewardConfig):
    """The settings of `reward`, but for what says where judgements are: those are its part of the dataset."""

    @model_validator(mode="after")
    def _judgements_are_of_the_dataset(self) -> Self:
        for name in OF_THE_DATASET:
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect, for the dataset section has the judgements; leave it out")
        return self


def run(config: PartConfig, inputs: RewardInputs, runtime: Runtime) -> StageOutput:
    """The reward stage, on judgements of its own."""
    return reward.run(config, inputs, runtime)


def check(part: str, section: str, config: PartConfig, parents: Mapping[str, Any]) -> None:
    """Before anything runs: there is something to learn from, and a model to start from.

    Raises:
        ConfigError: there is not.
    """
    if "dataset" not in parents:
        raise ConfigError(f"{section} learns from a part of a dataset; add a dataset section, or drop {section}")
    if not getattr(parents["dataset"], f"{part}_share"):
        raise ConfigError(
            f"dataset.{part}_share = 0 leaves {section} nothing to learn from; raise it or drop {section}"
        )
    if config.model is None and "model" not in parents:
        raise ConfigError(f"{section} has no model to start from; set {section}.model to a folder, or add sft")


def bind(part: str, section: str, config: PartConfig, artifacts: Mapping[str, Artifact]) -> RewardInputs:
    """Its part of the dataset, and a model to start from: the config's, or else the fine-tuned one."""
    dataset = artifacts["dataset"]
    model = artifacts["model"].file("model") if config.model is None else config.model
    kinds = judgement_files(section, dataset.file(part), [], config.kinds)
    return RewardInputs(model=model, held_out=dataset.file(HELD_OUT), **kinds)  # type: ignore[arg-type]


def of_part(part: str, section: str) -> Stage:
    return Stage(
        section,
        PartConfig,
        needs={"model": ("sft", "pretrain"), "dataset": ("dataset",)},
        bind=partial(bind, part, section),
        run=run,
        files=reward.files,
        check=partial(check, part, section),
    )


ANNOTATOR = of_part("annotators", "annotator")
JUDGE = of_part("judge", "judge")
