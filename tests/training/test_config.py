import pytest
from pydantic import ValidationError
from pytest import approx

from loopwright.errors import ConfigError
from loopwright.training.config import TrainConfig, steps_to_train
from loopwright.training.optim import learning_rate_factor


class WithEpochs(TrainConfig):
    """A stage's config with a default of its own."""

    epochs: float | None = 1.0
    optimizer: str = "muon"
    muon_learning_rate: float | None = 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither max_steps nor epochs"),
        ({"max_steps": 5, "epochs": 1}, "max_steps = 5 and epochs = 1 contradict"),
        ({"max_steps": 5, "muon_learning_rate": 0.1}, "muon_learning_rate has no effect with optimizer = adamw"),
        ({"max_steps": 5, "optimizer": "muon"}, "needs muon_learning_rate"),
        ({"max_steps": 5, "schedule": "constant", "min_lr_ratio": 0.1}, "min_lr_ratio has no effect"),
        ({"max_steps": 5, "warmup_steps": 6}, "warmup_steps = 6 is more than max_steps = 5"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 5, "learning_rate": -1.0}, "learning_rate"),
        ({"max_steps": 5, "optimizer": "sgd"}, "optimizer"),
    ],
)
def test_settings_that_contradict_or_do_nothing(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**settings)


def test_writing_one_length_puts_the_default_of_the_other_aside():
    config = WithEpochs(max_steps=7)
    assert config.epochs is None and config.max_steps == 7
    assert WithEpochs().epochs == 1.0


def test_a_default_that_does_not_apply_is_no_error():
    assert WithEpochs(optimizer="adamw").optimizer == "adamw"


def test_steps_by_hand():
    """100 rows at 4 * 8 a step: 4 steps an epoch, the last with 4 rows."""
    config = TrainConfig(epochs=2, batch_size_per_device=4, accumulation=8)
    assert config.rows_per_step == 32 and steps_to_train(config, 100) == 8
    assert steps_to_train(TrainConfig(epochs=0.5, batch_size_per_device=1), 5) == 3
    assert steps_to_train(TrainConfig(max_steps=9), 100) == 9
    with pytest.raises(ConfigError, match="warmup_steps = 9 but epochs = 1 over 10 rows make 1 steps"):
        steps_to_train(TrainConfig(epochs=1, warmup_steps=9), 10)


def test_schedules_by_hand():
    linear = TrainConfig(max_steps=10, warmup_steps=2, schedule="linear", min_lr_ratio=0.2)
    got = [learning_rate_factor(step, 10, linear) for step in range(10)]
    assert got == approx([0.5, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    cosine = TrainConfig(max_steps=4, schedule="cosine")
    assert [learning_rate_factor(s, 4, cosine) for s in range(5)] == approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    constant = TrainConfig(max_steps=4, schedule="constant", warmup_steps=1)
    assert [learning_rate_factor(step, 4, constant) for step in range(4)] == [1, 1, 1, 1]
