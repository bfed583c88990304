"""What ran, what is stale and why, what came from what."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loopwright.errors import ArtifactError, ConfigError
from loopwright.loop.config import RunConfig, load_config
from loopwright.loop.execution import scratch_folder
from loopwright.loop.plan import Plan, Step, differences, make_plan
from loopwright.loop.summary import last_used
from loopwright.schemas import Record
from loopwright.tracking.artifacts import Artifact, ArtifactStore, Origin

if TYPE_CHECKING:
    from loopwright.stages.base import Stage


class StageStatus(Record):
    """One stage of a run directory, compared with its config and today's code."""

    stage: str
    state: Literal["done", "stale", "damaged", "started", "not run"]
    reasons: list[str] = []  # why it will run (again)
    checkpoint_step: int | None = None  # of the attempt that the next run continues
    artifact: str | None = None  # folder of the newest one, within the run directory
    id: str | None = None
    parents: dict[str, str] = {}  # role -> folder or id of what the newest one was made from
    created: str | None = None
    seconds: float | None = None
    seed: int | None = None


def status(
    run: Path, *, config: RunConfig | None = None, stages: Mapping[str, "Stage"] | None = None
) -> list[StageStatus]:
    """Each configured stage, in order: done, or what makes it run next time.

    Args:
        config: what the next run would be given; by default the run directory's own `config.yaml`.

    Raises:
        ConfigError: `run` is not a run directory, or its config is not valid any more.
    """
    if config is None:
        config = load_run_config(run, stages=stages)
    plan = make_plan(config, stages)
    store = ArtifactStore(run / "artifacts")
    last = last_used(run, plan.run.sections)
    fresh: dict[str, Artifact] = {}  # stage -> the artifact that the next run will use as it is
    found: list[StageStatus] = []
    while len(found) < len(plan.steps):
        step = plan.steps[len(found)]
        found.append(_status(step, plan, store, last.get(step.name), fresh))
        if step.name in fresh:
            plan, _ = plan.after(len(found) - 1, fresh)
    return found


def load_run_config(run: Path, stages: Mapping[str, "Stage"] | None = None) -> RunConfig:
    """The config of a run directory."""
    path = run / "config.yaml"
    if not path.exists():
        raise ConfigError(f"{run}: is no run directory (it has no config.yaml); name the folder given to --out")
    return load_config(path, stages=stages, resolved=True)


def _status(
    step: Step, plan: Plan, store: ArtifactStore, last: Artifact | None, fresh: dict[str, Artifact]
) -> StageStatus:
    stale_parents = [name for name in dict.fromkeys(step.parents.values()) if name not in fresh]
    if stale_parents:
        reasons = [f"parent {name} runs first" for name in stale_parents]
        if last:
            old = last.manifest.origin
            reasons += differences(old, plan.origin(step, old.parents))
        return _describe(step, "stale" if last else "not run", last, store, reasons)
    origin = plan.origin(step, {role: fresh[name].id for role, name in step.parents.items()})
    try:
        artifact = store.find(step.name, origin.key())
    except ArtifactError as damage:
        return _describe(step, "damaged", last, store, [str(damage)])
    if artifact is not None:
        fresh[step.name] = artifact
        return _describe(step, "done", artifact, store, [])
    reasons = differences(last.manifest.origin, origin) if last else []
    found = _checkpoint_step(store.folder.parent, origin)
    if found is not None:
        return _describe(step, "started", last, store, reasons).model_copy(update={"checkpoint_step": found})
    return _describe(step, "stale" if last else "not run", last, store, reasons)


def _describe(step: Step, state: Any, newest: Artifact | None, store: ArtifactStore, reasons: list[str]) -> StageStatus:
    if newest is None:
        return StageStatus(stage=step.name, state=state, reasons=reasons)
    return StageStatus(
        stage=step.name,
        state=state,
        reasons=reasons,
        artifact=f"artifacts/{newest.path.name}",
        id=newest.id,
        parents={role: _folder_of(store, id) for role, id in newest.manifest.parents.items()},
        created=newest.manifest.created,
        seconds=newest.manifest.seconds,
        seed=newest.manifest.seed,
    )


def _folder_of(store: ArtifactStore, id: str) -> str:
    """The folder of an artifact id; the id itself when the folder is gone."""
    return next((f"artifacts/{found.path.name}" for found in store.history("*") if found.id == id), id)


def _checkpoint_step(run: Path, origin: Origin) -> int | None:
    from loopwright.runtime.checkpoints import newest_step

    return newest_step(scratch_folder(run, origin.kind, origin.key()))
