"""`loopwright run --seeds`, and the other commands on what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import loopwright.loop.seeds
from loopwright.loop import run
from tests.cli.test_cli import call, toys  # noqa: F401
from tests.loop.toys import TOYS, no_report


@pytest.fixture
def seeds(toys, monkeypatch):  # noqa: F811
    """Toy stages, which only this process knows."""

    def in_this_process(config, out, *, display):
        return run(config, out, stages=TOYS, render=no_report)

    monkeypatch.setattr(loopwright.loop.seeds, "_in_own_process", in_this_process)
    return partial(call, monkeypatch)


def test_seeds_go_to_folders_of_one_and_show_has_a_line_for_each(seeds, capsys):
    status, out, _ = seeds(capsys, "run", "toy.yaml", "--seeds", "0", "1", "2", "--out", "all")
    assert status == 0
    assert "±" in out
    status, out, _ = seeds(capsys, "show", "all")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    golds = [json.loads(Path(f"all/seed-{n}/summary.json").read_text())["versions"]["base"]["gold"] for n in range(3)]
    assert (status, lines) == (0, [[str(n), "done", f"{gold:.3f}"] for n, gold in enumerate(golds)])
    assert "base gold" in out
    Path("all/seed-1/config.yaml").write_text(Path("all/seed-1/config.yaml").read_text().replace("0.1", "0.2", 1))
    assert "first stale" in seeds(capsys, "show", "all")[1]
    found = json.loads(seeds(capsys, "show", "all", "--json")[1])
    assert [found[n][1]["state"] for n in "012"] == ["done", "stale", "done"]


def test_json_is_the_summary_over_the_seeds(seeds, capsys):
    status, out, _ = seeds(capsys, "run", "--seeds", "3", "1", "toy.yaml", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(Path("runs/toy-seeds/summary.json").read_text())
    assert list(json.loads(out)["seeds"]) == ["3", "1"]


def test_a_failed_seed_is_named_with_its_reason(seeds, capsys):
    arguments = ["run", "toy.yaml", "--seeds", "0", "1", "--set", "first.require={norm: {max: 0.001}}", "--json"]
    status, out, err = seeds(capsys, *arguments)
    assert status == 1
    assert json.loads(out)["failed"].keys() == {"0", "1"}
    assert "seed 0 failed: first.require.norm: got" in err
    assert err.splitlines()[-1].startswith("error: 2 of 2 seeds failed: seed 0: first.require.norm: got")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "7"], "--seeds 7: one seed is a run of its own; write --set seed=7"),
        (["--seeds", "0", "1", "--set", "seed=3"], "--seeds and --set seed=3 contradict; keep one"),
        (["--seeds", "0", "0"], "seeds 0 0: 0 is there twice"),
        (["--seeds", "0", "-1"], "seeds 0 -1: -1 is out of range"),
    ],
)
def test_mistakes_are_one_line(seeds, capsys, arguments, message):
    status, out, err = seeds(capsys, "run", "toy.yaml", *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("seeds_given", [["--seeds"], ["--seeds", "x"], ["--seeds", "0", "--seeds"]])
def test_seeds_that_are_no_numbers_are_a_wrong_option(seeds, capsys, seeds_given):
    assert seeds(capsys, "run", "toy.yaml", *seeds_given)[0] == 2


def test_where_one_run_is_meant_the_folders_are_named(seeds, capsys):
    seeds(capsys, "run", "toy.yaml", "--seeds", "0", "1", "--out", "all")
    for command in ("run", "report", "chat"):
        status, _, err = seeds(capsys, command, "all")
        assert status == 1
        assert err == "error: all: holds runs of several seeds; name one: all/seed-0, all/seed-1\n"
    _, _, err = seeds(capsys, "run", "all/seed-0", "--seeds", "0", "1")
    assert err == "error: all/seed-0: is the run directory of one seed; give --seeds with the recipe\n"


@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "kill -INT"])
def test_ctrl_c_ends_the_process_of_the_seed_too(tmp_path, to_all):
    (tmp_path / "r.yaml").write_text("name: r\nworld: {documents: 30000}\n")
    command = [sys.executable, "-m", "loopwright", "run", "r.yaml", "--seeds", "0", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr.readline() == "seed 0: runs/r-seeds/seed-0\n"
        assert process.stderr.readline() == "[1/1] world\n"
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT) if to_all else os.kill(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.endswith("interrupted; the same command goes on from the last checkpoint\n")
