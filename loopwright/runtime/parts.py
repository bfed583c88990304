"""A stage that trains several times over, with one row of checkpoints and one count of steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from loopwright.runtime.checkpoints import Checkpoint
from loopwright.runtime.display import Progress
from loopwright.runtime.runtime import Runtime


class Part(Runtime):
    """The runtime of one training among several of a stage.

    Its steps are counted on from those before it, and its checkpoints are the stage's: {"around", "inside"}.
    """

    def __init__(  # not Runtime's: nothing starts here, and no line of the log is cut
        self, whole: Runtime, after: int, around: Mapping[str, Any], found: Checkpoint | None = None
    ) -> None:
        """
        Args:
            after: steps of the trainings before.
            around: what the stage must know to come back to this training; in every checkpoint.
            found: a checkpoint of the stage that this training saved, to go on from.
        """
        self.stage, self.seed, self.device = whole.stage, whole.seed, whole.device
        self.output, self.scratch = whole.output, whole.scratch
        self._whole, self._after, self._around, self._found = whole, after, around, found

    @property
    def seconds(self) -> float:
        """As of the stage."""
        return self._whole.seconds

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """As of the stage, its steps counted on."""
        self._whole.record(self._after + step, metrics)

    def checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """As of the stage, with what is around this training."""
        self._whole.checkpoint(self._after + step, {"around": dict(self._around), "inside": dict(state)})

    def restore(self) -> Checkpoint | None:
        """What was found, as this training saved it. The stage has put back the rest."""
        if self._found is None:
            return None
        return Checkpoint(self._found.step - self._after, self._found.state["inside"])

    def progress(self, description: str, total: int, start: int = 0) -> AbstractContextManager[Progress]:
        """As of the stage."""
        return self._whole.progress(description, total, start)

    def log(self, message: str) -> None:
        """As of the stage."""
        self._whole.log(message)
