"""bfloat16 and gradient checkpointing in the stages before PPO: another way to compute the same training."""

from __future__ import annotations

from functools import partial, partialmethod

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import LlamaAttention

from loopwright.errors import ModelError
from loopwright.models.decoder import Decoder
from loopwright.models.loading import load_causal_lm
from loopwright.runtime.runtime import Runtime
from loopwright.stages import dpo, kto, reward, sft
from loopwright.training import loop
from tests.stages import test_dpo, test_reward, test_sft
from tests.stages.letter_writer import writer
from tests.stages.test_pretrain import Killed, killed_after
from tests.stages.test_reward import comparisons

SHORT = dict(max_steps=12, save_steps=5, log_steps=5)
LOSS = {"sft": "held_out_loss", "reward": "loss", "dpo": "held_out_loss", "kto": "held_out_loss"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return writer(tmp_path_factory.mktemp("policy"))


def stage_of(name, policy, folder):
    """(run, config class, inputs, settings)."""
    if name == "sft":
        return sft.run, sft.SFTConfig, test_sft.inputs(folder), test_sft.SMALL
    if name == "reward":
        given = reward.RewardInputs(policy, comparisons(200))
        return reward.run, reward.RewardConfig, given, test_reward.SETTINGS
    module = {"dpo": dpo, "kto": kto}[name]
    config, inputs = (getattr(module, f"{name.upper()}{part}") for part in ("Config", "Inputs"))
    return module.run, config, inputs(policy, {"comparisons": comparisons(100)}), test_dpo.SETTINGS


def train(name, policy, folder, *, kill=None, **changes):
    run, config, given, settings = stage_of(name, policy, folder)
    runtime = Runtime.temporary(folder / "run", stage=name, seed=1)
    runtime.seed_everything()
    runtime = runtime if kill is None else killed_after(runtime, kill)
    metrics = run(config(**(settings | SHORT | changes)), given, runtime).metrics
    return metrics, load_file(runtime.output / "model" / "model.safetensors")


@pytest.mark.parametrize("name", LOSS)
def test_bfloat16_computes_and_float32_is_what_learns(name, policy, tmp_path, monkeypatch):
    """The same training but for rounding; resumed, it is the same to the bit."""
    exact, weights = train(name, policy, tmp_path / "exact")
    types, whole = set(), loop.accumulate

    def watched(parameters, *rest, **given):
        types.update(parameter.dtype for parameter in parameters)
        return whole(parameters, *rest, **given)

    monkeypatch.setattr(loop, "accumulate", watched)
    rounded, after = train(name, policy, tmp_path / "rounded", precision="bfloat16")
    assert torch.bfloat16 in types
    assert rounded[LOSS[name]] == pytest.approx(exact[LOSS[name]], rel=0.05)
    assert {one.dtype for one in after.values()} == {torch.float32}
    moved = [float((after[key] - weights[key]).norm() / weights[key].norm()) for key in weights]
    assert 0 < max(moved) < 0.2
    fine = {key: one for key, one in after.items() if "norm" not in key}
    assert any(not torch.equal(one, one.bfloat16().float()) for one in fine.values())  # masters, not what computed
    with pytest.raises(Killed):
        train(name, policy, tmp_path / "killed", kill=1, precision="bfloat16")
    again, resumed = train(name, policy, tmp_path / "killed", precision="bfloat16")
    assert again == rounded
    assert_close(resumed, after, rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSS)
def test_checkpointed_blocks_give_the_same_bits(name, policy, tmp_path, monkeypatch):
    counts: list[int] = []

    def counted(whole, self, *rest, **given):
        counts[-1] += torch.is_grad_enabled()
        return whole(self, *rest, **given)

    for kind, method in ((Decoder, "_block"), (LlamaAttention, "forward")):  # a model is read by ours, or by theirs
        monkeypatch.setattr(kind, method, partialmethod(partial(counted, getattr(kind, method))))
    results = []
    for again in (False, True):
        counts.append(0)
        results.append(train(name, policy, tmp_path / str(again), gradient_checkpointing=again))
    assert counts[1] == 2 * counts[0] > 0
    assert results[0][0] == results[1][0]
    assert_close(results[0][1], results[1][1], rtol=0, atol=0)


def test_a_family_without_our_forward_pass_checkpoints_by_its_own(tmp_path):
    granite = test_sft.inputs(tmp_path, "granite")
    results = []
    for again in (False, True):
        settings = test_sft.settings(gradient_checkpointing=again)
        results.append(test_sft.trained(tmp_path / str(again), settings, granite))
    assert results[0][0] == results[1][0]
    assert_close(results[0][1], results[1][1], rtol=0, atol=0)


def test_nothing_to_checkpoint_is_an_error(policy):
    from loopwright.models.checkpointing import checkpoint_blocks

    with pytest.raises(ModelError, match="gradient_checkpointing would do nothing for Linear"):
        checkpoint_blocks(torch.nn.Linear(1, 1), True)
    model = load_causal_lm(policy)
    checkpoint_blocks(model, True)
    assert isinstance(decoder := Decoder.of(model), Decoder) and decoder.checkpointing
    checkpoint_blocks(model, False)
    assert not decoder.checkpointing
