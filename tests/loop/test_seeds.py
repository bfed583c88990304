"""Several seeds of one recipe: what lies where, what a failure costs, one process a seed."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from loopwright.errors import ArtifactError, ConfigError, RunBusyError
from loopwright.loop import load_config, refuse_several, run, run_seeds, seed_folders
from loopwright.loop.lock import locked
from tests.loop.toys import RECIPE, TOYS, no_report, outcome

WORLD = "name: tiny\nworld: {documents: 60, held_out_documents: 5, demonstrations: 20, train_prompts: 20}\n"
here = partial(run, stages=TOYS, render=no_report)


def toy(tmp_path, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return load_config(path, overrides, stages=TOYS)


def go(tmp_path, seeds, *overrides, out="all", **how):
    return run_seeds(toy(tmp_path, *overrides), seeds, tmp_path / out, **({"run_one": here} | how))


def test_each_seed_is_a_normal_run_and_the_summary_holds_them_all(tmp_path):
    summary = go(tmp_path, [0, 3])
    assert summary == json.loads((tmp_path / "all/summary.json").read_text())
    assert list(summary) == ["name", "seeds", "failed", "versions"]
    for seed in (0, 3):
        here(toy(tmp_path, f"seed={seed}"), tmp_path / f"alone-{seed}")
        folder = tmp_path / f"all/seed-{seed}"
        assert outcome(folder) == outcome(tmp_path / f"alone-{seed}")
        assert summary["seeds"][str(seed)] == json.loads((folder / "summary.json").read_text())


def test_versions_are_means_over_seeds(tmp_path):
    models = {
        0: {"base": {"gold": 0.2, "kl": None, "rate": {"mean": 0.5, "low": 0.1, "high": 0.9}, "attack": {"gold": 1}}},
        1: {"base": {"gold": 0.4, "kl": 1.0, "rate": {"mean": 0.7, "low": 0.3, "high": 0.8}, "attack": {"gold": 0}}},
    }
    got = go(tmp_path, [0, 1], run_one=lambda config, out: {"versions": models[config.seed]})["versions"]
    half = pytest.approx(0.5**0.5)
    assert got == {
        "base": {
            "gold": {"mean": pytest.approx(0.3), "std": pytest.approx(0.2 * 0.5**0.5)},
            "rate": {"mean": pytest.approx(0.6), "std": pytest.approx(0.2 * 0.5**0.5)},
            "attack": {"gold": {"mean": 0.5, "std": half}},
        }
    }


def test_the_summary_is_written_after_each_seed(tmp_path):
    written = []
    go(tmp_path, [2, 1], finished=lambda *_: written.append(json.loads((tmp_path / "all/summary.json").read_text())))
    assert [list(summary["seeds"]) for summary in written] == [["2"], ["2", "1"]]
    assert written[0]["versions"]["base"]["gold"]["std"] is None  # of one seed


def test_a_seed_that_fails_does_not_stop_the_others(tmp_path):
    told = []
    norms = {seed: s["stages"]["first"]["norm"] for seed, s in go(tmp_path, [0, 1, 2], out="first")["seeds"].items()}
    worst = max(norms, key=norms.get)
    bar = f"first.require={{norm: {{max: {max(norm for seed, norm in norms.items() if seed != worst)}}}}}"
    summary = go(tmp_path, [0, 1, 2], bar, finished=lambda seed, outcome: told.append((str(seed), type(outcome))))
    assert list(summary["failed"]) == [worst]
    assert "first.require.norm: got" in summary["failed"][worst]
    assert summary["seeds"].keys() == norms.keys() - {worst}
    assert told == [(seed, str if seed == worst else dict) for seed in norms]


def test_what_is_done_is_not_run_again(tmp_path):
    go(tmp_path, [0, 1])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("all/seed-*/artifacts/*/manifest.json")}
    go(tmp_path, [0, 1, 2])
    assert len(before) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "no seeds were given"),
        ([0, -1], "seeds 0 -1: -1 is out of range; a seed is a whole number from 0"),
        ([0, 2**63], "is out of range"),
        ([4, 1, 4], "seeds 4 1 4: 4 is there twice; name each seed once"),
    ],
)
def test_seeds_are_distinct_numbers_from_nought_up(tmp_path, seeds, message):
    with pytest.raises(ConfigError, match=message):
        go(tmp_path, seeds)
    assert not (tmp_path / "all").exists()


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    here(toy(tmp_path), tmp_path / "all")
    with pytest.raises(ConfigError, match="is the run directory of one seed; choose another --out for several"):
        go(tmp_path, [0, 1])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").touch()
    with pytest.raises(ConfigError, match=r"is not a folder for runs of seeds \(it holds chapter.txt\)"):
        go(tmp_path, [0, 1], out="thesis")
    go(tmp_path, [0, 1], out="toys")
    with pytest.raises(ConfigError, match=r"seed-0: was made by recipe toy, this one is other; choose another --out"):
        go(tmp_path, [5, 6], "name=other", out="toys")


def test_a_second_process_is_refused(tmp_path):
    with locked(tmp_path / "all"), pytest.raises(RunBusyError, match="is working here"):
        go(tmp_path, [0, 1])


def test_one_run_is_meant_where_there_are_several(tmp_path):
    go(tmp_path, [1, 0])
    assert list(seed_folders(tmp_path / "all")) == [0, 1]
    with pytest.raises(ArtifactError, match=r"all: holds runs of several seeds; name one: .*/seed-0, .*/seed-1$"):
        refuse_several(tmp_path / "all")
    refuse_several(tmp_path / "all/seed-0")
    refuse_several(tmp_path / "nowhere")


def tiny_world(tmp_path, *overrides):
    path = tmp_path / "world.yaml"
    path.write_text(WORLD)
    return load_config(path, overrides)


def test_a_process_a_seed_gives_the_same_bits_and_a_peak_of_its_own(tmp_path):
    ballast = bytearray(os.urandom(1 << 20)) * 700  # MB, and this process holds torch besides
    summary = run_seeds(tiny_world(tmp_path), [0, 1], tmp_path / "all")
    assert summary["failed"] == {}
    assert all(seed["peak_rss_mb"] < len(ballast) / 2**20 for seed in summary["seeds"].values())
    run(tiny_world(tmp_path, "seed=1"), tmp_path / "alone")
    apart, alone = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("all/seed-1", "alone"))
    assert apart["stages"]["world"]["artifact"] == alone["stages"]["world"]["artifact"]


def test_a_process_that_fails_says_why_and_one_that_dies_is_named(tmp_path):
    missed = run_seeds(tiny_world(tmp_path, "world.require={nothing: {min: 1}}"), [0], tmp_path / "bar")
    assert "world.require.nothing: world reports no such number" in missed["failed"]["0"]
    died = run_seeds(tiny_world(tmp_path), [0], tmp_path / "dead", display=_killed)
    assert died["failed"]["0"].endswith("seed-0: its process ended early, with status -9; run the same command again")


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_process_of_a_seed_ends_with_its_parent(tmp_path):
    """Or else the same command, given again, would find the seed locked."""
    (tmp_path / "parent.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom loopwright.loop import config_from, run_seeds\n"
        "from tests.loop.test_seeds import _forever\n"
        "if __name__ == '__main__':\n"
        "    config = config_from({'name': 'tiny', 'world': {}}, 'here')\n"
        "    run_seeds(config, [0], Path(sys.argv[1]), display=_forever)\n"
    )
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "all")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as parent:
        child = int(parent.stderr.readline())
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _forever():
    sys.stderr.write(f"{os.getpid()}\n")
    sys.stderr.flush()
    time.sleep(600)
