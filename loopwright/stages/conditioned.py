"""Reward-conditioned training: answers are learned under a text that names the bin of their reward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from loopwright.data.chat import Example
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import ScoredAnswer
from loopwright.stages import sampled
from loopwright.stages.base import Stage, StageOutput
from loopwright.stages.sampled import SampledInputs
from loopwright.stages.sampled_answers import Looks, Setup
from loopwright.stages.sampled_relabelled import RelabelledConfig, bins_of, learn_in_loops, prompts_under
from loopwright.training.examples import fit_examples
from loopwright.training.loop import FitResult

BIN, BINS = "{bin}", "{bins}"


class ConditionedConfig(RelabelledConfig):
    """The `conditioned` section of a recipe."""

    section: ClassVar[str] = "conditioned"

    bins: Annotated[int, Field(ge=2)] = 5  # of equal shares of the answers; Lu et al. 2022 take 5 as well
    condition: str = f"Quality {BIN} of {BINS}.\n"  # of every bin but the best, numbered from 1

    @model_validator(mode="after")
    def _bins_can_be_told_apart(self) -> Self:
        if BIN not in self.condition:
            raise ValueError(f"condition = {self.condition!r} is the same for every bin; write {BIN} into it")
        if self.merge.rule == "constraint":
            raise ValueError("merge.rule = constraint moves its multiplier with every update of ppo; choose another")
        return self


def run(config: ConditionedConfig, inputs: SampledInputs, runtime: Runtime) -> StageOutput:
    """Conditional training (Korbak et al. 2023, arXiv:2302.08582) on quantile bins (Quark, Lu et al. 2022).

    Each loop samples answers under the best condition, which is the plain prompt, adds them to those of the loops
    before, and learns all under the bins that they are in by now.
    """
    return learn_in_loops(config, inputs, runtime, partial(learn, config), lambda _: texts(config))


def learn(
    config: ConditionedConfig,
    setup: Setup,
    drawn: Sequence[Sequence[ScoredAnswer]],
    runtime: Runtime,
    looks: Looks,
) -> FitResult:
    """Cross-entropy of the answers of all loops, each under the text of its bin."""
    answers = list(chain.from_iterable(drawn))
    prompts = prompts_under(setup.tokenizer, list(zip(answers, relabel(config, answers), strict=True)))
    return fit_examples(
        setup.policy,
        [Example(prompt, answer.response_ids) for prompt, answer in zip(prompts, answers, strict=True)],
        config,
        runtime,
        order_seed=runtime.seed_for("order", len(drawn)),
        pad_id=setup.pad_id,
        evaluate=looks,
    )


def relabel(config: ConditionedConfig, answers: Sequence[ScoredAnswer]) -> list[str]:
    """The text of each answer's bin."""
    edges = [i / config.bins for i in range(1, config.bins)]
    conditions = texts(config)
    return [conditions[i] for i in bins_of([a.score for a in answers], answers, edges, config.against)]


def texts(config: ConditionedConfig) -> list[str]:
    """The condition of each bin, the worst first; of the best none."""
    named = [config.condition.replace(BIN, str(i)).replace(BINS, str(config.bins)) for i in range(1, config.bins)]
    return [*named, ""]


STAGE = Stage(
    "conditioned",
    ConditionedConfig,
    needs=sampled.NEEDS,
    bind=sampled.bind,
    run=run,
    files=sampled.files,
)
