"""Figures over time: one JSON line each, and TensorBoard files beside them."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.tracking.files import disk_full_is_an_error, write_atomically


class MetricsLog:
    """`metrics.jsonl` of a run: {"stage", "step", metric: value, …, "time"} a line.

    A line is handed to the operating system at once, so a killed process loses none; `sync` makes
    them survive a power cut. Figures that are not finite are written as null, which JSON can hold.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self.path = path
        self._tensorboard = tensorboard
        self._writers: dict[str, Any] = {}

    def write(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        row = {"stage": stage, "step": step, **finite, "time": round(time.time(), 3)}
        with disk_full_is_an_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_text([row]))
        if self._tensorboard is not None:
            self._to_tensorboard(row)

    def cut(self, stage: str, step: int = -1) -> None:
        """Drop the stage's lines after `step` (by default all), and a last line that was half written.

        The work after a checkpoint is done again after a crash; its lines must not appear twice.
        """
        self._keep([row for row in read_metrics(self.path) if row["stage"] != stage or row["step"] <= step], stage)

    def lines(self, stage: str) -> str:
        """The stage's lines, as in the file."""
        return _text(row for row in read_metrics(self.path) if row["stage"] == stage)

    def put(self, stage: str, lines: Path) -> None:
        """Replace the stage's lines by those of a file: figures of an artifact that is used again."""
        if self.lines(stage) != _text(read_metrics(lines)):
            others = [row for row in read_metrics(self.path) if row["stage"] != stage]
            self._keep([*others, *read_metrics(lines)], stage)

    def arrange(self, stages: Sequence[str]) -> None:
        """Put the stages' lines in this order, whichever of them ran last; lines of other stages come after."""
        rank = {stage: position for position, stage in enumerate(stages)}
        rows = list(read_metrics(self.path))
        ordered = sorted(rows, key=lambda row: rank.get(row["stage"], len(rank)))
        if ordered != rows:
            write_atomically(self.path, _text(ordered))

    def sync(self) -> None:
        """Make every line so far survive a power cut."""
        if self.path.exists():
            with disk_full_is_an_error(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _keep(self, rows: list[dict[str, Any]], stage: str) -> None:
        new = _text(rows)
        if new != (self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""):
            write_atomically(self.path, new)
        if self._tensorboard is not None:
            self._rebuild_tensorboard(stage, [row for row in rows if row["stage"] == stage])

    def _rebuild_tensorboard(self, stage: str, rows: list[dict[str, Any]]) -> None:
        """Event files cannot be cut, so the stage's are written anew from the lines that stay."""
        assert self._tensorboard is not None
        if writer := self._writers.pop(stage, None):
            writer.close()
        shutil.rmtree(self._tensorboard / stage, ignore_errors=True)
        for row in rows:
            self._to_tensorboard(row)

    def _to_tensorboard(self, row: Mapping[str, Any]) -> None:
        assert self._tensorboard is not None
        # Imported here: it takes a second, and a run without TensorBoard does not need it.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        stage = row["stage"]
        if stage not in self._writers:
            self._writers[stage] = EventFileWriter(str(self._tensorboard / stage))
        values = [
            Summary.Value(tag=f"{stage}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in ("stage", "step", "time") and value is not None
        ]
        self._writers[stage].add_event(Event(wall_time=row["time"], step=row["step"], summary=Summary(value=values)))


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a metrics file, in order; none when there is no file."""
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if (row := _parse(line)) is not None:
                yield row


def _parse(line: str) -> dict[str, Any] | None:
    """A line's record; None for one that a crash left half written."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "stage" in row and "step" in row else None


def _text(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
