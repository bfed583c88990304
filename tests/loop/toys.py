"""A loop of three toy stages that train for real: global and own random numbers, momentum, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from pydantic import model_validator

from loopwright.runtime import Runtime
from loopwright.stages.base import Stage, StageConfig, StageOutput
from loopwright.tracking import Artifact


class SeedsConfig(StageConfig):
    count: int = 3
    file: Path | None = None


class TrainToyConfig(StageConfig):
    steps: int = 5
    rate: float = 0.1
    momentum: float | None = None
    optimizer: str = "plain"

    @model_validator(mode="after")
    def _momentum_needs_its_optimizer(self) -> Self:
        if self.optimizer == "plain" and "momentum" in self.model_fields_set:
            raise ValueError("momentum has no effect with optimizer = plain; drop it")
        return self


@dataclass(frozen=True)
class TrainInputs:
    start: Path


def make_seeds(config: SeedsConfig, inputs: None, runtime: Runtime) -> StageOutput:
    generator = torch.Generator().manual_seed(runtime.seed_for("seeds"))
    weights = torch.randn(config.count, generator=generator)
    (runtime.output / "model").mkdir()
    safetensors.torch.save_file({"w": weights}, runtime.output / "model" / "w.safetensors")
    (runtime.output / "notes.json").write_text(json.dumps({"global": torch.rand(1).item()}))
    return StageOutput({"mean": weights.mean().item()})


def train(config: TrainToyConfig, inputs: TrainInputs, runtime: Runtime) -> StageOutput:
    weights = safetensors.torch.load_file(inputs.start / "w.safetensors")["w"]
    momentum, first = torch.zeros_like(weights), 0
    if restored := runtime.restore():
        first = restored.step
        weights, momentum = restored.state["weights"], restored.state["momentum"]
    with runtime.progress("training", config.steps, first) as bar:
        for step in range(first + 1, config.steps + 1):
            momentum = 0.9 * momentum + torch.randn_like(weights)  # global randomness: checkpoints must keep it
            weights = weights - config.rate * (weights + momentum)
            runtime.record(step, {"norm": weights.norm()})
            runtime.checkpoint(step, {"weights": weights, "momentum": momentum})
            bar.advance(norm=weights.norm().item())
    (runtime.output / "model").mkdir()
    safetensors.torch.save_file({"w": weights}, runtime.output / "model" / "w.safetensors")
    norm = weights.norm().item()
    return StageOutput({"norm": norm, "versions": {"base": {"gold": norm}}})


def bind_seeds(config: SeedsConfig, parents: Mapping[str, Artifact]) -> None:
    return None


def bind_train(config: TrainToyConfig, parents: Mapping[str, Artifact]) -> TrainInputs:
    return TrainInputs(parents["model"].file("model"))


def no_files(config: Any) -> list[Path]:
    return []


TOYS = {
    "seeds": Stage(
        "seeds", SeedsConfig, {}, bind_seeds, make_seeds, lambda config: [config.file] if config.file else []
    ),
    "first": Stage("first", TrainToyConfig, {"model": ("seeds",)}, bind_train, train, no_files),
    "evaluate": Stage("evaluate", TrainToyConfig, {"model": ("first", "seeds")}, bind_train, train, no_files),
}

RECIPE = "name: toy\nseeds: {count: 4}\nfirst: {steps: 4}\nevaluate: {steps: 3}\ntensorboard: false\n"


def no_report(out: Path) -> None:
    (out / "report.html").write_text("report")


def outcome(out: Path) -> dict[str, Any]:
    """What two runs must agree on, bit for bit: everything but times, memory and the TensorBoard files' names."""
    summary = json.loads((out / "summary.json").read_text())
    for figures in (summary, *summary["stages"].values()):
        figures.pop("seconds")
    summary.pop("peak_rss_mb")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("time")
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    content = {
        path.relative_to(out).as_posix(): path.read_bytes().hex()
        for path in files
        if path.name not in ("summary.json", "metrics.jsonl", "manifest.json")
    }
    ids = {path.parent.name: json.loads(path.read_text())["id"] for path in out.glob("artifacts/*/manifest.json")}
    return {"summary": summary, "metrics": lines, "content": content, "ids": ids}
