"""`summary.json`: the figures of a run, the contract with scripts."""

import json
import resource
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loopwright.errors import ArtifactError
from loopwright.loop.config import RunConfig
from loopwright.schemas.steps import stage_of
from loopwright.tracking.artifacts import Artifact, ArtifactStore, current_artifacts
from loopwright.tracking.files import write_atomically


def summarise(config: RunConfig, made: Mapping[str, Artifact], stopped: str | None = None) -> dict[str, Any]:
    """The contract, from the artifacts made so far.

    `versions` compares the models of the run, as the newest evaluation measured them (in rounds, those that it looked
    at); every other figure of a stage stands under `stages`. Times are those that went into the artifacts, whichever
    process made them.
    """
    manifests = {stage: artifact.manifest for stage, artifact in made.items()}
    evaluations = [manifest.metrics for stage, manifest in manifests.items() if stage_of(stage) == "evaluate"]
    return {
        "name": config.name,
        "seed": config.seed,
        "stages": {
            stage: {
                **{key: value for key, value in artifact.manifest.metrics.items() if key != "versions"},
                "seconds": artifact.manifest.seconds,
                "artifact": artifact.path.name,  # in the run's artifacts/
            }
            for stage, artifact in made.items()
        },
        "versions": evaluations[-1].get("versions", {}) if evaluations else {},
        **({} if config.rounds is None else {"stopped": stopped}),  # why not all rounds were made
        "seconds": round(sum(manifest.seconds for manifest in manifests.values()), 3),
        "peak_rss_mb": max((manifest.peak_rss_mb for manifest in manifests.values()), default=0.0),
    }


def write_summary(
    run: Path, config: RunConfig, made: Mapping[str, Artifact], stopped: str | None = None
) -> dict[str, Any]:
    summary = summarise(config, made, stopped)
    write_atomically(run / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def read_summary(run: Path) -> dict[str, Any]:
    """The summary of a run directory.

    Raises:
        ArtifactError: there is none.
    """
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{run}: holds no summary.json; name a run directory in which a stage has finished"
        ) from None
    except ValueError:
        raise ArtifactError(f"{run}/summary.json is not whole; run the same command again to write it anew") from None
    assert isinstance(summary, dict)
    return summary


def last_used(run: Path, stages: Iterable[str]) -> dict[str, Artifact]:
    """The artifact of each stage that the last run used, or else the newest one; unverified."""
    store = ArtifactStore(run / "artifacts")
    newest = {stage: found[0] for stage in stages if (found := store.history(stage))}
    try:
        return newest | current_artifacts(run)
    except ArtifactError:  # nothing has finished here yet, or what finished was deleted
        return newest


def peak_rss_mb() -> float:
    """The most memory this process has held so far."""
    try:
        # Not getrusage on Linux: it also counts what the parent held before exec.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
