"""What runs, what is skipped, what is refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loopwright.errors import ArtifactError, ConfigError, DataError, RequirementError, RunBusyError
from loopwright.kernels import library
from loopwright.loop import execution, load_config, run, status
from loopwright.loop.plan import differences
from loopwright.tracking import ArtifactStore, code_hashes
from loopwright.tracking.artifacts import Origin
from tests.loop.toys import RECIPE, TOYS, no_report, outcome


class Log:
    """A display that remembers."""

    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)

    def progress(self, description, total, start=0):
        from loopwright.runtime import Quiet

        return Quiet().progress(description, total, start)

    def ran(self):
        """The stages that were not skipped."""
        skipped = {line.split(":")[0] for line in self.lines if "not run again" in line}
        return [name for name in TOYS if name not in skipped]


def go(tmp_path, *overrides, out="run", recipe=RECIPE, log=None):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    config = load_config(path, overrides, stages=TOYS)
    return run(config, tmp_path / out, stages=TOYS, render=no_report, display=log)


def states(tmp_path):
    return {stage.stage: (stage.state, stage.reasons) for stage in status(tmp_path / "run", stages=TOYS)}


def test_summary_is_the_contract(tmp_path):
    summary = go(tmp_path)
    assert summary == json.loads((tmp_path / "run/summary.json").read_text())
    assert set(summary) == {"name", "seed", "stages", "versions", "seconds", "peak_rss_mb"}
    assert list(summary["stages"]) == ["seeds", "first", "evaluate"]
    assert summary["versions"] == {"base": {"gold": summary["stages"]["evaluate"]["norm"]}}
    assert "versions" not in summary["stages"]["evaluate"]
    assert summary["seconds"] == pytest.approx(sum(stage["seconds"] for stage in summary["stages"].values()), abs=0.01)
    assert summary["peak_rss_mb"] > 10


def test_unchanged_stages_are_not_run_again(tmp_path):
    first = go(tmp_path)
    log = Log()
    assert go(tmp_path, log=log) == first
    assert log.ran() == []


def test_two_runs_of_one_recipe_agree_bitwise(tmp_path):
    go(tmp_path, out="one")
    go(tmp_path, out="two")
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


def test_a_run_keeps_what_it_computes_with(tmp_path):
    go(tmp_path)
    kept = tmp_path / "run/kernels.json"
    first = json.loads(kept.read_text())
    assert first["operations"] in {"c", "torch"} and set(first["products"]) == {"learning", "sampling"}
    other = first | {"operations": "torch"}
    kept.write_text(json.dumps(other))
    go(tmp_path, "seed=7")
    try:
        assert library.library() is None and json.loads(kept.read_text()) == other
    finally:
        library.switch(on=True)


def test_a_changed_setting_reruns_it_and_its_dependants_only(tmp_path):
    go(tmp_path)
    log = Log()
    go(tmp_path, "first.rate=0.2", log=log)
    assert log.ran() == ["first", "evaluate"]
    assert "first: config changed first.rate: 0.1 → 0.2" in log.lines


def test_a_setting_of_the_last_stage_reruns_it_alone(tmp_path):
    go(tmp_path)
    log = Log()
    go(tmp_path, "evaluate.steps=2", log=log)
    assert log.ran() == ["evaluate"]


def test_going_back_uses_what_is_there_with_its_own_curves(tmp_path):
    go(tmp_path)
    before = (tmp_path / "run/metrics.jsonl").read_text()
    go(tmp_path, "first.steps=9")
    log = Log()
    go(tmp_path, log=log)
    assert log.ran() == []
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


def test_another_seed_reruns_everything(tmp_path):
    go(tmp_path)
    log = Log()
    go(tmp_path, "seed=1", log=log)
    assert log.ran() == list(TOYS)
    assert "seeds: seed changed: 0 → 1" in log.lines


def test_another_device_is_said_and_reruns_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(execution, "_device", lambda wanted: torch.device("mps"))
        go(tmp_path)
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("artifacts/*/manifest.json")]
    assert {manifest["device"] for manifest in manifests} == {"mps"}
    log = Log()
    go(tmp_path, log=log)
    assert log.ran() == []
    said = [line for line in log.lines if "was made on mps and is used as it is on cpu; delete" in line]
    assert [line.split(":")[0] for line in said] == list(TOYS)
    go(tmp_path, "first.rate=0.2")  # a stage that runs here takes the seeds from there
    log = Log()
    go(tmp_path, "first.rate=0.2", log=log)
    assert [line.split(":")[0] for line in log.lines if "was made on" in line] == ["seeds"]


def test_a_stage_begun_on_another_device_does_not_go_on(tmp_path, monkeypatch):
    commit = ArtifactStore.commit

    def dies(store, origin, **given):
        if origin.kind == "first":
            raise KeyboardInterrupt
        return commit(store, origin, **given)

    with monkeypatch.context() as elsewhere, pytest.raises(KeyboardInterrupt):
        elsewhere.setattr(execution, "_device", lambda wanted: torch.device("mps"))
        elsewhere.setattr(ArtifactStore, "commit", dies)
        go(tmp_path)
    with pytest.raises(ArtifactError, match="scratch/first-.* was made on mps, and this run is on cpu"):
        go(tmp_path)
    (begun,) = (tmp_path / "run/scratch").glob("first-*")
    shutil.rmtree(begun)  # as the message says
    go(tmp_path)
    go(tmp_path, out="undisturbed")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


def test_a_bar_does_not_change_an_artifact(tmp_path):
    go(tmp_path)
    log = Log()
    go(tmp_path, "first.require={norm: {max: 100}}", log=log)
    assert log.ran() == []


def test_a_missed_bar_stops_the_run(tmp_path):
    with pytest.raises(RequirementError, match=r"first\.require\.norm: got .* above the required max 0\.001"):
        go(tmp_path, "first.require={norm: {max: 0.001}}")
    assert list(json.loads((tmp_path / "run/summary.json").read_text())["stages"]) == ["seeds", "first"]


def test_tensorboard_has_a_folder_a_stage(tmp_path):
    go(tmp_path)
    assert not (tmp_path / "run/tensorboard").exists()
    go(tmp_path, "tensorboard=true", out="shown")
    found = {path.parent.name for path in (tmp_path / "shown/tensorboard").rglob("events.out.tfevents*")}
    assert found == {"first", "evaluate"}  # those that record figures over time


def test_an_external_file_belongs_to_the_key(tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("one")
    go(tmp_path, f"seeds.file={data}")
    data.write_text("two")
    state, reasons = states(tmp_path)["seeds"]
    assert state == "stale"
    assert reasons[0].startswith(f"file changed {data}: ")


def test_data_that_moved_is_the_same_data(tmp_path, monkeypatch):
    recipe = RECIPE.replace("{count: 4}", "{count: 4, file: '${data_dir}/data.txt'}")
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.txt").write_text("same")
    go(tmp_path, f"data_dir={tmp_path / 'here'}", recipe=recipe)
    log = Log()
    monkeypatch.setenv("LOOPWRIGHT_DATA", str(tmp_path / "there"))
    go(tmp_path, recipe=recipe, log=log)
    assert log.ran() == []


def test_status_says_which_and_why(tmp_path):
    go(tmp_path)
    assert {state for state, _ in states(tmp_path).values()} == {"done"}
    path = tmp_path / "run/config.yaml"
    path.write_text(path.read_text().replace("  rate: 0.1\n", "  rate: 0.3\n", 1))
    found = states(tmp_path)
    assert found["seeds"] == ("done", [])
    assert found["first"] == ("stale", ["config changed first.rate: 0.1 → 0.3"])
    assert found["evaluate"] == ("stale", ["parent first runs first"])


def test_a_changed_reward_is_told_by_what_was_given_of_it():
    same = {"kind": "ppo", "parents": {}, "seed": 0, "code": "0", "versions": {}}
    old, new = (
        Origin(config={"rewards": []}, **same),
        Origin(config={"rewards": [{"kind": "rule", "url": None}]}, **same),
    )
    assert differences(old, new) == ["config changed ppo.rewards: [] → [{'kind': 'rule'}]"]


def test_status_tells_what_came_from_what(tmp_path):
    go(tmp_path)
    seeds, first, _ = status(tmp_path / "run", stages=TOYS)
    assert first.parents == {"model": seeds.artifact}


def test_changed_code_names_the_module(tmp_path):
    go(tmp_path)
    manifest = next((tmp_path / "run/artifacts").glob("seeds-*/manifest.json"))
    today = code_hashes("tests.loop.toys")["loopwright.stages.base"]
    # The same as if the module had been edited since.
    old = json.loads(manifest.read_text().replace(today, "0" * 64))
    folder = manifest.parent
    old["key"], old["code"] = "1" * 64, "2" * 64
    manifest.write_text(json.dumps(old))
    folder.rename(folder.with_name("seeds-111111111111"))
    state, reasons = states(tmp_path)["seeds"]
    assert (state, reasons) == ("stale", ["code changed: loopwright.stages.base"])


@pytest.mark.parametrize("damage", ["change", "delete", "add", "manifest", "no manifest"])
def test_a_damaged_artifact_is_named_and_rebuilt(tmp_path, damage):
    go(tmp_path)
    expected = outcome(tmp_path / "run")
    folder = next((tmp_path / "run/artifacts").glob("first-*"))
    weights = folder / "model/w.safetensors"
    match damage:
        case "change":
            weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
        case "delete":
            weights.unlink()
        case "add":
            (folder / "extra").write_text("?")
        case "manifest":
            (folder / "manifest.json").write_text('{"id": "half')
        case "no manifest":
            (folder / "manifest.json").unlink()
    assert states(tmp_path)["first"][0] == "damaged"
    log = Log()
    go(tmp_path, log=log)
    assert log.ran() == ["first"]  # it comes out as it was, so what depends on it need not run
    assert any(line.startswith("warning: ") and "first runs again" in line for line in log.lines)
    assert outcome(tmp_path / "run") == expected


def test_a_half_written_artifact_is_not_there(tmp_path):
    go(tmp_path)
    expected = outcome(tmp_path / "run")
    folder = next((tmp_path / "run/artifacts").glob("first-*"))
    folder.rename(folder.with_name(f".{folder.name}.partial"))
    go(tmp_path)
    assert outcome(tmp_path / "run") == expected


def test_a_full_disk_is_one_sentence_and_costs_nothing_else(tmp_path, monkeypatch):
    go(tmp_path, out="undisturbed")
    real, calls = os.fsync, []

    def full_at_the_sixtieth(descriptor):
        calls.append(descriptor)
        if len(calls) == 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_sixtieth)
    with pytest.raises(ArtifactError, match="the disk is full; free some space and run the same command again"):
        go(tmp_path)
    go(tmp_path)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


def test_a_second_process_is_refused(tmp_path):
    go(tmp_path)
    held = "from pathlib import Path; from loopwright.loop.lock import locked; import sys\n"
    held += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", held, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunBusyError, match=f"process {other.pid} is working here"):
            go(tmp_path)
        other.kill()
    go(tmp_path)  # the lock went with the process


def test_a_run_directory_of_another_recipe_is_refused(tmp_path):
    go(tmp_path)
    with pytest.raises(ConfigError, match="was made by recipe toy, this one is other; choose another --out"):
        go(tmp_path, "name=other")


def test_a_folder_that_is_no_run_directory_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"is not empty and no run directory \(it holds thesis.txt\)"):
        go(tmp_path)


def test_a_missing_file_is_found_before_anything_runs(tmp_path):
    with pytest.raises(DataError, match="seeds: no file or folder /no/such/file; correct the path in section seeds"):
        go(tmp_path, "seeds.file=/no/such/file")
    assert not (tmp_path / "run").exists()


def test_a_stage_without_its_parent_gets_the_next_candidate(tmp_path):
    go(tmp_path, "first=false")
    seeds, evaluate = status(tmp_path / "run", stages=TOYS)
    assert evaluate.parents == {"model": seeds.artifact}
    assert Path(seeds.artifact).name.startswith("seeds-")
