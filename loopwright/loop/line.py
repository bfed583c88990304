"""The line of versions over rounds: what each came from, what it learned from, whether it helped."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.errors import ArtifactError
from loopwright.loop.lineage import load_run_config
from loopwright.schemas import KINDS, Record
from loopwright.schemas.steps import round_of, stage_of, version_of
from loopwright.tracking.artifacts import Artifact, current_artifacts

if TYPE_CHECKING:
    from loopwright.stages.base import Stage

# Which figures of a step count its judgements: the first of these of which it has some.
JUDGED = tuple(kind for kind in KINDS if kind not in ("demonstrations", "prompts"))
COUNTED = (("labels",), ("labels_of_ai", "labels_of_people"), JUDGED)


class Labels(Record):
    """What one step collected."""

    step: str  # v2.feedback
    count: int
    written_by: tuple[str, ...]  # versions whose answers were judged; nobody's: they came from outside


class Version(Record):
    """One version of a run with rounds."""

    name: str  # v2
    after: str | None  # the version it went on from: v1, sft; None: it was given from outside
    methods: tuple[str, ...]  # stages, in order: rejection, ppo
    labels: tuple[Labels, ...]  # behind its reward models or its method, oldest first
    gold: dict[str, float] | None = None  # mean, low, high; None: not measured, or there is no judge
    gain: dict[str, float] | None = None  # over the version before, on the same prompts
    gained: bool | None = None  # significantly


def versions(run: Path, stages: "Mapping[str, Stage] | None" = None) -> list[Version]:
    """The versions that the rounds of the last run have made so far, in order; none without rounds.

    Raises:
        ConfigError: `run` is not a run directory, or its config is not valid any more.
    """
    from loopwright.stages.base import POLICIES

    config = load_run_config(run, stages=stages)
    try:
        made = current_artifacts(run)
    except ArtifactError:  # nothing has finished here yet, or what finished was deleted
        return []
    steps = {one.id: step for step, one in made.items()}
    found: dict[str, list[str]] = {}
    for step in made if config.rounds is not None else ():
        if round_of(step) and stage_of(step) in POLICIES:
            found.setdefault(version_of(step), []).append(step)
    return [_version(name, methods, made, steps) for name, methods in found.items()]


def _version(name: str, methods: list[str], made: Mapping[str, Artifact], steps: Mapping[str, str]) -> Version:
    start = steps.get(made[methods[0]].manifest.parents.get("policy", ""))
    behind = dict.fromkeys(step for method in methods for step in _judgements(method, made, steps))
    return Version(
        name=name,
        after=None if start is None else version_of(start),
        methods=tuple(stage_of(method) for method in methods),
        labels=tuple(_labels(step, made, steps) for step in made if step in behind),
        **_measured(name, made),
    )


def _judgements(step: str, made: Mapping[str, Artifact], steps: Mapping[str, str]) -> Iterator[str]:
    """The steps whose judgements this one learned from, by itself or through its reward models."""
    from loopwright.stages.base import FEEDBACK

    for parent in made[step].manifest.parents.values():
        if (kind := stage_of(steps.get(parent, ""))) in FEEDBACK:
            yield steps[parent]
        elif kind.startswith("reward"):
            yield from _judgements(steps[parent], made, steps)


def _labels(step: str, made: Mapping[str, Artifact], steps: Mapping[str, str]) -> Labels:
    from loopwright.stages.base import POLICIES

    manifest = made[step].manifest
    counts = ([manifest.metrics[name] for name in names if name in manifest.metrics] for names in COUNTED)
    roles = manifest.parents.items()
    writers = (steps[parent] for role, parent in roles if parent in steps and role != "judge_model")
    by = dict.fromkeys(version_of(one) for one in writers if stage_of(one) in POLICIES)
    return Labels(step=step, count=sum(next(filter(None, counts), [])), written_by=tuple(by))


def _measured(name: str, made: Mapping[str, Artifact]) -> dict[str, Any]:
    """By the evaluation of all versions, or else by that of its round: a later round's compares it with others."""
    own = [step for step in made if stage_of(step) == "evaluate" and round_of(step) in (0, int(name[1:]))]
    for step in reversed(own):
        metrics = made[step].manifest.metrics
        if name in metrics.get("versions", {}):
            rounds = metrics.get("rounds", {})
            figures = {"gold": metrics.get("gold_interval"), "gain": rounds.get("gain"), "gained": rounds.get("gained")}
            return {figure: (values or {}).get(name) for figure, values in figures.items()}
    return {}
