"""One recipe on several seeds: a normal run directory a seed, and one summary over them."""

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from loopwright.config import read_yaml
from loopwright.errors import ArtifactError, ConfigError, LoopwrightError
from loopwright.loop.config import RunConfig, config_from
from loopwright.loop.execution import run
from loopwright.loop.lock import locked
from loopwright.loop.summary import read_summary
from loopwright.runtime.display import Display, Quiet
from loopwright.tracking.files import write_atomically

Summary = dict[str, Any]
MakeDisplay = Callable[[], AbstractContextManager[Display]]
_PREFIX = "seed-"


def run_seeds(
    config: RunConfig,
    seeds: Sequence[int],
    out: Path,
    *,
    display: MakeDisplay | None = None,
    finished: Callable[[int, Summary | str], None] | None = None,
    run_one: Callable[[RunConfig, Path], Summary] | None = None,
) -> Summary:
    """Run a recipe once a seed, one after the other, each in `out/seed-N`; the same call goes on after a crash.

    A seed that fails does not stop the others.

    Args:
        display: makes what a person watches; called in the process of each seed, so it must be picklable.
        finished: told each seed with its summary, or with the reason why it failed.
        run_one: runs one seed in its directory; by default in a process of its own.

    Returns:
        `out/summary.json`, which is written after each seed: {"name", "seeds": {seed: summary}, "failed":
        {seed: reason}, "versions": {version: {figure: {"mean", "std"}}}}.

    Raises:
        ConfigError: the seeds are not distinct numbers from 0 up, or `out` holds something else.
        RunBusyError: another process works in `out`.
    """
    _check(seeds)
    run_one = run_one or partial(_in_own_process, display=display or _quiet)
    with locked(out):
        _claim(out, config.name)
        done: dict[int, Summary] = {}
        failed: dict[int, str] = {}
        for seed in seeds:
            try:
                done[seed] = run_one(config.model_copy(update={"seed": seed}), seed_folder(out, seed))
            except LoopwrightError as error:
                failed[seed] = str(error)
            summary = combine(config.name, done, failed)
            write_atomically(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
            if finished:
                finished(seed, done.get(seed) or failed[seed])
    return summary


def _quiet() -> AbstractContextManager[Display]:
    return nullcontext(Quiet())


def seed_folder(out: Path, seed: int) -> Path:
    return out / f"{_PREFIX}{seed}"


def seed_folders(out: Path) -> dict[int, Path]:
    """The run directories that `run_seeds` made in `out`, by seed; none in any other folder."""
    if (out / "config.yaml").exists():  # a run directory of its own
        return {}
    numbers = {path: path.parent.name.removeprefix(_PREFIX) for path in out.glob(f"{_PREFIX}*/config.yaml")}
    return dict(sorted((int(number), path.parent) for path, number in numbers.items() if number.isdecimal()))


def refuse_several(path: Path) -> None:
    """Raise ArtifactError where one run is meant and `path` holds those of several seeds."""
    if folders := seed_folders(path):
        raise ArtifactError(f"{path}: holds runs of several seeds; name one: {', '.join(map(str, folders.values()))}")


def combine(name: str, done: Mapping[int, Summary], failed: Mapping[int, str]) -> Summary:
    """One summary over those of the seeds."""
    versions = [summary["versions"] for summary in done.values()]
    return {
        "name": name,
        "seeds": {str(seed): summary for seed, summary in done.items()},
        "failed": {str(seed): reason for seed, reason in failed.items()},
        "versions": (_across(versions) or {}) if versions else {},
    }


def _across(values: Sequence[Any]) -> Any:
    """Mean and sample standard deviation of each figure that all seeds have; None for what is no figure."""
    if all(isinstance(value, int | float) for value in values):
        return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}
    if not all(isinstance(value, Mapping) for value in values):
        return None
    if all({"mean", "low", "high"} <= value.keys() for value in values):  # the interval within a seed says less
        return _across([value["mean"] for value in values])
    shared = [key for key in values[0] if all(key in value for value in values)]
    found = {key: _across([value[key] for value in values]) for key in shared}
    return {key: value for key, value in found.items() if value is not None}


def _check(seeds: Sequence[int]) -> None:
    given = f"seeds {' '.join(map(str, seeds))}"
    if not seeds:
        raise ConfigError("no seeds were given; name at least one, such as 0")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**63]:
        raise ConfigError(f"{given}: {wrong[0]} is out of range; a seed is a whole number from 0 to 2^63 - 1")
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise ConfigError(f"{given}: {twice[0]} is there twice; name each seed once")


def _claim(out: Path, name: str) -> None:
    """Refuse a folder that is not this recipe's, as `run` does for one seed."""
    if (out / "config.yaml").exists():
        raise ConfigError(f"{out}: is the run directory of one seed; choose another --out for several")
    names = sorted(path.name for path in out.iterdir())
    if strangers := [name for name in names if not name.startswith((".", _PREFIX)) and name != "summary.json"]:
        raise ConfigError(f"{out}: is not a folder for runs of seeds (it holds {strangers[0]}); choose another --out")
    for folder in seed_folders(out).values():
        owner = read_yaml(folder / "config.yaml").get("name")
        if owner != name:
            raise ConfigError(f"{folder}: was made by recipe {owner}, this one is {name}; choose another --out")


def _in_own_process(config: RunConfig, out: Path, *, display: MakeDisplay) -> Summary:
    """Run a seed in a child: a process cannot lower its peak of memory again, so each seed needs one of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(config.model_dump(mode="json"), out, display, sender))
    # Until the child is ready for it, Ctrl-C must not reach it: it would print a traceback out of an import.
    resource_tracker.ensure_running()  # unblocks signals when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sender.close()
    try:
        failure = receiver.recv()
    except EOFError:
        child.join()
        failure = f"{out}: its process ended early, with status {child.exitcode}; run the same command again"
    finally:
        child.join(timeout=10)  # it got the Ctrl-C of a terminal, too
        child.kill()
    if failure is not None:
        raise LoopwrightError(failure)
    return read_summary(out)


def _child(values: dict[str, Any], out: Path, display: MakeDisplay, sender: Connection) -> None:
    """Send None when the run is done, or the sentence why it failed."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with display() as shown:
            shown.log(f"seed {values['seed']}: {out}")
            run(config_from(values, str(out), resolved=True), out, display=shown)
        sender.send(None)
    except (LoopwrightError, OSError) as error:
        sender.send(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_the_parent() -> None:
    """However it ends: or else the same command, given again, would find this seed locked."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
