"""What every stage is: a config, the artifacts it needs, and a `run` that reads like the paper.

A stage never imports another stage. What two stages share lives here or in a folder above; the parts of a long one
stand beside it and bear its name (ppo_prompts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor

from loopwright.config.base import Config
from loopwright.data.packing import IGNORED, PackedBatch
from loopwright.errors import ConfigError, RequirementError
from loopwright.kernels.functions import Rows, in_c
from loopwright.models import lm_head
from loopwright.models.decoder import Decoder, Tokens
from loopwright.models.layers import unwrapped
from loopwright.models.tokens import context_length
from loopwright.objectives.kl import Head
from loopwright.objectives.language_modelling import summed_cross_entropy
from loopwright.objectives.logprobs import head_chunks, head_logits
from loopwright.runtime.runtime import Runtime
from loopwright.tracking.artifacts import Artifact
from loopwright.training.judgement_files import files_in


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


# Stages that leave a policy behind: what fills the role "policy" of a stage after them, the nearest one before it.
POLICIES = ("ppo", "kto", "dpo", "sft", "pretrain")


@dataclass(frozen=True)
class Stage:
    """One line of the table of stages: how the loop finds out what to run, and whether it is stale."""

    name: str
    config: type[Any]  # a StageConfig
    needs: Mapping[str, tuple[str, ...]]  # role -> upstream stages, the nearest one wins; absent ones are left out.
    # A role such as "reward_*" stands for every configured stage of such a name, each in the role of its own name.
    bind: Callable[[Any, Mapping[str, Artifact]], Any]  # (config, role -> artifact) -> the inputs of `run`
    run: Callable[[Any, Any, Runtime], StageOutput]
    files: Callable[[Any], list[Path]]  # external files and folders whose content belongs to the artifact's key
    # Raises ConfigError where (config, role -> config of the upstream stage) do not fit, before anything runs.
    check: Callable[[Any, Mapping[str, Any]], None] | None = None


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


def check_max_length(max_length: int, model: Any) -> None:
    """Raise ConfigError when the model's positions do not reach as far as the rows to train on."""
    context = context_length(model)
    if context is not None and max_length > context:
        raise ConfigError(f"max_length = {max_length} is longer than the model's context of {context}; lower it")


class NextTokens(NamedTuple):
    """How well a model predicts the learned tokens of a batch; sums, nats."""

    total: Tensor  # scalar: sum of -log p, with a gradient
    tokens: int
    right: int | None  # how often the likeliest token was the right one; None: not asked for


def predict(model: Any, batch: PackedBatch, *, count_right: bool = False) -> NextTokens:
    """Next-token cross-entropy of a causal LM on packed rows, the LM head run on learned places alone.

    Rows carry no attention mask: segments and padding are told apart by their positions.
    """
    learned = torch.nn.functional.pad(batch.labels[:, 1:] != IGNORED, (0, 1))
    targets = batch.labels[:, 1:][learned[:, :-1]]
    head = _head_before(model, batch, learned)
    total = summed_cross_entropy(head.hidden, head.weight, targets, bias=head.bias)
    return NextTokens(total, len(targets), _right(head, targets) if count_right else None)


def _head_before(model: Any, batch: PackedBatch, learned: Tensor) -> Head:
    """The states at the places that predict learned tokens, [B, T] bool, with the LM head."""
    decoder = Decoder.of(model)
    # Without the operations in C, documents of different lengths would be padded to the longest.
    packs = not isinstance(decoder, str) and in_c(decoder.embeddings.weight)
    if isinstance(decoder, str) or not packs or not lm_head.head_is_all(unwrapped(model)):
        return lm_head.read(model, input_ids=batch.input_ids, position_ids=batch.position_ids).at(learned)
    kept = batch.segment_ids > 0
    positions = batch.position_ids[kept]
    starts = torch.nn.functional.pad((positions == 0).nonzero().squeeze(1), (0, 1), value=len(positions))
    tokens = Tokens(batch.input_ids[kept], Rows.of(starts.diff()), positions)
    return lm_head.head_on(unwrapped(model), decoder.read(tokens, learned[kept]))


@torch.no_grad()
def _right(head: Head, targets: Tensor) -> int:
    """How often the likeliest token is the right one."""

    def likeliest(rows: slice) -> Tensor:
        return head_logits(head.hidden[rows], head.weight, head.bias, 1.0, None).argmax(-1)

    return sum(int((likeliest(rows) == targets[rows]).sum()) for rows in head_chunks(head.hidden, head.weight))


def finds_spans(trained: Artifact) -> bool:
    """Whether a reward stage learned from marked passages, so that its model scores tokens and no responses."""
    return bool(trained.manifest.config.get("kinds") == ["spans"])


def judgement_files(
    stage: str, folder: Path | None, collected: Artifact | None, kinds: Sequence[str]
) -> dict[str, Path]:
    """The file of each kind of judgement that a stage trains on: the user's folder, or what was collected.

    Raises:
        ConfigError: there is neither, or both, or no file of a kind.
    """
    if collected is None:
        if folder is None:
            raise ConfigError(f"{stage} has no feedback; add a feedback section, or set {stage}.feedback to a folder")
        return files_in(folder, kinds, f"{stage}.kinds")
    if folder is not None:
        raise ConfigError(
            f"{stage}.feedback = {folder} contradicts the stage {collected.manifest.kind}, which collects its own; "
            "leave one out"
        )
    return files_in(collected.path, kinds, f"{stage}.kinds")


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
