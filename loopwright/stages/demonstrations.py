"""Let people write the answers that sft learns from (Ouyang et al. 2022, sec. 3.4: labelers demonstrate)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import PositiveInt, model_validator

from loopwright.data.readers import read_records, write_records
from loopwright.feedback.asking import Question, StoreUrl, Wait, ask, key_of, projects_for, source_of, write_sources
from loopwright.feedback.client import FeedbackClient
from loopwright.feedback.items import Item
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Demonstration, Prompt
from loopwright.stages.base import DATA, Stage, StageConfig, StageOutput, chosen_input
from loopwright.tracking.artifacts import Artifact

BATCH = "demonstrations"  # of a project's items that runs publish: what is written to one prompt serves every run


class DemonstrationsConfig(StageConfig):
    store: StoreUrl  # the annotation server; its token is in LOOPWRIGHT_FEEDBACK_TOKEN
    project: str  # that asks for demonstrations
    wait: Wait  # {demonstrations: 300}: how many must be there
    prompts: PositiveInt = 500  # that people answer
    prompts_file: Path | None = None  # jsonl of Prompt, where no world makes some

    @model_validator(mode="after")
    def _waits_for_demonstrations(self) -> Self:
        if stray := next((kind for kind in self.wait if kind != "demonstrations"), None):
            raise ValueError(f"wait names {stray}, which judge answers; write {{demonstrations: 300}}")
        return self


@dataclass(frozen=True)
class DemonstrationsInputs:
    prompts: Path  # jsonl of Prompt


def run(config: DemonstrationsConfig, inputs: DemonstrationsInputs, runtime: Runtime) -> StageOutput:
    """Publish prompts, wait while people answer, write down their answers and which labels these are."""
    with FeedbackClient(config.store) as client:
        (project,) = projects_for(client, config.project, config.wait, runtime.stage)
        items = items_for(read_records(inputs.prompts, Prompt).records[: config.prompts])
        (lines,) = ask(client, [Question(project, items, config.wait["demonstrations"])], batch=BATCH, watch=runtime)
        write_sources(runtime.output, [source_of(client, project, None, lines)])
    written = [line.record for line in lines if isinstance(line.record, Demonstration)]
    write_records(runtime.output / "demonstrations.jsonl", written)
    return StageOutput({"demonstrations": len(written), "writers": len({one.annotator for one in written})})


def items_for(prompts: Sequence[Prompt]) -> list[Item]:
    """A prompt each."""
    return [
        Item(key=key_of(None, prompt.messages, ()), prompt=prompt.messages, tags={"prompt": prompt.id})
        for prompt in prompts
    ]


def bind(config: DemonstrationsConfig, artifacts: Mapping[str, Artifact]) -> DemonstrationsInputs:
    world = artifacts.get("world") if config.prompts_file is None else None
    file = chosen_input(
        "demonstrations.prompts_file", config.prompts_file, world, "prompts_train.jsonl", "a world or dataset section"
    )
    return DemonstrationsInputs(file)


STAGE = Stage(
    "demonstrations",
    DemonstrationsConfig,
    needs={"world": DATA},
    bind=bind,
    run=run,
    files=lambda config: [] if config.prompts_file is None else [config.prompts_file],
)
