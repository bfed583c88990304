"""Kill the process at every moment that matters; the result is that of the run that was never killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _crash_everywhere(folder: Path, stride: int) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.loop.crash_everywhere", str(folder), str(stride)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_a_sample_of_kills_leaves_no_trace(tmp_path):
    found = _crash_everywhere(tmp_path, stride=13)
    assert found["calls"] > 100
    assert found["differ"] == []


@pytest.mark.slow
def test_a_kill_at_any_disk_changing_call_leaves_no_trace(tmp_path):
    assert _crash_everywhere(tmp_path, stride=1)["differ"] == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["crash", "crash_rounds"])
def test_the_real_loop_survives_kill_9(recipe):
    """Whole processes, every stage, SIGKILL at three moments; `benchmarks/crash.py` alone does twenty."""
    command = [sys.executable, "benchmarks/crash.py", "--kills", "3", "--recipe", f"benchmarks/{recipe}.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["equal"] == 3


@pytest.mark.slow
def test_rounds_that_ask_people_survive_kill_9_of_the_run_and_of_the_server():
    """`benchmarks/rounds_crash.py` alone aims at every stage."""
    command = [sys.executable, "benchmarks/rounds_crash.py", "--kills", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["kills"], found["wrong"]) == (4, []) and found["labels"] == 60
