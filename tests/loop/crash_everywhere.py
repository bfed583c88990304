"""Kills the toy loop at every system call that changes the disk, one run each; run as a script by test_crash.py.

A child is forked for each attempt, so that torch is imported once. Prints the calls covered and the runs that differ.
"""

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopwright.loop import load_config, run
from loopwright.tracking import code_hashes
from tests.loop.toys import RECIPE, TOYS, no_report, outcome

CALLS = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir")


def main(folder: Path, stride: int) -> None:
    recipe = folder / "toy.yaml"
    recipe.write_text(RECIPE)
    for stage in TOYS.values():
        code_hashes(stage.run.__module__)  # read once: someone may edit the package while this runs

    def loop(out: Path) -> None:
        run(load_config(recipe, stages=TOYS), out, stages=TOYS, render=no_report)

    quiet = folder / "undisturbed"
    calls = _in_child(lambda: loop(quiet), kill_at=None)
    expected = outcome(quiet)
    differ = []
    for kill_at in range(1, calls + 1, stride):
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        killed = _in_child(lambda out=out: loop(out), kill_at=kill_at)
        assert killed == -1, f"the run ended before call {kill_at}"
        # A second crash, while the first is being mended.
        _in_child(lambda out=out: loop(out), kill_at=random.Random(kill_at).randint(1, 60))
        _in_child(lambda out=out: loop(out), kill_at=None)
        if outcome(out) != expected:
            differ.append(kill_at)
    sys.stdout.write(json.dumps({"calls": calls, "differ": differ}))


def _in_child(work: Callable[[], Any], kill_at: int | None) -> int:
    """Do the work in a forked child; the number of disk-changing calls it made, or -1 when it was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        counted = _count_calls(kill_at)
        work()
        os.write(writer, str(counted()).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    said = os.read(reader, 100)
    os.close(reader)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return -1
    assert status == 0, "the run failed instead of being killed"
    return int(said)


def _count_calls(kill_at: int | None) -> Callable[[], int]:
    made = 0

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            # SIGKILL loses no written data, only a power cut does: the slow part of fsync tests nothing here.
            return None if call is fsync else call(*args, **kwargs)

        return counted

    fsync = os.fsync

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))
    return lambda: made


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
