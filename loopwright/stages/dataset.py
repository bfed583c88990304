"""Read what people, or a model, said of real answers, and deal it out by prompt: to learn from, and to judge by.

Four parts that share no prompt: what the policy and its reward model learn from, what simulated annotators learned
their taste from, what the judge of evaluation learned from, and what everything is measured on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from loopwright.data.importers import IMPORTERS, import_feedback
from loopwright.data.readers import read_records, write_records
from loopwright.data.splits import part_by_hash
from loopwright.errors import DataError
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import KINDS, Comparison, Demonstration, Judgement, Message, Prompt, Ranking
from loopwright.stages.base import Stage, StageConfig, StageOutput
from loopwright.tracking.artifacts import Artifact

Share = Annotated[float, Field(ge=0, lt=1)]
ALWAYS_WRITTEN = ("comparisons", "rankings")  # empty where the files hold something else
JUDGEMENTS = tuple(kind for kind, record in KINDS.items() if issubclass(record, Judgement))


class DatasetConfig(StageConfig):
    format: str  # one of those that `loopwright feedback import` reads
    files: Annotated[tuple[Path, ...], Field(min_length=1)]
    reference: Path | None = None  # of alpaca-eval: the answers that the rows were compared with
    columns: dict[str, str] = {}  # role -> the name it has in the files, for formats that leave names open
    where: dict[str, str] = {}  # only rows with these values of their fields
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of unreadable rows; more stop the run
    longest_prompt: PositiveInt | None = None  # characters; what is said of longer ones is left out. None: all stay
    demonstrations: Literal["chosen", "reference", "given"] = "chosen"  # which answers sft learns
    annotators_share: Share = 0.2  # of the prompts: what the annotator section learns from
    judge_share: Share = 0.2  # what the judge section learns from
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.1  # what everything is measured on

    @field_validator("format")
    @classmethod
    def _is_known(cls, format: str) -> str:
        if format not in IMPORTERS:
            raise ValueError(f"format {format} is unknown; choose from {', '.join(IMPORTERS)}")
        return format

    @model_validator(mode="after")
    def _something_is_left_to_learn_from(self) -> Self:
        taken = self.annotators_share + self.judge_share + self.held_out_share
        if taken >= 1:
            raise ValueError(f"the shares of annotators, judge and held_out add up to {taken:g}; leave some to train")
        if self.demonstrations == "reference" and self.reference is None:
            raise ValueError("demonstrations = reference needs the file of reference answers; name it in reference")
        return self

    def parts(self) -> dict[str, tuple[float, float]]:
        """Part -> from where to where in [0, 1) its prompts' hashes lie."""
        shares = {"held_out": self.held_out_share, "judge": self.judge_share, "annotators": self.annotators_share}
        parts, start = {}, 0.0
        for name, share in shares.items():
            parts[name], start = (start, start + share), start + share
        return parts | {"train": (start, 1.0)}


@dataclass(frozen=True)
class DatasetInputs:
    """Everything is read from the files of the config."""


def run(config: DatasetConfig, inputs: DatasetInputs, runtime: Runtime) -> StageOutput:
    """Import, leave out what is too long, split by how the dialogue begins, write down who gets what."""
    records, figures = read(config, runtime)
    fitting = [one for one in records if fits(one, config.longest_prompt)]
    keys = [f"dialogue/{messages_of(one)[0].content}" for one in fitting]
    parts = {
        name: [fitting[i] for i in part_by_hash(keys, *bounds)] if bounds[0] < bounds[1] else []
        for name, bounds in config.parts().items()
    }
    for name, part in parts.items():
        if not part and (name == "train" or getattr(config, f"{name}_share")):
            raise DataError(
                f"{config.files[0]}: of {len(fitting)} records none falls into the part {name}; give more data, or "
                "another share"
            )
        folder = runtime.output if name == "train" else runtime.output / name
        kinds = write_judgements(part, folder)
        figures |= {kind if name == "train" else f"{kind}_{name}": count for kind, count in kinds.items() if count}

    for name, part in (("train", parts["train"]), ("held_out", parts["held_out"])):
        prompts = prompts_of(part)
        write_records(runtime.output / f"prompts_{name}.jsonl", prompts)
        figures[f"prompts_{name}"] = len(prompts)
    shown = demonstrations_of(parts["train"], config.demonstrations)
    write_records(runtime.output / "demonstrations.jsonl", shown)
    write_records(runtime.output / "text.jsonl.gz", ({"text": text} for text in texts_of(parts["train"])))
    return StageOutput(figures | {"demonstrations": len(shown), "too_long": len(records) - len(fitting)})


def read(config: DatasetConfig, runtime: Runtime) -> tuple[list[Any], dict[str, Any]]:
    """All records of the files that have a prompt, and what the import says of them."""
    folder = runtime.scratch / "imported"
    shutil.rmtree(folder, ignore_errors=True)
    report = import_feedback(
        config.format,
        config.files,
        folder,
        columns=config.columns,
        reference=config.reference,
        where=config.where,
        max_bad_share=config.max_bad_share,
    )
    for reason, noted in (report.warnings | report.skipped).items():
        runtime.log(f"{noted['count']} × {reason}, first at {noted['first']}")
    if report.bad_rows_file is not None:
        shutil.move(report.bad_rows_file, runtime.output / "bad_rows.jsonl")
        runtime.log(f"{report.bad_rows} rows are unreadable; see bad_rows.jsonl")
    found = [
        record for name in report.records for record in read_records(folder / name, KINDS[name.split(".")[0]]).records
    ]
    asked = [one for one in found if messages_of(one) and messages_of(one)[-1].role != "assistant"]
    if not asked:
        raise DataError(f"{config.files[0]}: no record has a prompt; a dataset is split by prompt, so give some")
    return asked, {"rows": report.rows, "bad_rows": report.bad_rows, "without_prompt": len(found) - len(asked)}


def messages_of(record: Any) -> tuple[Message, ...]:
    return record.messages if isinstance(record, Prompt) else record.prompt


def fits(record: Any, longest: int | None) -> bool:
    return longest is None or sum(len(one.content) for one in messages_of(record)) <= longest


def write_judgements(records: Sequence[Any], folder: Path) -> dict[str, int]:
    """A file of each kind that is there; how many records each has."""
    counts = {}
    for kind in JUDGEMENTS:
        found = [one for one in records if type(one) is KINDS[kind]]
        counts[kind] = len(found)
        if found or kind in ALWAYS_WRITTEN:
            write_records(folder / f"{kind}.jsonl", found)
    return counts


def prompts_of(records: Iterable[Any]) -> list[Prompt]:
    """Each prompt once, under the name of the first record that has it."""
    found: dict[tuple[Message, ...], Prompt] = {}
    for one in records:
        found.setdefault(messages_of(one), Prompt(id=one.id, messages=messages_of(one)))
    return list(found.values())


def demonstrations_of(records: Iterable[Any], which: str) -> list[Demonstration]:
    """The answers to learn, each once: those that were preferred, those compared with, or the format's own."""
    found: dict[tuple[tuple[Message, ...], str], Demonstration] = {}
    for one in records:
        if which == "given":
            shown = one if isinstance(one, Demonstration) else None
        else:
            answer = best_of(one) if which == "chosen" else one.responses[0] if isinstance(one, Comparison) else None
            shown = Demonstration(id=one.id, prompt=one.prompt, response=answer) if answer else None
        if shown is not None:
            found.setdefault((shown.prompt, shown.response), shown)
    return list(found.values())


def best_of(record: Any) -> str | None:
    """The answer that was said to be the best; None where none was."""
    if isinstance(record, Comparison):
        return None if record.choice is None else record.responses[record.choice]
    if isinstance(record, Ranking) and record.criterion is None and record.ranks.count(1) == 1:
        return record.responses[record.ranks.index(1)]
    return None


def texts_of(records: Iterable[Any]) -> Iterator[str]:
    """Every answer to learn from behind its dialogue, as plain text, each once: what a model may be pre-trained on."""
    seen = set()
    for one in records:
        for answer in getattr(one, "responses", (getattr(one, "response", ""),)):
            text = "\n\n".join([*(message.content for message in messages_of(one)), answer])
            if answer and text not in seen:
                seen.add(text)
                yield text


def bind(config: DatasetConfig, artifacts: Mapping[str, Artifact]) -> DatasetInputs:
    return DatasetInputs()


def files(config: DatasetConfig) -> list[Path]:
    return [*config.files, *([] if config.reference is None else [config.reference])]


STAGE = Stage("dataset", DatasetConfig, needs={}, bind=bind, run=run, files=files)
