"""What the evaluate stage is given: its settings, and the versions, prompts and judges of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from loopwright.config.base import Config
from loopwright.errors import ConfigError
from loopwright.evaluation.results import COMPARISON, STARTS
from loopwright.generation.base import SamplingConfig
from loopwright.schemas import Judge
from loopwright.stages.base import StageConfig, finds_spans
from loopwright.tracking.artifacts import Artifact

SETS = ("held_out", "paraphrased", "adversarial")
NO_VERSIONS = ("world", "pretrain", "dataset", "judge")  # roles that bring something else


class JudgeConfig(Config):
    """An independent judge for runs without a world: a classifier of text, trained on labels of its own."""

    labelled: Path  # passages with labels: see data/labelled.py
    check: Path | None = None  # labelled passages of another source, to report the judge's own accuracy
    name: str = "positive"  # what a text is called that is like those labelled 1


class EvaluateConfig(StageConfig):
    held_out_prompts: PositiveInt = 400
    paraphrased_prompts: NonNegativeInt = 200  # 0 leaves the set out
    adversarial_prompts: NonNegativeInt = 200
    base: Path | None = None  # model folder to compare with, where no pretrain stage makes one
    reward: Path | None = None  # reward model folder, where no reward stage makes one
    prompts: Path | None = None  # JSON lines of prompts, without a world; else openings of the held-out documents
    opening_tokens: PositiveInt = 32
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=48)
    greedy: bool = True  # measure greedy decoding too, and by it how much the wording of a question matters
    best_of: Annotated[int, Field(ge=0)] = (
        16  # answers a prompt from SFT, of which the reward model picks; 0: leave out
    )
    best_of_prompts: PositiveInt = 100
    perplexity_texts: PositiveInt = 200
    judge: JudgeConfig | None = None

    @field_validator("sampling")
    @classmethod
    def _samples_from_the_whole_distribution(cls, sampling: SamplingConfig) -> SamplingConfig:
        if sampling.temperature == 0 or sampling.top_k is not None or sampling.top_p is not None:
            raise ValueError(
                "sampling needs a temperature above 0 and neither top_k nor top_p, because KL is measured on its "
                "samples; greedy decoding is measured besides (greedy: true)"
            )
        return sampling


@dataclass(frozen=True)
class EvaluateInputs:
    """Model folders by version, and what they are measured on."""

    versions: Mapping[str, Path]
    prompts: Mapping[str, Path]  # set -> JSON lines of Prompt; empty: openings of `texts`
    texts: Path | None = None  # held-out documents, JSON lines {"text"}
    reward: Path | None = None
    world: str | None = None  # brings judges, cheap policies and a test of nonsense
    judges: Mapping[str, Judge] | None = None  # for in-memory use: instead of the world's
    judge: Path | None = None  # a reward model's folder, without a world
    judge_accuracy: float | None = None  # of it, on held-out comparisons


def bind(config: EvaluateConfig, artifacts: Mapping[str, Artifact]) -> EvaluateInputs:
    """Which files of the upstream artifacts are read.

    Raises:
        ConfigError: there is no model, or no prompt; or a setting says what a stage brings.
    """
    world, dataset, judge = artifacts.get("world"), artifacts.get("dataset"), artifacts.get("judge")
    written = config.model_fields_set
    if world is not None and (useless := sorted(written & {"prompts", "opening_tokens", "judge"})):
        raise ConfigError(f"evaluate.{useless[0]} has no effect beside a world, which brings its own; remove either")
    if dataset is not None and (useless := sorted(written & {"prompts", "opening_tokens"})):
        raise ConfigError(f"evaluate.{useless[0]} has no effect beside a dataset, which brings prompts; remove either")
    if judge is not None and config.judge is not None:
        raise ConfigError("evaluate.judge contradicts the stage judge; leave one out")
    if config.prompts is not None and "opening_tokens" in written:
        raise ConfigError("evaluate.opening_tokens has no effect beside evaluate.prompts; remove either")
    prompts = {name: world.file(f"prompts_{name}.jsonl") for name in SETS} if world is not None else {}
    if config.prompts is not None:
        prompts = {"held_out": config.prompts}
    if dataset is not None:
        prompts = {"held_out": dataset.file("prompts_held_out.jsonl")}
    texts = next((artifacts[role].file("held_out.jsonl") for role in ("base", "world") if role in artifacts), None)
    models = {role: made.file("model") for role, made in artifacts.items() if role not in NO_VERSIONS}
    for name, folder in (("base", config.base), ("reward", config.reward)):
        if folder is not None and name in models:
            raise ConfigError(f"evaluate.{name} = {folder} contradicts the stage that makes its own; leave one out")
        if folder is not None:
            models[name] = folder
    if "reward" in artifacts and finds_spans(artifacts["reward"]):
        del models["reward"]  # it has no score of an answer to compare
    versions = {name: models[name] for name in in_order(models) if name != "reward"}
    check_there(versions, prompts, texts)
    return EvaluateInputs(
        versions=versions,
        prompts=prompts,
        texts=texts,
        reward=models.get("reward"),
        world=str(world.manifest.config["name"]) if world is not None else None,
        judge=None if judge is None else judge.file("model"),
        judge_accuracy=None if judge is None else judge.manifest.metrics.get("accuracy"),
    )


def check_there(versions: Mapping[str, Path], prompts: Mapping[str, Path], texts: object) -> None:
    """Raise ConfigError where no model is there, or no prompt."""
    if not versions:
        raise ConfigError("evaluate: there is no model to evaluate; add a pretrain, sft or ppo section")
    if not prompts and not texts:
        raise ConfigError("evaluate: there are no prompts; set evaluate.prompts, or add a world or pretrain section")


def in_order(versions: Iterable[str]) -> list[str]:
    """As the report shows them: those that no feedback has improved, then the others as they were made."""
    given = list(versions)
    return [name for name in STARTS if name in given] + [name for name in given if name not in STARTS]


def reference_of(version: str, versions: Collection[str]) -> str | None:
    """What the KL of a version is measured to: SFT, or base where there is none; base for SFT; none for base."""
    candidates = {"base": (), "sft": ("base",), COMPARISON: ("base",)}.get(version, ("sft", "base"))
    return next((name for name in candidates if name in versions), None)


def files(config: EvaluateConfig) -> list[Path]:
    """The user's files, whose content belongs to the artifact's key."""
    judge_files = [config.judge.labelled, config.judge.check] if config.judge is not None else []
    return [path for path in (config.base, config.reward, config.prompts, *judge_files) if path is not None]
