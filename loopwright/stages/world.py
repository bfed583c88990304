"""Write down the embedded example: a dirty corpus, demonstrations, and disjoint sets of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from loopwright.data.readers import write_records
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import Stage, StageConfig, StageOutput
from loopwright.tracking.artifacts import Artifact
from loopwright.worlds import WORLDS
from loopwright.worlds.base import PromptSet

Count = Annotated[int, Field(gt=0, le=1_000_000)]  # a world has only so many different prompts


class WorldConfig(StageConfig):
    name: Literal["front_desk"] = "front_desk"
    documents: Count = 16_000  # raw documents; cleaning drops about one in five
    held_out_documents: Count = 300
    demonstrations: Count = 3_000
    train_prompts: Count = 8_000
    test_prompts: Count = 400  # in each of the held-out, paraphrased and adversarial sets


@dataclass(frozen=True)
class WorldInputs:
    """A world is made from its config and seed alone."""


def run(config: WorldConfig, inputs: WorldInputs, runtime: Runtime) -> StageOutput:
    """Everything is a pure function of the seed, and quick: there is nothing to resume."""
    world = WORLDS[config.name]
    seed = runtime.seed_for("world")
    write_corpus(world.corpus(seed, config.documents), runtime.output / "corpus")
    held_out = world.held_out_texts(seed, config.held_out_documents)
    write_records(runtime.output / "held_out.jsonl", ({"text": text} for text in held_out))
    demonstrations = list(world.demonstrations(seed, config.demonstrations))
    write_records(runtime.output / "demonstrations.jsonl", demonstrations)
    clean = [demonstration for demonstration in demonstrations if demonstration.annotator in world.clean_writers]
    write_records(runtime.output / "demonstrations_clean.jsonl", clean)
    counts: dict[str, int] = {}
    for prompt_set in get_args(PromptSet):
        count = config.train_prompts if prompt_set == "train" else config.test_prompts
        prompts = list(world.prompts(prompt_set, seed, count))
        write_records(runtime.output / f"prompts_{prompt_set}.jsonl", prompts)
        counts[f"prompts_{prompt_set}"] = len(prompts)
    return StageOutput({"documents": config.documents, "demonstrations": len(demonstrations), **counts})


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
