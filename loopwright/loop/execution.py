"""Execute a plan: each stage whose artifact is not there yet, in order, whatever killed the process before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.config import read_yaml
from loopwright.errors import ArtifactError, ConfigError
from loopwright.loop.config import RunConfig, resolved_text
from loopwright.loop.lock import locked
from loopwright.loop.pedigree import Pedigree
from loopwright.loop.plan import Plan, Step, differences, make_plan
from loopwright.loop.summary import last_used, peak_rss_mb, write_summary
from loopwright.runtime.display import Display, Quiet
from loopwright.schemas.steps import version_of
from loopwright.tracking.artifacts import METRICS, Artifact, ArtifactStore, Origin
from loopwright.tracking.files import disk_full_is_an_error, remove, sweep, write_atomically
from loopwright.tracking.metrics import MetricsLog

if TYPE_CHECKING:
    import torch

    from loopwright.stages.base import Stage

Render = Callable[[Path], Any]


def run(
    config: RunConfig,
    out: Path,
    *,
    stages: Mapping[str, "Stage"] | None = None,
    display: Display | None = None,
    render: Render | None = None,
) -> dict[str, Any]:
    """Run the configured stages in the run directory `out`; the same call goes on where a killed one stopped.

    Args:
        stages: another table of stages than the built-in one.
        render: makes the report from the run directory; by default the built-in `report.html`.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        RunBusyError: another process works in `out`.
        ConfigError: `out` was made by another recipe, or is not a run directory.
        RequirementError: a stage missed the bar its `require:` sets; later stages were not run.
    """
    from loopwright.stages.base import check_requirements

    display = display or Quiet()
    plan = make_plan(config, stages)
    with locked(out):
        _claim(out, config)
        workshop = _Workshop.open(plan, out, display)
        made: dict[str, Artifact] = {}
        pedigree = Pedigree(display)
        summary: dict[str, Any] = {}
        place, stopped = 0, None
        while place < len(plan.steps):
            step = plan.steps[place]
            display.log(f"[{place + 1}/{len(plan.steps)}] {step.name}")
            made[step.name] = workshop.make(step, made)
            pedigree.tell(made)
            plan, reason = plan.after(place, made)
            if reason is not None:
                stopped = f"no round follows {version_of(step.name)}: {reason}"
                display.log(stopped)
            summary = write_summary(out, config, made, stopped)
            check_requirements(step.name, step.config.require, made[step.name].manifest.metrics)
            place += 1
        workshop.metrics.arrange(list(made))
        workshop.metrics.close()
        (render or _report)(out)
    return summary


@dataclass(frozen=True)
class _Workshop:
    """Where artifacts are made: the folders, log and device that the stages of one run share."""

    plan: Plan
    out: Path
    store: ArtifactStore
    metrics: MetricsLog
    device: "torch.device"
    display: Display
    last: Mapping[str, Artifact]  # what the run before used

    @classmethod
    def open(cls, plan: Plan, out: Path, display: Display) -> "_Workshop":
        store = ArtifactStore(out / "artifacts")
        for folder in (out / "artifacts", out / "scratch"):
            sweep(folder)
        metrics = MetricsLog(out / "metrics.jsonl", out / "tensorboard" if plan.run.tensorboard else None)
        return cls(plan, out, store, metrics, _device(plan.run.device), display, last_used(out, plan.run.sections))

    def make(self, step: Step, made: Mapping[str, Artifact]) -> Artifact:
        """The step's artifact: the one that is there when it is whole, or a new one."""
        parents = {role: made[name] for role, name in step.parents.items()}
        origin = self.plan.origin(step, {role: artifact.id for role, artifact in parents.items()})
        try:
            artifact = self.store.find(step.name, origin.key())
        except ArtifactError as damage:
            self.display.log(f"warning: {damage}; it is not used, {step.name} runs again")
            artifact = None
        if artifact is not None:
            self.display.log(f"{step.name}: nothing it depends on has changed, so it is not run again")
            self._tell_of_another_device(artifact)
            self.metrics.put(step.name, artifact.path / METRICS)
        else:
            self._explain(step, origin)
            artifact = self._execute(step, parents, origin)
        # Also when the artifact was there: a crash may have come just before this line.
        for scratch in (self.out / "scratch").glob(f"{step.name}-*"):
            remove(scratch)
        return artifact

    def _execute(self, step: Step, parents: Mapping[str, Artifact], origin: Origin) -> Artifact:
        from loopwright.kernels.choice import choose
        from loopwright.runtime.runtime import Runtime

        key = origin.key()
        with disk_full_is_an_error(self.out):
            runtime = Runtime(
                stage=step.name,
                seed=self.plan.run.seed,
                device=self.device,
                output=self.store.begin(step.name, key),
                scratch=scratch_folder(self.out, step.name, key),
                metrics=self.metrics,
                display=self.display,
            )
            runtime.seed_everything()
            choose(self.out)
            output = step.stage.run(step.config, step.stage.bind(step.config, parents), runtime)
            self.metrics.sync()
            (runtime.output / METRICS).write_text(self.metrics.lines(step.name), encoding="utf-8")
            return self.store.commit(
                origin,
                name=self.plan.run.name,
                seconds=runtime.seconds,
                peak_rss_mb=peak_rss_mb(),
                metrics=output.metrics,
                device=self.device.type,
            )

    def _tell_of_another_device(self, artifact: Artifact) -> None:
        made_on = artifact.manifest.device
        if made_on not in (None, self.device.type):
            self.display.log(
                f"{artifact.manifest.kind}: was made on {made_on} and is used as it is on {self.device.type}; "
                f"delete {artifact.path} to have it made here"
            )

    def _explain(self, step: Step, origin: Origin) -> None:
        """Say why a stage that has run before runs again."""
        if before := self.last.get(step.name):
            for reason in differences(before.manifest.origin, origin):
                self.display.log(f"{step.name}: {reason}")


def scratch_folder(run: Path, stage: str, key: str) -> Path:
    """Where a stage keeps its checkpoints until its artifact is whole."""
    return run / "scratch" / f"{stage}-{key[:12]}"


def _claim(out: Path, config: RunConfig) -> None:
    """Make `out` this recipe's run directory, or refuse."""
    path = out / "config.yaml"
    if path.exists():
        owner = read_yaml(path).get("name")
        if owner != config.name:
            raise ConfigError(
                f"{out}: was made by recipe {owner}, this one is {config.name}; "
                "choose another --out or delete the folder"
            )
    elif strangers := sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(".")):
        raise ConfigError(f"{out}: is not empty and no run directory (it holds {strangers[0]}); choose another --out")
    text = resolved_text(config)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def _device(wanted: str) -> "torch.device":
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but no CUDA device was found; set device to cpu or auto")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _report(out: Path) -> None:
    from loopwright.evaluation.report import render

    render(out)
