"""What every stage is: a config, the artifacts it needs, and a `run` that reads like the paper.

A stage never imports another stage. What two stages share lives here or in a folder above; the parts of a long one
stand beside it and bear its name (ppo_prompts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import model_validator

from loopwright.config.base import Config
from loopwright.errors import ConfigError, RequirementError
from loopwright.models.tokens import context_length
from loopwright.runtime.runtime import Runtime
from loopwright.schemas.steps import round_of, stage_of
from loopwright.tracking.artifacts import Artifact
from loopwright.training.judgement_files import PAIRWISE, files_in
from loopwright.training.next_tokens import NextTokens as NextTokens
from loopwright.training.next_tokens import predict as predict


class StageOutput(NamedTuple):
    """What a stage hands on beside the files it wrote into `runtime.output`."""

    metrics: dict[str, Any]  # JSON-able; goes to the manifest and to summary.json


class Bound(Config):
    """The range an assessed metric must lie in; at least one side is given."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a requirement needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}: nothing can meet this requirement")
        return self


class StageConfig(Config):
    """The settings every stage has."""

    require: dict[str, Bound] = {}  # metric name ("a.b" for nested ones) -> the range it must lie in


ASKING = ("feedback", "ai_feedback")  # stages that have new answers judged
FEEDBACK = ("dataset", *ASKING)  # stages that leave judgements behind
DATA = ("world", "dataset")  # stages that bring prompts and demonstrations: what fills the role "world" for their sake
# Stages that leave a policy behind: what fills the role "policy" of a stage after them, the nearest one before it.
POLICIES = (
    "pretrain", "sft", "constitutional", "rejection", "rest", "hindsight", "conditioned", "dpo", "kto", "rloo", "grpo",
    "reinforce_plus_plus", "ppo",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One line of the table of stages: how the loop finds out what to run, and whether it is stale."""

    name: str
    config: type[Any]  # a StageConfig
    # Role -> upstream stages; the nearest one before it fills the role, "start" the nearest one before all rounds;
    # absent ones are left out. Three have a star: "reward_*" stands for every stage of such a name, in a round for
    # those of the nearest round that has some; "judged.*", "earlier.*" for all of its candidates so far, each in the
    # role of its own name (v1.feedback); "version_*" for every policy so far, of a round the last, each in the role of
    # its version (sft, v1); a stage of a round gets the last two of them.
    needs: Mapping[str, tuple[str, ...]]
    # (config, role -> artifact) -> the inputs of `run`. Raises ConfigError where something is missing or has no effect;
    # so that this is said before anything runs, it is called then, too, with promises of artifacts: of an artifact it
    # reads the kind and the config, and nothing that is in it.
    bind: Callable[[Any, Mapping[str, Artifact]], Any]
    run: Callable[[Any, Any, Runtime], StageOutput]
    files: Callable[[Any], list[Path]]  # external files and folders whose content belongs to the artifact's key
    needs_besides: Callable[[Any], Mapping[str, tuple[str, ...]]] | None = None  # config -> what only it needs
    leaves: Callable[[Any], Collection[str]] | None = None  # config -> files it may be asked for; None: any


def check_requirements(stage: str, require: Mapping[str, Bound], metrics: Mapping[str, Any]) -> None:
    """Raise RequirementError when an assessed metric is absent or outside its range."""
    for name, bound in require.items():
        found = _lookup(metrics, name)
        if not isinstance(found, int | float):
            known = ", ".join(sorted(metrics))
            raise RequirementError(f"{stage}.require.{name}: {stage} reports no such number; it reports {known}")
        where = f"{stage}.require.{name}: got {found:.6g}"
        # Written so that NaN misses every bar.
        if bound.min is not None and not found >= bound.min:
            raise RequirementError(f"{where}, below the required min {bound.min:g}; train longer or lower the bar")
        if bound.max is not None and not found <= bound.max:
            raise RequirementError(f"{where}, above the required max {bound.max:g}; train longer or raise the bar")


def _lookup(metrics: Mapping[str, Any], name: str) -> Any:
    if name in metrics:
        return metrics[name]
    head, _, rest = name.partition(".")
    inner = metrics.get(head)
    return _lookup(inner, rest) if rest and isinstance(inner, Mapping) else None


def check_max_length(stage: str, max_length: int, model: Any) -> None:
    """Raise ConfigError when the model's positions do not reach as far as the rows to train on."""
    context = context_length(model)
    if context is not None and max_length > context:
        raise ConfigError(
            f"{stage}.max_length = {max_length} is longer than the model's context of {context}; lower it"
        )


def finds_spans(trained: Artifact) -> bool:
    """Whether a reward stage learned from marked passages, so that its model scores tokens and no responses."""
    return bool(trained.manifest.config.get("kinds") == ["spans"])


def judgement_files(
    stage: str, folder: Path | None, collected: Sequence[Artifact], kinds: Sequence[str]
) -> dict[str, tuple[Path, ...]]:
    """The files of each kind of judgement that a stage trains on: of the user's folder, or of all that was collected.

    Whoever asks for comparisons and rankings, as stages do where nobody names kinds, gets those of a folder with one.

    Raises:
        ConfigError: there is neither, or both, or no file of a kind.
    """
    if folder is not None and collected:
        raise ConfigError(
            f"{stage}.feedback = {folder} contradicts the stage {collected[-1].manifest.kind}, which collects its own; "
            "leave one out"
        )
    if folder is None and not collected:
        raise ConfigError(f"{stage} has no feedback; add a feedback section, or set {stage}.feedback to a folder")
    setting = f"{stage}.kinds"
    if folder is None:
        found = [files_in(one.path, kinds, setting, one.holds) for one in collected]
        return {kind: tuple(files[kind] for files in found) for kind in kinds}
    if folder.is_file():
        raise ConfigError(
            f"{stage}.feedback = {folder} is a file and not a folder of comparisons.jsonl, rankings.jsonl, ...; "
            "make one of it with loopwright feedback import"
        )
    own = files_in(folder, kinds, setting, lambda name: (folder / name).is_file(), either=PAIRWISE)
    return {kind: (file,) for kind, file in own.items()}


def judged(artifacts: Mapping[str, Artifact]) -> list[Artifact]:
    """Of the artifacts by role, those that hold what was said of answers (`"judged.*": FEEDBACK`), oldest first."""
    return [one for role, one in artifacts.items() if stage_of(role) in FEEDBACK]


def ages_of_rounds(stage: str, earlier_rounds_weight: float, collected: Sequence[Artifact]) -> tuple[int, ...]:
    """How many rounds before the newest each artifact was collected.

    Raises:
        ConfigError: labels of earlier rounds are to weigh less, and no round has collected any.
    """
    kinds = [one.manifest.kind for one in collected]
    if earlier_rounds_weight != 1 and not any(round_of(one) for one in kinds if stage_of(one) in ASKING):
        raise ConfigError(
            f"{stage}.earlier_rounds_weight has no effect without rounds in which labels were given; leave it out there"
        )
    rounds = [round_of(kind) for kind in kinds]
    return tuple(max(rounds) - one for one in rounds)


def chosen_input(setting: str, path: Path | None, artifact: Artifact | None, file: str, section: str) -> Path:
    """The user's file, or that of the stage which makes one.

    Args:
        setting: as in "ppo.policy".
        file: its name in the artifact.
        section: of the recipe, that would bring a stage: "an sft section".

    Raises:
        ConfigError: neither is there, or both.
    """
    stage, _, name = setting.partition(".")
    if path is not None and artifact is not None:
        raise ConfigError(
            f"{setting} = {path} contradicts the stage {artifact.manifest.kind}, which makes its own; leave one out"
        )
    if path is not None:
        return path
    if artifact is None:
        raise ConfigError(f"{stage} has no {name}; add {section} to the recipe, or set {setting} to a path")
    return artifact.file(file)
