"""A checkpoint gives back exactly what was saved, or the one before it does."""

import errno
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from loopwright.errors import ArtifactError
from loopwright.runtime import Runtime, checkpoints
from loopwright.runtime.checkpoints import load_checkpoint, save_checkpoint


def saved(folder, state, step=1):
    save_checkpoint(folder, step, state)
    return load_checkpoint(folder, pytest.fail).state


def test_structure_survives(tmp_path):
    state = {
        "numbers": [1, 2.5, -0.0, 1e-300, float("inf"), True, None, 2**70],
        "tuple": (1, (2, "x")),
        "optimizer": {"state": {0: {"step": 3}, 1: {}}, "param_groups": [{"betas": (0.9, 0.95)}]},
        "$odd": {"$tensor": "text"},
        "empty": {"list": [], "tuple": (), "dict": {}},
        "text": "ä\n",
    }
    got = saved(tmp_path, state)
    assert got == state
    assert str(got["numbers"][2]) == "-0.0"
    assert type(got["numbers"][5]) is bool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_survive_bit_for_bit(tmp_path, dtype):
    tensor = (torch.randn(3, 4) * 3).to(dtype)
    for kept in (tensor, tensor.t(), tensor[:, 1], tensor[0, 0], tensor[:0]):
        got = saved(tmp_path, {"a": kept, "twice": [kept, kept]})
        for back in (got["a"], *got["twice"]):
            assert back.dtype == kept.dtype
            assert torch.equal(back, kept)


def test_an_optimizer_goes_on_as_if_nothing_happened(tmp_path):
    def trained(break_at):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for step in range(6):
            if step == break_at:
                state = saved(tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
                model = torch.nn.Linear(3, 2)
                optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
            optimizer.zero_grad()
            model(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()
        return model.weight

    assert torch.equal(trained(break_at=3), trained(break_at=None))


def test_what_needs_pickle_is_refused(tmp_path):
    with pytest.raises(TypeError, match="state.inner.0 is a set; a checkpoint holds tensors"):
        save_checkpoint(tmp_path, 1, {"inner": [{1}]})


def test_two_are_kept(tmp_path):
    for step in (8, 9, 10, 11):
        save_checkpoint(tmp_path, step, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000010", "checkpoint-00000011"]


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "hashes.json"])
@pytest.mark.parametrize("how", ["truncated", "missing", "flipped", "empty"])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, name, how):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step, "t": torch.ones(5) * step})
    path = tmp_path / "checkpoint-00000002" / name
    content = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "missing":
            path.unlink()
        case "flipped":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        case "empty":
            path.write_bytes(b"")
    said = []
    got = load_checkpoint(tmp_path, said.append)
    assert (got.step, got.state["step"]) == (1, 1)
    assert "checkpoint-00000002 is damaged" in said[0]
    assert "going back to the checkpoint before it" in said[0]


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "hashes.json"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_one_that_cannot_be_read_is_kept_and_named(tmp_path, monkeypatch, name, number):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step})
    path, plain = tmp_path / "checkpoint-00000002" / name, Path.open

    def refuses(self, *args, **kwargs):
        if self == path:
            raise OSError(number, os.strerror(number), str(self))
        return plain(self, *args, **kwargs)

    message = f"{path}: cannot be read ({os.strerror(number)}); mend the disk or the file's permissions and run"
    with monkeypatch.context() as patched, pytest.raises(ArtifactError, match=re.escape(message)):
        patched.setattr(Path, "open", refuses)
        load_checkpoint(tmp_path, pytest.fail)
    assert load_checkpoint(tmp_path, pytest.fail).state == {"step": 2}


def failing(number):
    """A call of the system that fails, as `read` and `fsync` do: without a file's name."""

    def call(*args):
        raise OSError(number, os.strerror(number))

    return call


def test_a_read_that_fails_half_way_names_the_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": 1})
    with monkeypatch.context() as patched, pytest.raises(ArtifactError, match="checkpoint-00000001: cannot be read"):
        patched.setattr(checkpoints, "sha256_file", failing(errno.EIO))
        load_checkpoint(tmp_path, pytest.fail)
    assert load_checkpoint(tmp_path, pytest.fail).state == {"x": 1}


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": 1})
    with monkeypatch.context() as patched, pytest.raises(ArtifactError, match="the disk is full; free some space"):
        patched.setattr(os, "fsync", failing(errno.ENOSPC))
        save_checkpoint(tmp_path, 2, {"x": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]
    assert load_checkpoint(tmp_path, pytest.fail).state == {"x": 1}


def test_a_full_disk_inside_a_library_is_recognised_too(tmp_path, monkeypatch):
    import safetensors.torch

    def full(*args):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ArtifactError, match="the disk is full"):
        save_checkpoint(tmp_path, 1, {})


def draws():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random(), np.random.randn()


def test_restore_puts_random_states_and_metrics_back(tmp_path):
    runtime = Runtime.temporary(tmp_path)
    np.random.randn()  # leaves a second normal number waiting in numpy's state
    runtime.record(1, {"x": 1})
    runtime.checkpoint(1, {"kept": "this"})
    expected = draws()
    runtime.record(2, {"x": 2})
    again = Runtime.temporary(tmp_path)
    restored = again.restore()
    assert (restored.step, restored.state) == (1, {"kept": "this"})
    assert draws() == expected
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_without_a_checkpoint_work_starts_at_the_beginning(tmp_path):
    Runtime.temporary(tmp_path).record(1, {"x": 1})
    runtime = Runtime.temporary(tmp_path)
    assert runtime.restore() is None
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_when_none_is_whole_it_says_so_and_starts_again(tmp_path, monkeypatch):
    runtime = Runtime.temporary(tmp_path)
    runtime.record(1, {"x": 1})
    runtime.checkpoint(1, {})
    (runtime.scratch / "checkpoint-00000001/state.json").write_text("")
    said = []
    monkeypatch.setattr(Runtime, "log", lambda self, message: said.append(message))
    assert Runtime.temporary(tmp_path).restore() is None
    assert said[-1] == "test: no whole checkpoint is left; starting again from its first step"
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_checkpoint_of_another_device_is_refused_and_kept(tmp_path):
    runtime = Runtime.temporary(tmp_path, stage="ppo")
    runtime.device = torch.device("mps")
    runtime.record(1, {"x": 1})
    runtime.checkpoint(1, {"kept": "this"})
    again = Runtime.temporary(tmp_path, stage="ppo")
    state = torch.get_rng_state()
    with pytest.raises(ArtifactError, match="step 1 was made on mps, and this run is on cpu.*set device = mps"):
        again.restore()
    assert torch.equal(torch.get_rng_state(), state)
    again.device = torch.device("mps")
    assert again.restore().state == {"kept": "this"}
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_seconds_survive(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    runtime = Runtime.temporary(tmp_path)
    clock[0] += 7
    runtime.checkpoint(1, {})
    clock[0] += 50  # lost with the crash
    again = Runtime.temporary(tmp_path)
    again.restore()
    clock[0] += 3
    assert again.seconds == 10


def test_seeds_depend_on_everything_and_nothing_else(tmp_path):
    runtime = Runtime.temporary(tmp_path, stage="ppo", seed=0)
    seeds = [runtime.seed_for("rollouts", 1), runtime.seed_for("rollouts", 2), runtime.seed_for("other", 1)]
    seeds += [Runtime.temporary(tmp_path, stage="sft").seed_for("rollouts", 1)]
    seeds += [Runtime.temporary(tmp_path, stage="ppo", seed=1).seed_for("rollouts", 1)]
    seeds += [runtime.seed_for("rollouts", "1")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert Runtime.temporary(tmp_path, stage="ppo").seed_for("rollouts", 1) == seeds[0]


def test_a_stage_does_not_depend_on_what_ran_before(tmp_path):
    runtime = Runtime.temporary(tmp_path)
    runtime.seed_everything()
    first = draws()
    runtime.seed_everything()
    assert draws() == first
