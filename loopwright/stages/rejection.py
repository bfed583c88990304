"""Rejection-sampling fine-tuning: learn from the best of one's own answers. docs/rejection.md has every detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from pydantic import PositiveFloat, PositiveInt, model_validator
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import render_prompts
from loopwright.data.readers import read_records
from loopwright.errors import DataError
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import ScoredAnswer
from loopwright.schemas.steps import stage_of
from loopwright.stages import sampled
from loopwright.stages.base import Stage, StageOutput
from loopwright.stages.sampled import SampledInputs
from loopwright.stages.sampled_answers import (
    SAMPLES,
    AnswersConfig,
    Looks,
    Sampler,
    finish,
    frontier,
    prompts_of_round,
    set_up,
)
from loopwright.stages.sampled_prompts import Task
from loopwright.tracking.artifacts import Artifact
from loopwright.training.examples import fit_examples
from loopwright.training.ppo_batch import prompts_of_step
from loopwright.training.selection import best_of_each, examples_of


class RejectionConfig(AnswersConfig):
    """The `rejection` section of a recipe."""

    section: ClassVar[str] = "rejection"
    epochs: PositiveFloat | None = 2.0
    keep_per_prompt: PositiveInt = 1  # different answers
    temperatures: tuple[PositiveFloat, ...] = ()  # to choose the temperature from
    temperature_prompts: PositiveInt = 50  # that each of them is tried on
    earlier: tuple[Path, ...] = ()  # samples.jsonl of earlier rounds, beside those of the recipe's own stages

    @model_validator(mode="after")
    def _temperature_is_given_or_chosen(self) -> Self:
        if self.temperatures and "temperature" in self.model_fields_set:
            raise ValueError("temperature has no effect beside temperatures, of which one is chosen; leave one out")
        if len(set(self.temperatures)) == 1 or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(
                f"temperatures = {self.temperatures} must be two or more different ones; or set temperature"
            )
        if not self.temperatures and "temperature_prompts" in self.model_fields_set:
            raise ValueError("temperature_prompts has no effect without temperatures; set these, or leave it out")
        return self

    @model_validator(mode="after")
    def _something_is_rejected(self) -> Self:
        if self.keep_per_prompt > self.samples_per_prompt:
            raise ValueError(
                f"keep_per_prompt = {self.keep_per_prompt} is more than samples_per_prompt = "
                f"{self.samples_per_prompt}; lower it"
            )
        return self


@dataclass(frozen=True)
class RejectionInputs(SampledInputs):
    earlier: Sequence[Path] = ()  # samples.jsonl of earlier rounds


def run(config: RejectionConfig, inputs: RejectionInputs, runtime: Runtime) -> StageOutput:
    """Learn from the best of K answers of one's own (Touvron et al. 2023, arXiv:2307.09288, sec. 3.2.2).

    Writes model/, and samples.jsonl: the answers that were learned, for later rounds.
    """
    setup = set_up(config, inputs, runtime)
    sampler, prompts = setup.sampler, setup.prompts
    asked = prompts_of_round(prompts.train, 0, config, runtime)
    means = try_temperatures(config, sampler, asked, runtime)
    temperature = max(means, key=means.__getitem__) if means else config.temperature

    drawn = sampler.draw("answers-0", asked, config.samples_per_prompt, temperature)
    earlier = sampler.score_again("earlier", read_earlier(inputs.earlier, prompts.held_out, setup.tokenizer))
    best = best_of_each([*drawn, *earlier], config.keep_per_prompt)

    looks, order_seed = Looks(sampler, prompts.held_out), runtime.seed_for("order", 0)
    fitted = fit_examples(
        setup.policy, examples_of(best), config, runtime, order_seed=order_seed, pad_id=setup.pad_id, evaluate=looks
    )
    return StageOutput({
        "prompts": len(asked),
        "answers": len(drawn) + len(means) * min(config.temperature_prompts, len(asked)) * config.samples_per_prompt,
        "earlier_answers": len(earlier),
        "examples": len(best),
        "examples_from_earlier": sum(answer.stage != runtime.stage for answer in best),
        "steps": fitted.steps,
        "temperature": temperature,
        "best_by_temperature": {f"{one:g}": mean for one, mean in means.items()},
        "best_of": frontier(drawn, config.samples_per_prompt),
        **finish(setup, inputs.policy, best, looks.last, runtime),
    })  # fmt: skip


def try_temperatures(
    config: RejectionConfig, sampler: Sampler, tasks: Sequence[Task], runtime: Runtime
) -> dict[float, float]:
    """What the best of K answers scores at each temperature, mean over a few of the prompts.

    The best temperature moves from round to round (Touvron et al. 2023, fig. 8), so it is chosen anew in each.
    """
    count = min(config.temperature_prompts, len(tasks))
    few = [tasks[i] for i in prompts_of_step(len(tasks), 0, count, partial(runtime.seed_for, "temperature"))]
    found = {}
    for temperature in config.temperatures:
        answers = sampler.draw(f"temperature-{temperature:g}", few, config.samples_per_prompt, temperature)
        best = best_of_each(answers)
        found[temperature] = sum(answer.score for answer in best) / len(best)
    return found


def read_earlier(
    paths: Sequence[Path], held_out: Sequence[Task], tokenizer: PreTrainedTokenizerBase
) -> list[ScoredAnswer]:
    """What earlier rounds learned; nothing that answers a prompt which is held out here.

    Raises:
        DataError: a file cannot be read, or its tokens mean something else to this tokenizer.
    """
    hidden = {tuple(task.tokens) for task in held_out}
    found: list[ScoredAnswer] = []
    for path in paths:
        answers = read_records(path, ScoredAnswer, max_bad_share=0.0).records
        rendered = render_prompts(tokenizer, [answer.prompt.messages for answer in answers])
        for number, (answer, prompt_ids) in enumerate(zip(answers, rendered, strict=True), start=1):
            if not answer.response_ids:
                raise DataError(f"{path}:{number}: its answer has no tokens, so nothing can be learned; leave it out")
            if answer.prompt_ids != prompt_ids:
                raise DataError(
                    f"{path}:{number}: the tokens of its prompt are not those that this policy's tokenizer makes; "
                    "rounds must go on from one another's models, so leave out samples of another model"
                )
        found += [answer for answer in answers if tuple(answer.prompt_ids) not in hidden]
    return found


def bind(config: RejectionConfig, artifacts: Mapping[str, Artifact]) -> RejectionInputs:
    """Inputs from the stages before, or from the paths in the config; every rejection stage before is a round."""
    rounds = [artifact for role, artifact in artifacts.items() if stage_of(role) == "rejection"]
    earlier = [*config.earlier, *(artifact.file(SAMPLES) for artifact in rounds)]
    return RejectionInputs(**vars(sampled.bind(config, artifacts)), earlier=earlier)


def files(config: RejectionConfig) -> list[Path]:
    """The user's files and folders, whose content belongs to the artifact's key."""
    return [*sampled.files(config), *config.earlier]


STAGE = Stage(
    "rejection",
    RejectionConfig,
    needs=sampled.NEEDS | {"earlier.*": ("rejection",)},
    bind=bind,
    run=run,
    files=files,
)
