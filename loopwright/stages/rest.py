"""Reinforced self-training (ReST): sample, then learn from ever better samples. docs/rest.md has every detail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from loopwright.runtime.parts import Part
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import ScoredAnswer
from loopwright.stages import sampled
from loopwright.stages.base import Stage, StageOutput
from loopwright.stages.sampled import SampledInputs
from loopwright.stages.sampled_answers import AnswersConfig, Looks, finish, prompts_of_round, set_up
from loopwright.training.examples import fit_examples
from loopwright.training.selection import at_least, best_of_each, examples_of, score_quantile


class RestConfig(AnswersConfig):
    """The `rest` section of a recipe."""

    section: ClassVar[str] = "rest"
    epochs: PositiveFloat | None = 1.0  # of each improve step
    grow_steps: PositiveInt = 1
    select: Literal["quantile", "score", "best"] = "quantile"  # what thresholds are; best: of each prompt, without them
    thresholds: tuple[float, ...] = (0.5, 0.75, 0.9)  # rising; one improve step each
    keep_per_prompt: PositiveInt = 1  # with select = best
    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.7  # of an improve step, on the one before

    @property
    def improve_steps(self) -> int:
        """Of each grow step."""
        return 1 if self.select == "best" else len(self.thresholds)

    @model_validator(mode="after")
    def _thresholds_rise(self) -> Self:
        if self.select == "best":
            for name in ("thresholds", "learning_rate_factor"):
                if name in self.model_fields_set:
                    raise ValueError(f"{name} has no effect with select = best, which improves once; leave it out")
            return self
        if "keep_per_prompt" in self.model_fields_set:
            raise ValueError("keep_per_prompt has no effect beside thresholds; leave it out, or set select: best")
        if not self.thresholds or any(b <= a for a, b in zip(self.thresholds, self.thresholds[1:], strict=False)):
            raise ValueError(f"thresholds = {list(self.thresholds)} must rise, at least one; put them in order")
        if self.select == "quantile" and not 0 <= self.thresholds[0] <= self.thresholds[-1] < 1:
            raise ValueError(
                f"thresholds = {list(self.thresholds)} are quantiles, from 0 to below 1; or set select: score"
            )
        if len(self.thresholds) == 1 and "learning_rate_factor" in self.model_fields_set:
            raise ValueError("learning_rate_factor has no effect on one threshold; leave it out")
        return self


def run(config: RestConfig, inputs: SampledInputs, runtime: Runtime) -> StageOutput:
    """Grow a set of answers, and improve on what is above a rising threshold (Gulcehre et al. 2023, algorithm 1)."""
    setup = set_up(config, inputs, runtime)
    looks = Looks(setup.sampler, setup.prompts.held_out)
    found = runtime.restore()  # also cuts the metrics back to the checkpoint
    history: list[dict[str, Any]] = [] if found is None else found.state["around"]["history"]
    learned: list[ScoredAnswer] = []

    for grow in range(len(history) // config.improve_steps, config.grow_steps):
        asked = prompts_of_round(setup.prompts.train, grow, config, runtime)
        grown = setup.sampler.draw(f"answers-{grow}", asked, config.samples_per_prompt, config.temperature)
        for improve in range(len(history) % config.improve_steps, config.improve_steps):
            learned, threshold = select(grown, config, improve)
            steps_before = sum(step["steps"] for step in history)
            fitted = fit_examples(
                setup.policy,
                examples_of(learned),
                slower(config, improve),
                Part(runtime, steps_before, {"history": history}, found),
                order_seed=runtime.seed_for("order", len(history)),
                pad_id=setup.pad_id,
                evaluate=looks,
            )
            found = None  # the trainings after the one that was killed begin afresh
            figures = {"grow": grow, "improve": improve, "threshold": threshold, "examples": len(learned)}
            history = [*history, {**figures, "steps": fitted.steps, **fitted.evaluation}]

    return StageOutput({
        "answers": config.grow_steps * len(asked) * config.samples_per_prompt,
        "improvements": history,
        "steps": sum(step["steps"] for step in history),
        **finish(setup, inputs.policy, learned, looks.last, runtime),
    })  # fmt: skip


def select(grown: Sequence[ScoredAnswer], config: RestConfig, improve: int) -> tuple[list[ScoredAnswer], float | None]:
    """What an improve step learns, and its threshold.

    Raises:
        DataError: nothing reaches the threshold.
    """
    if config.select == "best":
        return best_of_each(grown, config.keep_per_prompt), None
    threshold = config.thresholds[improve]
    if config.select == "quantile":
        threshold = score_quantile(grown, threshold)
    return at_least(grown, threshold), threshold


def slower(config: RestConfig, improve: int) -> RestConfig:
    """The settings of an improve step: each has a lower learning rate than the one before."""
    factor = config.learning_rate_factor**improve
    rates = {"learning_rate": config.learning_rate * factor}
    if config.muon_learning_rate is not None:
        rates["muon_learning_rate"] = config.muon_learning_rate * factor
    return config.model_copy(update=rates)


STAGE = Stage(
    "rest",
    RestConfig,
    needs=sampled.NEEDS,
    bind=sampled.bind,
    run=run,
    files=sampled.files,
)
