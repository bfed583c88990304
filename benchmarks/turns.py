"""Programs in turns on one machine, each measured while the others wait, and what else kept the cores busy meanwhile.

The standard library is all this needs: the peers' Pythons import it, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Row = dict[str, float]  # a turn: `seconds`, `busy`, and what else the program says of it


class Turns(NamedTuple):
    rows: dict[str, list[Row]]  # of each program, one a round
    first_seconds: dict[str, float]  # from the start of a program to the end of its first turn, which warms it up


class Turn:
    """In a program: says what a turn took and did, and waits for the next one."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def done(self, **figures: float) -> None:
        print(json.dumps({"seconds": time.perf_counter() - self._start} | figures), flush=True)
        sys.stdin.readline()
        self._start = time.perf_counter()


def take_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, check: Callable[[dict[str, Row]], None] | None = None
) -> Turns:
    """One turn of each program after the other, so many times.

    Args:
        commands: name -> a command line, whose process calls `Turn.done`.
        check: gets every program's first turn and raises where they are not the same work; then the rounds begin.
    """
    running: dict[str, subprocess.Popen[str]] = {}
    first: dict[str, Row] = {}
    found = Turns({name: [] for name in commands}, {})
    try:
        for name, command in commands.items():
            started = time.perf_counter()
            running[name] = _start(command)
            first[name] = _next_row(running[name])
            found.first_seconds[name] = time.perf_counter() - started
        if check is not None:
            check(first)
        for _ in range(rounds):
            for name, process in running.items():
                time.sleep(0.3)  # the other's threads stop spinning
                before = core_seconds(process.pid)
                process.stdin.write("\n")
                process.stdin.flush()
                found.rows[name].append(_next_row(process) | {"busy": busy(before, core_seconds(process.pid))})
    finally:
        for process in running.values():
            process.stdin.close()
            process.terminate()
            process.wait()
    return found


def with_path(command: Sequence[str], python_path: str) -> list[str]:
    """The command with this PYTHONPATH, if there is one."""
    return ["env", f"PYTHONPATH={python_path}", *command] if python_path else list(command)


class CoreSeconds(NamedTuple):
    wall: float
    everything: float  # that all processes used of the cores
    own: float  # that one process used


def core_seconds(process: int | None = None) -> CoreSeconds:
    """Until now; `process` is an id, by default this process's."""
    tick = os.sysconf("SC_CLK_TCK")
    columns = [int(x) for x in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]]
    of_process = Path(f"/proc/{process or 'self'}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    used = sum(columns[:8]) - columns[3] - columns[4]
    return CoreSeconds(time.perf_counter(), used / tick, (int(of_process[11]) + int(of_process[12])) / tick)


def busy(before: CoreSeconds, after: CoreSeconds) -> float:
    """Cores that other processes used in between."""
    wall, everything, own = (b - a for a, b in zip(before, after, strict=True))
    return round(max(0.0, (everything - own) / wall), 2)


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("SHOW") else subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"},
    )


def _next_row(process: subprocess.Popen[str]) -> Row:
    """The next turn's figures; trainers print other lines, too."""
    for line in process.stdout:
        if line.startswith('{"seconds"'):
            return json.loads(line)
    raise SystemExit(f"a program ended early ({' '.join(process.args)}); run it with SHOW=1 to see why")
