"""Back to an earlier version: what is left, what is refused, and that a kill loses nothing."""

from __future__ import annotations

import pytest

from loopwright.errors import ConfigError
from loopwright.loop import config_from, execution, rollback, run, status
from loopwright.stages.base import POLICIES, Stage
from tests.loop.test_rounds import METHOD, TOYS, go, made, recipe, toy, work
from tests.loop.test_run import Log
from tests.loop.toys import no_report


def test_rollback_and_forth(tmp_path):
    values = recipe({"v1-v3": METHOD})
    whole, _ = go(tmp_path, values)
    out, log = tmp_path / "run", Log()
    found = rollback(out, "v2", stages=TOYS, display=log, render=no_report)
    assert made(log) == ["evaluate"]
    assert "v2.ppo" in found["stages"] and "v3.ppo" not in found["stages"]
    assert list(status_of(out)) == list(found["stages"])
    with pytest.raises(ConfigError, match="has no version v3; it made v1, v2"):
        rollback(out, "v3", stages=TOYS, render=no_report)
    again, log = go(tmp_path, values)
    assert (made(log), list(again["stages"])) == ([], list(whole["stages"]))
    with pytest.raises(ConfigError, match="v3 is the newest version"):
        rollback(out, "v3", stages=TOYS, render=no_report)


@pytest.mark.parametrize("survived", range(1, 7))
def test_a_killed_rollback_goes_on_with_the_same_command(tmp_path, monkeypatch, survived):
    """Wherever it was killed: what a summary tells of is fewer stages than there are until it is written last."""
    out, written = tmp_path / "run", []
    go(tmp_path, recipe({"v1-v3": METHOD}))

    def dies(*given):
        written.append(execution_write_summary(*given))
        if len(written) == survived:
            raise KeyboardInterrupt
        return written[-1]

    execution_write_summary = execution.write_summary
    monkeypatch.setattr(execution, "write_summary", dies)
    with pytest.raises(KeyboardInterrupt):
        rollback(out, "v1", stages=TOYS, render=no_report)
    monkeypatch.undo()
    (out / "report.html").unlink()
    found = rollback(out, "v1", stages=TOYS, render=no_report)
    assert list(found["stages"]) == ["sft", *(f"v1.{name}" for name in METHOD), "evaluate"]
    assert (out / "report.html").is_file() and set(status_of(out).values()) == {"done"}


def test_a_round_that_was_never_finished_is_left_as_others_are(tmp_path):
    """It has labels and a reward model, and no version."""

    def dies(config, inputs, runtime):
        if runtime.stage == "v3.ppo":
            raise KeyboardInterrupt
        return work(config, inputs, runtime)

    dies.__module__ = work.__module__
    table = {name: Stage(**{**vars(stage), "run": dies}) for name, stage in TOYS.items()}
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(config_from(recipe({"v1-v4": METHOD}), "here", stages=TOYS), out, stages=table, render=no_report)
    with pytest.raises(ConfigError, match="has no version v3; it made v1, v2$"):
        rollback(out, "v3", stages=TOYS, render=no_report)
    assert list(rollback(out, "v2", stages=TOYS, render=no_report)["stages"])[-2:] == ["v2.ppo", "evaluate"]


def test_going_back_trains_nothing(tmp_path):
    """A version comes back as it was, or the error says where its model is."""
    out = tmp_path / "run"
    go(tmp_path, recipe({"v1-v3": METHOD | {"evaluate": {}}}))
    config = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(config.replace("gain: 1.0", "gain: 2.0"))
    said = (
        r"v2 cannot be brought back as it was, because sft before it is stale \(config changed sft.gain: 1.0 → 2.0\); "
        r".*/artifacts/v2.ppo-"
    )
    with pytest.raises(ConfigError, match=said):
        rollback(out, "v2", stages=TOYS, render=no_report)
    (out / "config.yaml").write_text(config)
    next(out.glob("artifacts/v1.evaluate-*/said.txt")).unlink()  # an evaluation made anew changes no version
    assert "v2.ppo" in rollback(out, "v2", stages=TOYS, render=no_report)["stages"]


def test_what_a_version_does_not_depend_on_may_be_stale(tmp_path):
    """It is made anew, as an evaluation is; the version stays as it was."""
    stages = TOYS | {"reward_other": toy("reward_other", **{"judged.*": ("feedback",)})}
    looked = METHOD | {"reward_other": {}, "evaluate": {}}
    values, out, log = recipe({"v1-v3": looked}), tmp_path / "run", Log()
    stages["ppo"] = toy("ppo", policy=POLICIES, reward=("reward",))
    run(config_from(values, "here", stages=stages), out, stages=stages, render=no_report)
    before = status_of(out, stages)
    (folder,) = out.glob("artifacts/v1.reward_other-*")
    (folder / "said.txt").write_text("changed")
    next(out.glob("artifacts/v2.evaluate-*/said.txt")).unlink()
    found = rollback(out, "v2", stages=stages, display=log, render=no_report)
    assert made(log) == ["v1.reward_other", "v2.evaluate", "evaluate"]
    assert list(found["stages"]) == [step for step in before if not step.startswith("v3.")]
    (folder / "said.txt").write_text("changed")
    (reward,) = out.glob("artifacts/v1.reward-*")
    (reward / "said.txt").write_text("changed")
    with pytest.raises(
        ConfigError, match="v1 cannot be brought back as it was, because v1.reward before it is damaged"
    ):
        rollback(out, "v1", stages=stages, render=no_report)


def test_a_run_without_rounds_cannot_go_back(tmp_path):
    go(tmp_path, {"name": "x", "tensorboard": False, "sft": {}, "ppo": {}})
    with pytest.raises(ConfigError, match="has no rounds to go back over"):
        rollback(tmp_path / "run", "v1", stages=TOYS)


def status_of(out, stages=TOYS):
    return {one.stage: one.state for one in status(out, stages=stages)}
