"""The settings of the stages that learn from judgements without a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from loopwright.config.base import Config
from loopwright.feedback.pairs import JudgementConfig
from loopwright.training.config import TrainConfig


class PreferenceConfig(Config):
    """How judgements become pairs; the names are those of the reward stage."""

    criterion: str | None = None  # what was judged; None: the answer as a whole
    weigh_by: Literal["prompt", "pair"] = "prompt"  # a prompt's judgements count as one, or each as one

    def conversion(self) -> JudgementConfig:
        """The same for those who convert judgements."""
        return JudgementConfig(**self.model_dump())


class ThumbConfig(PreferenceConfig):
    """How judgements become answers that are good, and others that are not."""

    ratings_as: Literal["thumbs", "pairs"] = "thumbs"  # by the middle of the scale, or by who is rated higher


class DirectConfig(TrainConfig):
    """What dpo and kto share. A row of a batch is a prompt with all that was said of its answers."""

    section: ClassVar[str]  # of a recipe, as errors name it
    unit: ClassVar[str]  # what is weighed as one, where a prompt is not

    epochs: PositiveFloat | None = 1.0
    batch_size_per_device: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-4
    beta: PositiveFloat = 0.1  # how strongly the policy is held to where it started
    policy: Path | None = None  # a causal LM's folder to start from, where no stage makes one
    feedback: Path | None = None  # a folder with the files of several kinds, where no stage collects feedback
    kinds: tuple[str, ...] = ()  # of these files, or of those of the feedback stage; each stage says which it knows
    judgements: PreferenceConfig = PreferenceConfig()
    earlier_rounds_weight: Annotated[float, Field(gt=0, le=1)] = 1.0  # of labels, for each round since they were given
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of the prompts
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05

    @model_validator(mode="after")
    def _something_is_held_out(self) -> Self:
        if self.eval_steps is not None and self.held_out_share == 0:
            raise ValueError("eval_steps has no effect with held_out_share = 0; hold some out, or leave it out")
        return self
