"""What stages share that have answers judged, by people or by a model: who answers which prompts."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from loopwright.data.prompts import newest, of_tasks, read_prompts
from loopwright.errors import ConfigError
from loopwright.generation.answers import Item, mix_in_off_topic, prompts_to_ask, sample_answers
from loopwright.generation.base import SamplingConfig
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Judge, Prompt
from loopwright.schemas.steps import stage_of
from loopwright.stages.base import ASKING, POLICIES, StageConfig, chosen_input
from loopwright.tracking.artifacts import Artifact, id_of_file
from loopwright.worlds import WORLDS

ANSWERING = tuple(stage for stage in POLICIES if stage != "pretrain")  # what has never seen a question answers none
PROMPTS, PROMPTS_FROM = "prompts_train.jsonl", "a world or dataset section"
ALWAYS_WRITTEN = ("comparisons", "rankings", "ratings")  # empty where people or models were asked for something else
NEEDS = {"policy": POLICIES, "world": ("world",), "dataset": ("dataset",), "asked.*": ASKING}


class AskedConfig(StageConfig):
    section: ClassVar[str]  # of a recipe, as errors name it
    prompts: PositiveInt = 3_000
    tasks: tuple[str, ...] = ()  # only prompts tagged with one of these, such as the harmless ones; none: all
    attacks: NonNegativeInt = 0  # that red teaming found so far, asked about before the prompts, the newest first
    responses_per_prompt: Annotated[int, Field(ge=1, le=4)] = 4
    versions: Annotated[int, Field(ge=1, le=2)] = 1  # the newest, that write the answers in turns
    start_answers: bool = False  # beside them the version that the rounds began with, whose answers differ more
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=40)
    off_topic_share: Annotated[float, Field(ge=0, le=1)] = 0.4  # of the prompts get another prompt's answer among
    # their own: else a reward model never learns that an answer must fit its question, and PPO finds one good answer
    # for everything
    prompts_at_once: PositiveInt = 256
    save_batches: PositiveInt = 3  # batches between two checkpoints
    policy: Path | None = None  # a causal LM's folder, where no stage makes one
    prompts_file: Path | None = None  # jsonl of Prompt, where no world makes some

    @model_validator(mode="after")
    def _versions_write(self) -> Self:
        for name in ("versions", "start_answers"):
            if name in self.model_fields_set and self.policy is not None:
                raise ValueError(f"{name} has no effect beside policy, which writes all answers; leave one out")
        if (writers := self.versions + self.start_answers) > self.responses_per_prompt:
            raise ValueError(
                f"{writers} versions cannot all write {self.responses_per_prompt} of responses_per_prompt; "
                "sample more of them"
            )
        return self


@dataclass(frozen=True)
class AskedInputs:
    policies: Mapping[str, Path]  # artifact id -> a Hugging Face folder: who write the answers in turns, newest first
    prompts: Path | None  # jsonl of Prompt; None: there are none, and people may write what is judged
    judges: Mapping[str, Judge] = field(default_factory=dict)  # a world's: what simulated people see through faults
    asked: Sequence[tuple[Sequence[str], int]] = ()  # what was asked before: tasks, and how many prompts of them
    attacks: Sequence[Path] = ()  # jsonl of Prompt that red teaming has found, oldest first

    @property
    def policy_id(self) -> str:
        """Of the newest one; stored in each record."""
        return next(iter(self.policies))

    def writers(self, responses: int) -> tuple[str, ...]:
        """Who writes each of the responses to a prompt; nobody is named where it is the same one always."""
        ids = tuple(self.policies)
        return tuple(ids[k % len(ids)] for k in range(responses)) if len(ids) > 1 else ()


def prompts_of(config: AskedConfig, inputs: AskedInputs) -> list[Prompt]:
    """What is asked: attacks that red teaming found since, and prompts that no earlier round asked about.

    Attacks come first: where only so many labels are given, it is not they that go without. When all prompts were
    asked, those come that were least often.

    Raises:
        ConfigError: there are none.
    """
    file = chosen_input(f"{config.section}.prompts_file", inputs.prompts, None, PROMPTS, PROMPTS_FROM)
    own, every, often = read_prompts(file, config.tasks), read_prompts(file), Counter[str]()
    for tasks, count in inputs.asked:  # as it was chosen then
        often.update(one.id for one in prompts_to_ask(of_tasks(every, tasks), count, often))
    return newest(inputs.attacks, config.attacks) + prompts_to_ask(own, config.prompts, often)


def answer(
    prompts: Sequence[Prompt], config: AskedConfig, inputs: AskedInputs, runtime: Runtime
) -> tuple[list[list[str]], list[Item]]:
    """The responses sampled to each prompt, and what is to be judged: some of them belong to another prompt."""
    answers = sample_answers(prompts, config, list(inputs.policies.values()), runtime)
    writers = inputs.writers(config.responses_per_prompt)
    items = [Item(i, prompt, tuple(answers[i]), (), writers) for i, prompt in enumerate(prompts)]
    return answers, mix_in_off_topic(items, config.off_topic_share, random.Random(runtime.seed_for("off topic")))


def bind(config: AskedConfig, artifacts: Mapping[str, Artifact], *, may_be_written: bool = False) -> AskedInputs:
    """Inputs from the stages before, or from the paths in the config.

    Args:
        may_be_written: there need be no prompts, where people write what is judged.

    Raises:
        ConfigError: one is given neither way, or both ways, or fewer versions are there than are to answer.
    """
    world, file = artifacts.get("world"), config.prompts_file
    prompts = (artifacts.get("dataset") or world) if file is None else None
    if prompts is not None or not may_be_written:
        file = chosen_input(f"{config.section}.prompts_file", file, prompts, PROMPTS, PROMPTS_FROM)
    before = [one.manifest for role, one in artifacts.items() if stage_of(role) in ASKING]
    return AskedInputs(
        policies=who_write(config, artifacts),
        prompts=file,
        judges={} if world is None else WORLDS[world.manifest.config["name"]].judges,
        asked=[
            (one.config.get("tasks", ()), one.config["prompts"])
            for one in before
            if one.metrics.get("prompts") != 0  # people wrote them
            and _file_name(one.config.get("prompts_file")) == _file_name(config.prompts_file)
        ],
        attacks=attack_files(artifacts),
    )


def _file_name(file: str | Path | None) -> str | None:
    """By which prompts of two stages are the same: a manifest may write another way to it."""
    return None if file is None else Path(file).name


def attack_files(artifacts: Mapping[str, Artifact]) -> tuple[Path, ...]:
    """What red teaming found before, oldest first."""
    return tuple(one.file("attacks.jsonl") for role, one in artifacts.items() if stage_of(role) == "red_team")


def who_write(config: AskedConfig, artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """Artifact id -> folder of the versions that write the answers, the newest first.

    Raises:
        ConfigError: no policy is there, or fewer versions than are to answer.
    """
    made = artifacts.get("policy")
    if config.versions == 1 and not config.start_answers:
        policy = chosen_input(f"{config.section}.policy", config.policy, made, "model", "an sft section")
        return {id_of_file(policy) if made is None else made.id: policy}
    there = [role for role in artifacts if role in ANSWERING or re.fullmatch(r"v\d+", role)]  # filling version_*
    if config.versions > max(len(there), 1):
        found = f"{there[0]} is the only version" if there else "no version is there"
        raise ConfigError(f"{config.section}.versions = {config.versions}, but {found} before it; leave it out")
    writing: list[Artifact | None] = [made]
    if config.versions > 1:
        writing = [artifacts[role] for role in reversed(there[-config.versions :])]
    if config.start_answers:
        writing.append(artifacts.get("start"))
        if None in writing or writing[-1] in writing[:-1]:
            raise ConfigError(
                f"{config.section}.start_answers has no effect while the version that the rounds begin with is one of "
                "the newest, or none; leave it out in this round"
            )
    return {one.id: one.file("model") for one in writing if one is not None}


def needs_besides(config: AskedConfig) -> dict[str, tuple[str, ...]]:
    """What only some settings need: earlier versions, attacks that were found. None that writes nothing is a parent."""
    versions = {"version_*": ANSWERING} if config.versions > 1 else {}
    start = {"start": ANSWERING} if config.start_answers else {}
    return versions | start | ({"attacks.*": ("red_team",)} if config.attacks else {})


def leaves(config: AskedConfig) -> list[str]:
    """The files of judgements; of some nothing is in them."""
    return [f"{kind}.jsonl" for kind in (*ALWAYS_WRITTEN, *(getattr(config, "wait", None) or ()))]
