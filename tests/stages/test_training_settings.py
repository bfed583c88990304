"""What may be set about every training stage, and that the steps between saves, logs and evaluations are kept."""

import json

import pytest

from loopwright.loop.table import load_stages
from loopwright.runtime.runtime import Runtime
from loopwright.stages import sft
from tests.stages.test_sft import inputs, settings

LENGTH = {"max_steps", "epochs", "batch_size_per_device", "accumulation", "max_length"}
STEPS = {"save_steps", "log_steps", "eval_steps"}
SHARED = STEPS | {"optimizer", "learning_rate", "schedule", "warmup_steps", "max_grad_norm", "trainable"}
SUPERVISED = LENGTH | SHARED
# PPO counts rollouts, and what it reads is as long as a prompt and a response.
PPO = SHARED | {"steps", "rollouts_per_step", "minibatch_size", "microbatch_size", "max_new_tokens"}


@pytest.mark.parametrize(
    ("stage", "names"),
    [("pretrain", SUPERVISED), ("sft", SUPERVISED), ("reward", SUPERVISED), ("ppo", PPO)],
)
def test_every_training_stage_takes_them(stage, names):
    fields = load_stages([stage])[stage].config.model_fields
    assert names <= fields.keys()
    trainable = fields["trainable"].annotation
    assert {"mode", "layers", "lora"} <= trainable.model_fields.keys()
    assert {"r", "alpha", "bias", "targets", "modules_to_save"} <= lora_of(trainable).keys()


def lora_of(trainable):
    return trainable.model_validate({"mode": "lora", "lora": {}}).lora.model_dump()


def test_saves_logs_and_evaluations_come_at_their_steps(tmp_path):
    runtime = Runtime.temporary(tmp_path / "run", stage="sft")
    saved, save = [], runtime.checkpoint
    runtime.checkpoint = lambda step, state: saved.append(step) or save(step, state)
    sft.run(settings(max_steps=12, log_steps=2, eval_steps=3, save_steps=5), inputs(tmp_path), runtime)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [3, 6, 9, 12]
    assert [step for step in saved if 0 < step < 12] == [5, 10]
