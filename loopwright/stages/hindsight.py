"""Hindsight instruction relabelling: every answer is a right one, to the instruction that says what it achieved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Self

from pydantic import Field, NonNegativeFloat, model_validator

from loopwright.errors import ConfigError
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import ScoredAnswer
from loopwright.stages import sampled
from loopwright.stages.base import Stage, StageOutput
from loopwright.stages.sampled import SampledInputs
from loopwright.stages.sampled_answers import Looks, Setup
from loopwright.stages.sampled_relabelled import RelabelledConfig, bins_of, learn_in_loops, prompts_under
from loopwright.tracking.artifacts import Artifact
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import steps_to_train
from loopwright.training.examples import check_packing
from loopwright.training.instructed import Instructed, InstructedBatches, instructed_loss, instructed_tokens
from loopwright.training.loop import FitResult, fit

CRITERION = "{criterion}"


class HindsightConfig(RelabelledConfig):
    """The `hindsight` section of a recipe."""

    section: ClassVar[str] = "hindsight"

    good_share: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of a loop's answers are called good
    poor: Annotated[str, Field(min_length=1)] = "A poor answer.\n"  # the instruction of the others
    poor_by: str = f"A poor answer: {CRITERION}.\n"  # with several rewards, for each that an answer is poor by
    alpha: NonNegativeFloat = 0.1  # weight of the contrastive term, on whole answers
    beta: NonNegativeFloat = 0.001  # weight of the entropy term; Zhang et al. 2023, table 7

    @model_validator(mode="after")
    def _rewards_stay_apart(self) -> Self:
        if CRITERION not in self.poor_by:
            raise ValueError(f"poor_by = {self.poor_by!r} does not say by which reward; write {CRITERION} into it")
        if "merge" in self.model_fields_set:
            raise ValueError("merge has no effect, because hindsight relabels by each reward alone; leave it out")
        if any(source.weight != 1 for source in self.rewards):
            raise ValueError(
                "a weight has no effect, because hindsight relabels by each reward alone; leave weights out"
            )
        return self


def run(config: HindsightConfig, inputs: SampledInputs, runtime: Runtime) -> StageOutput:
    """HIR (Zhang et al. 2023, arXiv:2302.05206, algorithm 1).

    Each loop samples answers under the instruction to be good, which is the plain prompt (online phase), and learns
    each under the instruction that it followed (offline phase).
    """

    def worst(criteria: Sequence[str]) -> list[str]:
        return ["".join(poor_texts(config, criteria).values())]

    return learn_in_loops(config, inputs, runtime, partial(learn, config), worst)


def learn(
    config: HindsightConfig,
    setup: Setup,
    drawn: Sequence[Sequence[ScoredAnswer]],
    runtime: Runtime,
    looks: Looks,
) -> FitResult:
    """The offline phase: relabel the last answers; L_supervise + alpha L_contrastive + beta L_entropy."""
    instructions = relabel(config, drawn[-1], setup.reward.names)
    answers = read_under(setup, drawn[-1], instructions)
    if config.packing:
        check_packing(setup.policy, [answer.readings()[0] for answer in answers], config.max_length)
    order = EpochOrder(len(answers), config.rows_per_step, runtime.seed_for("order", len(drawn)))
    return fit(
        setup.policy,
        config,
        runtime,
        batch=InstructedBatches(answers, order, config, setup.pad_id, runtime.device).of_step,
        loss=partial(instructed_loss, setup.policy, alpha=config.alpha, beta=config.beta),
        count=instructed_tokens,
        steps=steps_to_train(config, len(answers)),
        evaluate=looks,
    )


def relabel(config: HindsightConfig, answers: Sequence[ScoredAnswer], criteria: Sequence[str]) -> list[list[str]]:
    """For each answer the instruction that it followed, and then those that it is told from.

    By every criterion an answer is good or poor; the others differ from its own in one.
    """
    texts, edges = poor_texts(config, criteria), [1 - config.good_share]
    bins = [bins_of([answer.criteria[name] for answer in answers], answers, edges, config.against) for name in texts]
    found = []
    for verdicts in zip(*bins, strict=True):
        others = [
            [good ^ (place == flipped) for place, good in enumerate(verdicts)] for flipped in range(len(verdicts))
        ]
        readings = [verdicts, *(others if config.alpha else [])]
        found.append([instruction(texts.values(), reading) for reading in readings])
    return found


def read_under(
    setup: Setup, answers: Sequence[ScoredAnswer], instructions: Sequence[Sequence[str]]
) -> list[Instructed]:
    """The answers with their prompts under these instructions, as tokens."""
    asked = [(answer, text) for answer, texts in zip(answers, instructions, strict=True) for text in texts]
    prompts = split_rows(prompts_under(setup.tokenizer, asked), len(instructions[0]))
    return [Instructed(each, answer.response_ids) for each, answer in zip(prompts, answers, strict=True)]


def instruction(texts: Iterable[str], verdicts: Iterable[int]) -> str:
    """What is put before the prompt: nothing where an answer is good by every criterion."""
    return "".join(text for text, good in zip(texts, verdicts, strict=True) if not good)


def poor_texts(config: HindsightConfig, criteria: Sequence[str]) -> dict[str, str]:
    """Criterion -> what says that an answer is poor by it.

    Raises:
        ConfigError: as `check_poor_text`.
    """
    check_poor_text(config, len(criteria))
    several = len(criteria) > 1
    return {name: config.poor_by.replace(CRITERION, name) if several else config.poor for name in criteria}


def check_poor_text(config: HindsightConfig, rewards: int) -> None:
    """Raise ConfigError where the text is written that the number of rewards makes useless."""
    useless, used = ("poor", "poor_by") if rewards > 1 else ("poor_by", "poor")
    if useless in config.model_fields_set:
        count = f"{rewards} rewards" if rewards > 1 else "one reward"
        raise ConfigError(f"hindsight.{useless} has no effect with {count}; leave it out or set {used}")


def bind(config: HindsightConfig, artifacts: Mapping[str, Artifact]) -> SampledInputs:
    """As for other stages that sample; the text for poor answers is that of so many rewards."""
    inputs = sampled.bind(config, artifacts)
    check_poor_text(config, len(inputs.reward) if isinstance(inputs.reward, Sequence) else 1)
    return inputs


STAGE = Stage(
    "hindsight",
    HindsightConfig,
    needs=sampled.NEEDS,
    bind=bind,
    run=run,
    files=sampled.files,
)
