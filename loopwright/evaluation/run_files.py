"""Reading a run directory. A file that is missing or unreadable is None: its section is left out of the report."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.errors import ArtifactError
from loopwright.schemas.steps import stage_of
from loopwright.tracking.metrics import read_metrics

STAGES = (
    "world", "dataset", "pretrain", "demonstrations", "sft", "sft_clean", "annotator", "judge", "constitutional",
    "feedback", "ai_feedback", "reward", "rejection", "rest", "hindsight", "conditioned", "dpo", "kto", "rloo", "grpo",
    "reinforce_plus_plus", "ppo", "red_team", "evaluate",
)  # fmt: skip  # in the order they run


POLICY_GRADIENTS = ("rloo", "grpo", "reinforce_plus_plus", "ppo")  # they record the same figures


@dataclass(frozen=True)
class StageFiles:
    """One stage's artifact, as found on disk."""

    name: str
    path: Path
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        found = self.manifest.get("metrics")
        return found if isinstance(found, dict) else {}

    @property
    def created(self) -> str:
        return str(self.manifest.get("created") or "")

    @property
    def seconds(self) -> float:
        return float(self.manifest.get("seconds") or 0.0)

    def json(self, name: str) -> Any:
        return read_json(self.path / name)

    def json_lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The whole records of a file; none when there is no such file."""
        path = self.path / name
        if not path.is_file():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(row, dict):
                    yield row


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds."""

    path: Path
    config: str | None  # config.yaml, as text
    summary: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]  # stage -> its lines of metrics.jsonl, where it has begun or finished
    stages: dict[str, StageFiles]  # in the order they run

    def newest(self, *kinds: str) -> str | None:
        """The last stage of these kinds, such as v5.reward, begun or finished; None when none has begun."""
        begun = [*self.stages, *(name for name in self.metrics if name not in self.stages)]
        return next((name for name in reversed(begun) if stage_of(name) in kinds), None)

    @property
    def climbed(self) -> str:
        """The stage whose training against a reward is shown step by step: the newest policy gradient."""
        return self.newest(*POLICY_GRADIENTS) or "ppo"

    def newest_files(self, *kinds: str) -> StageFiles | None:
        """The files of the last stage of these kinds that has finished."""
        return next((self.stages[name] for name in reversed(self.stages) if stage_of(name) in kinds), None)

    def curve(self, stage: str, metric: str) -> list[tuple[float, float]]:
        """The (step, value) points of a metric."""
        rows = self.metrics.get(stage, [])
        return [(row["step"], row[metric]) for row in rows if is_number(row.get("step")) and is_number(row.get(metric))]


def read_run(run_dir: Path) -> RunFiles:
    """Everything a report needs.

    Raises:
        ArtifactError: there is no such folder, or it holds no run.
    """
    summary = read_json(run_dir / "summary.json")
    summary = summary if isinstance(summary, dict) else {}
    stages = _stages(run_dir / "artifacts", summary)
    if not (stages or summary or (run_dir / "config.yaml").is_file()):
        raise ArtifactError(
            f"{run_dir}: no run is here (neither config.yaml, summary.json nor artifacts/); name a run directory"
        )
    metrics: dict[str, list[dict[str, Any]]] = {}
    for row in read_metrics(run_dir / "metrics.jsonl"):
        metrics.setdefault(str(row["stage"]), []).append(row)
    for stage in [name for name in metrics if name not in stages]:
        if not any(
            (run_dir / "scratch").glob(f"{stage}-*")
        ):  # of a round that was left, or of a recipe before this one
            del metrics[stage]
    config = run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
    return RunFiles(run_dir, text, summary, metrics, stages)


def read_json(path: Path) -> Any:
    """A JSON file's value; None when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _stages(folder: Path, summary: dict[str, Any]) -> dict[str, StageFiles]:
    """Each stage's artifact: the one that the summary names; where there is no summary, the newest."""
    told = summary.get("stages")
    current = {stage.get("artifact") for stage in told.values()} if isinstance(told, dict) else None
    found: dict[str, StageFiles] = {}
    for path in sorted(folder.glob("*/manifest.json")):
        manifest = read_json(path)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("kind"), str):
            continue
        stage = StageFiles(manifest["kind"], path.parent, manifest)
        known = found.get(stage.name)
        if path.parent.name in current if current is not None else known is None or known.created < stage.created:
            found[stage.name] = stage
    order = list(told) if isinstance(told, dict) else []
    return {name: found[name] for name in sorted(found, key=lambda name: (_place(name, order), name))}


def _place(stage: str, order: list[str]) -> tuple[int, int]:
    """Where a stage stands: as in the summary; else as stages run, reward_helpful beside reward, unknown ones last."""
    kind = "reward" if stage_of(stage).startswith("reward_") else stage_of(stage)
    usual = STAGES.index(kind) if kind in STAGES else len(STAGES)
    return order.index(stage) if stage in order else len(order), usual
