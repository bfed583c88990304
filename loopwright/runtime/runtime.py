"""Everything a stage may ask of the process it runs in."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loopwright.errors import ArtifactError
from loopwright.runtime.checkpoints import Checkpoint, has_checkpoint, load_checkpoint, save_checkpoint
from loopwright.runtime.display import Display, Progress, Quiet
from loopwright.tracking.metrics import MetricsLog


class Runtime:
    """One process, one device.

    Attributes:
        stage: the name under which figures are recorded.
        seed: the run's seed; take seeds from `seed_for`, never this number itself.
        output: the stage writes its artifact's files here; empty when the stage starts, also after a crash.
        scratch: survives a crash, is gone once the artifact is whole: checkpoints, offending batches.
    """

    def __init__(
        self,
        stage: str,
        seed: int,
        device: torch.device,
        output: Path,
        scratch: Path,
        metrics: MetricsLog,
        display: Display,
    ) -> None:
        self.stage = stage
        self.seed = seed
        self.device = device
        self.output = output
        self.scratch = scratch
        self._metrics = metrics
        self._display = display
        self._said: set[str] = set()
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        output.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        if not has_checkpoint(scratch):  # the stage starts afresh: an attempt before left lines but no checkpoint
            metrics.cut(stage)

    @classmethod
    def temporary(cls, folder: Path, *, stage: str = "test", seed: int = 0) -> Runtime:
        """Quiet, on the CPU, with everything under `folder`: for tests and in-memory use."""
        folder.mkdir(parents=True, exist_ok=True)
        metrics = MetricsLog(folder / "metrics.jsonl")
        return cls(stage, seed, torch.device("cpu"), folder / "output", folder / "scratch", metrics, Quiet())

    def beside(self, folder: Path) -> Runtime:
        """A quiet runtime of the same stage, seed and device, which keeps everything under `folder`."""
        metrics = MetricsLog(folder / "metrics.jsonl")
        return Runtime(self.stage, self.seed, self.device, folder / "output", folder / "scratch", metrics, Quiet())

    @property
    def seconds(self) -> float:
        """Time spent on this stage, that before a crash included up to the last checkpoint."""
        return self._seconds_before + time.perf_counter() - self._started

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the figures of a step. Record a step before its checkpoint, so that a crash loses neither."""
        self._metrics.write(self.stage, step, metrics)

    def checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Save `state` with the global random states, so that work goes on from here after a crash.

        Args:
            state: nested dicts, lists and tuples of tensors, numbers, text and None.

        Raises:
            ArtifactError: the disk is full; the checkpoint before is intact.
        """
        self._metrics.sync()
        saved = {
            "state": state,
            "device": self.device.type,
            "random": _random_states(self.device),
            "seconds": self.seconds,
        }
        save_checkpoint(self.scratch, step, saved)

    def restore(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None to start at the beginning.

        Also puts back the global random states and cuts this stage's metrics back to the checkpoint's step.

        Raises:
            ArtifactError: it was made on another type of device, or cannot be read; it is kept.
        """
        damaged = has_checkpoint(self.scratch)
        found = load_checkpoint(self.scratch, self.log)
        if found is None:
            if damaged:
                self.log(f"{self.stage}: no whole checkpoint is left; starting again from its first step")
            self._metrics.cut(self.stage)
            return None
        self._check_device(found)
        _set_random_states(found.state["random"], self.device)
        self._metrics.cut(self.stage, found.step)
        self._seconds_before = found.state["seconds"]
        self._started = time.perf_counter()
        self.log(f"{self.stage}: going on from step {found.step}")
        return Checkpoint(found.step, found.state["state"])

    def _check_device(self, found: Checkpoint) -> None:
        made_on = found.state["device"]
        if made_on != self.device.type:
            raise ArtifactError(
                f"{self.scratch}: its checkpoint of step {found.step} was made on {made_on}, and this run is on "
                f"{self.device.type}, where numbers come out differently; set device = {made_on} to go on from it, "
                f"or delete the folder to start {self.stage} again"
            )

    def seed_for(self, *names: str | int) -> int:
        """A seed in [0, 2^63) for one purpose: the same in every process, unrelated between purposes.

        `runtime.seed_for("rollouts", step)`: no generator needs saving when each step names its own.
        """
        text = json.dumps([self.seed, self.stage, *names])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def seed_everything(self) -> None:
        """Set the global random states, so that a stage does not depend on what ran in this process before it."""
        seed = self.seed_for("global")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def progress(self, description: str, total: int, start: int = 0) -> AbstractContextManager[Progress]:
        """A bar that a person may watch: `with runtime.progress("training", steps) as bar: bar.advance(loss=…)`."""
        return self._display.progress(description, total, start)

    def log(self, message: str) -> None:
        """One line for a person."""
        self._display.log(message)

    def log_once(self, message: str) -> None:
        """One line for a person, for what would else be said of every model or batch anew."""
        if message not in self._said:
            self._said.add(message)
            self.log(message)


def _random_states(device: torch.device) -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    states = {
        "python": random.getstate(),
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
