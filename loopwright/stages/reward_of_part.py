"""Reward models of comparisons that no policy learns from: the taste of simulated annotators, and evaluation's judge.

Gao, Schulman and Hilton 2022 (arXiv:2210.10760): a reward model stands in for the people, so that new answers can be
labelled and judged. Here they are two, of prompts that neither shares with the other or with the policy: what pleases
the annotators' model by its mistakes need not please the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Self

from pydantic import model_validator

from loopwright.errors import ConfigError
from loopwright.runtime.runtime import Runtime
from loopwright.stages import reward
from loopwright.stages.base import Stage, StageOutput, chosen_input
from loopwright.stages.reward_config import RewardConfig
from loopwright.stages.reward_data import HELD_OUT, RewardInputs
from loopwright.tracking.artifacts import Artifact
from loopwright.training.judgement_files import files_in

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


def bind(part: str, section: str, config: PartConfig, artifacts: Mapping[str, Artifact]) -> RewardInputs:
    """Its part of the dataset, and a model to start from: the config's, or else the fine-tuned one.

    Raises:
        ConfigError: there is nothing to learn from, or no model.
    """
    if (dataset := artifacts.get("dataset")) is None:
        raise ConfigError(f"{section} learns from a part of a dataset; add a dataset section, or drop {section}")
    if not dataset.manifest.config[f"{part}_share"]:
        raise ConfigError(
            f"dataset.{part}_share = 0 leaves {section} nothing to learn from; raise it or drop {section}"
        )
    made = artifacts.get("model") if config.model is None else None
    model = chosen_input(f"{section}.model", config.model, made, "model", "an sft section")
    files = files_in(dataset.file(part), config.kinds, f"{section}.kinds", lambda name: dataset.holds(f"{part}/{name}"))
    kinds = {kind: (file,) for kind, file in files.items()}
    return RewardInputs(model=model, held_out=dataset.file(HELD_OUT), **kinds)  # type: ignore[arg-type]


def of_part(part: str, section: str) -> Stage:
    return Stage(
        section,
        PartConfig,
        needs={"model": ("sft", "pretrain"), "dataset": ("dataset",)},
        bind=partial(bind, part, section),
        run=run,
        files=reward.files,
    )


ANNOTATOR = of_part("annotators", "annotator")
JUDGE = of_part("judge", "judge")
