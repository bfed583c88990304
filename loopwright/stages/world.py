"""Write down the embedded example: a dirty corpus, demonstrations, and disjoint sets of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from loopwright.data.constitution import dump_constitution
from loopwright.data.readers import write_records
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import Stage, StageConfig, StageOutput
from loopwright.tracking.artifacts import Artifact
from loopwright.worlds import WORLDS
from loopwright.worlds.base import PromptSet, SkillName

Count = Annotated[int, Field(gt=0, le=1_000_000)]  # a world has only so many different prompts


class WorldConfig(StageConfig):
    name: Literal["front_desk"] = "front_desk"
    documents: Count = 16_000  # raw documents; cleaning drops about one in five
    held_out_documents: Count = 300
    demonstrations: Count = 3_000
    helpful_only: bool = False  # writers help with crimes too, so that no demonstration tells what is harmful
    train_prompts: Count = 8_000
    test_prompts: Count = 400  # in each of the held-out, paraphrased and adversarial sets
    skills: tuple[SkillName, ...] = ()  # what the text teaches beside answering: critique, for the stage constitutional
    skill_share: Annotated[float, Field(gt=0, le=1)] = 0.2  # documents and demonstrations added for each skill

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if not self.skills and "skill_share" in self.model_fields_set:
            raise ValueError("skill_share has no effect without skills; name one in skills, or drop skill_share")
        if len(set(self.skills)) < len(self.skills):
            raise ValueError(f"skills = {list(self.skills)} names one twice; name each once")
        return self


@dataclass(frozen=True)
class WorldInputs:
    """A world is made from its config and seed alone."""


def run(config: WorldConfig, inputs: WorldInputs, runtime: Runtime) -> StageOutput:
    """Everything is a pure function of the seed, and quick: there is nothing to resume."""
    world = WORLDS[config.name]
    seed = runtime.seed_for("world")
    skills = [world.skills[name] for name in config.skills]
    added = round(config.skill_share * config.documents)
    taught = (("txt", text) for skill in skills for text in skill.documents(seed, added))
    write_corpus(chain(world.corpus(seed, config.documents), taught), runtime.output / "corpus")
    held_out = world.held_out_texts(seed, config.held_out_documents)
    write_records(runtime.output / "held_out.jsonl", ({"text": text} for text in held_out))
    demonstrations = list(world.demonstrations(seed, config.demonstrations, helpful_only=config.helpful_only))
    for skill in skills:
        demonstrations += skill.demonstrations(seed, round(config.skill_share * config.demonstrations))
    write_records(runtime.output / "demonstrations.jsonl", demonstrations)
    clean = [demonstration for demonstration in demonstrations if demonstration.annotator in world.clean_writers]
    write_records(runtime.output / "demonstrations_clean.jsonl", clean)
    if skills:
        constitution = dump_constitution(world.constitution)
        (runtime.output / "constitution.yaml").write_text(constitution, encoding="utf-8")
    counts: dict[str, int] = {}
    for prompt_set in get_args(PromptSet):
        count = config.train_prompts if prompt_set == "train" else config.test_prompts
        prompts = list(world.prompts(prompt_set, seed, count))
        write_records(runtime.output / f"prompts_{prompt_set}.jsonl", prompts)
        counts[f"prompts_{prompt_set}"] = len(prompts)
    documents = config.documents + len(skills) * added
    return StageOutput({"documents": documents, "demonstrations": len(demonstrations), **counts})


def write_corpus(documents: Iterable[tuple[str, str]], folder: Path, pages_a_folder: int = 1_000) -> None:
    """The mess a crawl leaves: pages as html files, and the rest in large jsonl and txt files."""
    folder.mkdir()
    pages = 0
    with (
        (folder / "crawl.jsonl").open("w", encoding="utf-8") as lines,
        (folder / "notes.txt").open("w", encoding="utf-8") as notes,
    ):
        for kind, text in documents:
            if kind == "html":
                sub = folder / f"pages-{pages // pages_a_folder:02d}"
                sub.mkdir(exist_ok=True)
                (sub / f"{pages:05d}.html").write_text(text, encoding="utf-8")
                pages += 1
            elif kind == "jsonl":
                lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            else:
                notes.write(f"{text}\n<|endoftext|>\n")


def bind(config: WorldConfig, artifacts: Mapping[str, Artifact]) -> WorldInputs:
    return WorldInputs()


STAGE = Stage("world", WorldConfig, needs={}, bind=bind, run=run, files=lambda config: [])
