"""Let a model judge: sample answers from the current policy, and label every pair of them by what a judge would say.

Lee et al. 2023 (arXiv:2309.00267), sec. 3.1: the probabilities of "A" and "B", both orders averaged, as soft labels. By
principles of a constitution, with reasons first and clamped: Bai et al. 2022 (arXiv:2212.08073), sec. 4.1. People may
label the pairs that need them (ai_feedback_people.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, NonNegativeInt, model_validator

from loopwright.data.constitution import load_constitution
from loopwright.data.readers import write_records
from loopwright.errors import ConfigError
from loopwright.feedback.annotators import worth
from loopwright.generation.answers import Item
from loopwright.responders.injections import try_lures
from loopwright.responders.judge import JudgeConfig, ToJudge, Verdict, clamped, compare
from loopwright.responders.judges import open_judge
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import AI, Chooser, Comparison, Judge, Principle, Prompt
from loopwright.stages import ai_feedback_people, asked
from loopwright.stages.ai_feedback_people import PeopleConfig
from loopwright.stages.asked import AskedConfig, AskedInputs
from loopwright.stages.base import Stage, StageOutput
from loopwright.tracking.artifacts import Artifact
from loopwright.worlds import WORLDS

PAIRS_AT_ONCE = 256


class AIFeedbackConfig(AskedConfig):
    section: ClassVar[str] = "ai_feedback"
    responses_per_prompt: Annotated[int, Field(ge=2, le=4)] = 2
    judge: JudgeConfig = JudgeConfig()
    constitution: Path | Literal["world"] | None = None  # its principles are asked for, one drawn for each pair
    people: PeopleConfig | None = None  # who label where the judge is unsure; None: nobody
    canaries: NonNegativeInt = 100  # pairs of which the worse answer is tried out as a liar; 0: none

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.constitution is not None and "instruction" in self.judge.model_fields_set:
            raise ValueError("judge.instruction has no effect with constitution, whose principles ask; leave one out")
        return self


@dataclass(frozen=True)
class AIFeedbackInputs(AskedInputs):
    judge: Path | Chooser | None = None  # a causal LM's folder; None: the server of the config
    principles: Sequence[Principle] = ()


class Pair(NamedTuple):
    """Two answers to a prompt, as they are judged and kept."""

    id: str
    prompt: Prompt
    responses: tuple[str, str]
    off_topic: tuple[int, ...]
    policies: tuple[str, ...]  # who wrote each of them, where several did
    principle: Principle | None


def run(config: AIFeedbackConfig, inputs: AIFeedbackInputs, runtime: Runtime) -> StageOutput:
    """Sample, judge every pair in both orders, ask people where it pays, and keep who said what."""
    prompts = asked.prompts_of(config, inputs)
    answers, items = asked.answer(prompts, config, inputs, runtime)
    pairs = [pair for item in items for pair in pairs_of(item, inputs.principles, runtime)]

    chooser = open_judge(config.judge, inputs.judge, runtime.device, runtime.log)
    questions = [as_asked(pair, config.judge, runtime) for pair in pairs]
    judge = partial(compare, chooser, reasoning=config.judge.reasoning, reference=config.judge.reference)
    verdicts = judge_all(judge, questions, config.save_batches, answers, runtime)
    labels = [label_of(*one, chooser, config.judge, inputs) for one in zip(pairs, verdicts, strict=True)]
    labels_of_people = ai_feedback_people.run(config.people, pairs, verdicts, inputs, runtime)

    kept = [label for i, label in enumerate(labels) if label is not None and i not in labels_of_people.records]
    of_people = [record for records in labels_of_people.records.values() for record in records]
    write_records(runtime.output / "comparisons.jsonl", [*kept, *of_people])
    for kind in asked.ALWAYS_WRITTEN[1:]:
        write_records(runtime.output / f"{kind}.jsonl", [])
    write_records(runtime.output / "judged.jsonl", [line_of(*one) for one in zip(pairs, verdicts, strict=True)])
    figures = summarise(pairs, verdicts, labels, inputs) | {"prompts": len(prompts), "judge": chooser.name}
    figures |= {"labels_of_ai": len(kept), "labels_of_people": len(of_people)}
    if pairs and not kept:
        runtime.log(
            f"the judge labels none of {len(pairs)} pairs: {figures['unheard']} of its {2 * len(pairs)} replies "
            "were no verdict, and no two others agree; judged.jsonl has them all"
        )
    if config.people is not None:
        figures["people"] = labels_of_people.figures(pairs, labels)
    if config.canaries:
        seed = runtime.seed_for("canaries")
        tried = try_lures(judge, questions, verdicts, config.canaries, seed)
        figures["canaries"] = tried._asdict()
    return StageOutput(figures)


def pairs_of(item: Item, principles: Sequence[Principle], runtime: Runtime) -> list[Pair]:
    """Every pair of different answers to a prompt, each with a principle of its own, if there are any."""
    found = []
    for a, b in combinations(range(len(item.responses)), 2):
        if item.responses[a] == item.responses[b]:
            continue
        rng = random.Random(runtime.seed_for("principle", item.number, a, b))
        off_topic = tuple(place for place, number in enumerate((a, b)) if number in item.off_topic)
        principle = rng.choice(principles) if principles else None
        id = f"{item.prompt.id}/ai/{a}{b}"
        policies = (item.policies[a], item.policies[b]) if item.policies else ()
        found.append(Pair(id, item.prompt, (item.responses[a], item.responses[b]), off_topic, policies, principle))
    return found


def as_asked(pair: Pair, config: JudgeConfig, runtime: Runtime) -> ToJudge:
    instruction = config.instruction if pair.principle is None else pair.principle.preference_question
    seeds = runtime.seed_for("reasons", pair.id, 0), runtime.seed_for("reasons", pair.id, 1)
    return ToJudge(pair.prompt.messages, pair.responses, instruction, seeds)


def judge_all(
    judge: Callable[[Sequence[ToJudge]], list[Verdict]],
    asked: Sequence[ToJudge],
    save_batches: int,
    answers: Sequence[Sequence[str]],
    runtime: Runtime,
) -> list[Verdict]:
    """A verdict on each pair, in their order; a killed stage goes on after its last checkpoint."""
    found = runtime.restore()
    verdicts = [Verdict(*one) for one in found.state.get("verdicts", [])] if found else []
    with runtime.progress("judging pairs", len(asked), start=len(verdicts)) as bar:
        while len(verdicts) < len(asked):
            batch = asked[len(verdicts) : len(verdicts) + PAIRS_AT_ONCE]
            verdicts += judge(batch)
            bar.advance(len(batch))
            if len(verdicts) == len(asked) or len(verdicts) // PAIRS_AT_ONCE % save_batches == 0:
                state = {"answers": answers, "verdicts": [tuple(one) for one in verdicts]}
                runtime.checkpoint(len(answers) + len(verdicts), state)
    return verdicts


def label_of(
    pair: Pair, verdict: Verdict, chooser: Chooser, config: JudgeConfig, inputs: AIFeedbackInputs
) -> Comparison | None:
    """The soft label, marked as a model's; None where the judge's word is none (`Verdict.counts`)."""
    if not verdict.counts:
        return None
    probability = clamped(verdict.probability, config.clamp)
    return Comparison(
        id=pair.id,
        prompt=pair.prompt.messages,
        responses=pair.responses,
        choice=None if probability == 0.5 else 0 if probability > 0.5 else 1,
        probability=probability,
        annotator=f"{AI}{chooser.policy or chooser.name}",
        guideline=None if pair.principle is None else pair.principle.id,
        policy=inputs.policy_id,
        policies=pair.policies,
        off_topic=pair.off_topic,
        selection_probability=1.0,
        rationale=None if verdict.reasons is None else verdict.reasons[0],
    )


def line_of(pair: Pair, verdict: Verdict) -> dict[str, Any]:
    """What the judge said in each order, for people who look after it."""
    about = {"id": pair.id, "principle": None if pair.principle is None else pair.principle.id}
    return about | verdict._asdict() | {"probability": verdict.probability, "consistent": verdict.consistent}


def summarise(
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    labels: Sequence[Comparison | None],
    inputs: AIFeedbackInputs,
) -> dict[str, Any]:
    """How sure the judge is, how far it likes a position, and, in a world, how often it is right (a tie: half)."""
    right = [
        0.5 if label.choice is None else float((label.choice == 0) == (gap > 0))
        for pair, label in zip(pairs, labels, strict=True)
        if label is not None and inputs.judges and (gap := gap_of(pair, inputs.judges))
    ]
    count = max(len(pairs), 1)
    return {
        "pairs": len(pairs),
        "ties": sum(label is not None and label.choice is None for label in labels),
        "left_out": sum(label is None for label in labels),
        "unheard": sum(verdict.unheard for verdict in verdicts),
        "unconfirmed": sum(not verdict.confirmed for verdict in verdicts),
        "consistent_share": sum(verdict.consistent for verdict in verdicts) / count,
        "liking_for_first": sum(verdict.liking_for_first for verdict in verdicts) / count,
        "confidence": 0.5 + sum(abs(verdict.probability - 0.5) for verdict in verdicts) / count,
        "accuracy": sum(right) / len(right) if right else None,
    }


def gap_of(pair: Pair, judges: Mapping[str, Judge]) -> float:
    """By how much the first answer is truly better."""
    first, second = (worth(pair.prompt, response, judges, None) for response in pair.responses)
    return first - second


def bind(config: AIFeedbackConfig, artifacts: Mapping[str, Artifact]) -> AIFeedbackInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways; simulated people have no world, or it no constitution.
    """
    judge, world = artifacts.get("judge_model"), artifacts.get("world")
    own = config.judge.path or (None if judge is None else judge.file("model"))
    if config.judge.url is None and own is None:
        raise ConfigError("ai_feedback has no judge; add an sft section, or set ai_feedback.judge.path or judge.url")
    if config.people is not None and config.people.store is None and world is None:
        raise ConfigError(
            "ai_feedback.people are simulated, which takes a world; add a world section, or name an annotation server "
            "in people.store"
        )
    return AIFeedbackInputs(
        **vars(asked.bind(config, artifacts)),
        judge=own if config.judge.url is None else None,
        principles=_principles(config.constitution, world),
    )


def _principles(constitution: Path | str | None, world: Artifact | None) -> Sequence[Principle]:
    if constitution is None:
        return ()
    if isinstance(constitution, Path):
        return load_constitution(constitution).principles
    if world is None or not world.manifest.config["skills"]:
        raise ConfigError(
            "ai_feedback.constitution = world, but the recipe's world writes none; set world.skills, or name a file"
        )
    return WORLDS[world.manifest.config["name"]].constitution.principles


def files(config: AIFeedbackConfig) -> list[Path]:
    given = (config.policy, config.prompts_file, config.judge.path, config.constitution)
    return [path for path in given if isinstance(path, Path)]


STAGE = Stage(
    "ai_feedback",
    AIFeedbackConfig,
    needs=asked.NEEDS | {"judge_model": ("sft", "pretrain")},
    needs_besides=asked.needs_besides,
    bind=bind,
    run=run,
    files=files,
    leaves=asked.leaves,
)
