"""The settings every training stage shares, under the names people know."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from loopwright.config.base import Config
from loopwright.errors import ConfigError
from loopwright.models.trainable import TrainableConfig
from loopwright.training.precision import Precision

Fraction = Annotated[float, Field(ge=0, lt=1)]


class ResponseConfig(Config):
    """How a policy that learns from its own responses samples them, and what one that does not end costs."""

    max_new_tokens: PositiveInt = 64
    temperature: PositiveFloat = 1.0
    missing_eos_penalty: NonNegativeFloat = 1.0  # subtracted from the score of a truncated response


class OptimizerConfig(Config):
    """What `make_optimizers` reads."""

    muon_rates: ClassVar[tuple[str, ...]] = ("muon_learning_rate",)

    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: matrices of the blocks by Muon, all else by AdamW
    learning_rate: PositiveFloat = 1e-3  # AdamW's
    muon_learning_rate: PositiveFloat | None = None  # 0.02 is usual
    weight_decay: NonNegativeFloat = 0.0  # on matrices, never on norms and biases
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    adam_eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat | None = 1.0

    @model_validator(mode="after")
    def _muon_has_its_rates(self) -> Self:
        for name in self.muon_rates:
            rate = getattr(self, name)
            if self.optimizer == "muon" and rate is None:
                raise ValueError(f"optimizer = muon needs {name} (0.02 is usual from scratch, far less in PPO)")
            if self.optimizer == "adamw" and name in self.model_fields_set and rate is not None:
                raise ValueError(f"{name} has no effect with optimizer = adamw; set optimizer: muon")
        return self


class TrainConfig(OptimizerConfig):
    """A stage's config extends this one and sets its own defaults.

    A step is one optimizer step over batch_size_per_device * accumulation rows. Writing max_steps puts a
    stage's default epochs aside, and the other way round; writing both is an error.
    """

    max_steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    batch_size_per_device: PositiveInt = 32
    accumulation: PositiveInt = 1  # microbatches a step
    max_length: PositiveInt = 256  # tokens

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: NonNegativeInt = 0
    min_lr_ratio: Fraction = 0.0  # the learning rate at the end, as a share of its peak

    save_steps: PositiveInt = 100
    log_steps: PositiveInt = 10
    eval_steps: PositiveInt | None = None  # None: once, at the end
    precision: Precision = "float32"  # bfloat16: what computes; the optimizer keeps float32 masters
    gradient_checkpointing: bool = False  # keep only what goes into each block, for one more forward pass
    trainable: TrainableConfig = TrainableConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_length_puts_the_other_aside(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for given, other in (("max_steps", "epochs"), ("epochs", "max_steps")):
                if values.get(given) is not None and other not in values:
                    return values | {other: None}
        return values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError(f"max_steps = {self.max_steps} and epochs = {self.epochs:g} contradict; keep one")
        if self.max_steps is None and self.epochs is None:
            raise ValueError("neither max_steps nor epochs says how long to train; give one")
        return self

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> Self:
        if self.schedule == "constant" and "min_lr_ratio" in self.model_fields_set:
            raise ValueError("min_lr_ratio has no effect with schedule = constant; set schedule: linear or cosine")
        if self.max_steps is not None and self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} is more than max_steps = {self.max_steps}; lower it")
        return self

    @property
    def most_tokens(self) -> int:
        """Of a microbatch whose rows are not packed, padding included: half as many again as a packed one has."""
        return self.batch_size_per_device * self.max_length * 3 // 2

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step."""
        return self.batch_size_per_device * self.accumulation


def steps_to_train(config: TrainConfig, rows: int) -> int:
    """Optimizer steps for a data set of so many rows; the last step of an epoch may be smaller.

    Raises:
        ConfigError: the warm-up would never end.
    """
    if config.max_steps is not None:
        return config.max_steps
    assert config.epochs is not None
    steps = max(1, math.ceil(config.epochs * math.ceil(rows / config.rows_per_step)))
    if config.warmup_steps > steps:
        raise ConfigError(
            f"warmup_steps = {config.warmup_steps} but epochs = {config.epochs:g} over {rows} rows make {steps} steps; "
            "lower it or train longer"
        )
    return steps
