"""Rounds: V1, V2, ... The same stages again, each from what the rounds before left. docs/rounds.md has the why.

    rounds:
      schedule:
        v1-v4: {feedback: {}, reward: {}, rejection: {}}
        v5: {feedback: {}, reward: {}, ppo: {}}

A recipe's rounds are written out into steps of the plan, "v1.feedback" and so on, so that all the loop knows of stages
(artifacts, resuming, staleness) holds for each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from loopwright.config import Config, Section
from loopwright.errors import ConfigError
from loopwright.schemas.steps import named, round_of, stage_of

if TYPE_CHECKING:
    from loopwright.stages.base import Stage, StageConfig
    from loopwright.tracking.artifacts import Artifact

LABELS = {"feedback": "labels", "ai_feedback": "labels_of_people"}  # stage -> its figure that people's labels count in
SPAN = re.compile(r"v(\d+)(?:-v(\d+))?")


class StopConfig(Config):
    """When no further round is begun. What is asked of a round is asked after its last stage."""

    no_gain_in: PositiveInt | None = None  # rounds in a row of which none brought a significant gain
    labels: PositiveInt | None = None  # over all rounds; a round that begins below may end above
    kl: PositiveFloat | None = None  # nats per response, from the fine-tuned model, or from base where there is none

    @model_validator(mode="after")
    def _stops_at_something(self) -> Self:
        if not any((self.no_gain_in, self.labels, self.kl)):
            raise ValueError("stop names nothing to stop at; set no_gain_in, labels or kl, or leave stop out")
        return self


class Round(Config):
    """The stages of a round; `round_class` adds a section for each."""

    @model_serializer(mode="wrap")
    def _without_absent_stages(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in cast(dict[str, Any], handler(self)).items() if value is not None}

    @property
    def sections(self) -> dict[str, StageConfig]:
        """The configured stages' settings, in the order of the loop."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: section for name, section in found.items() if section is not None}


class RoundsConfig(Config):
    schedule: Annotated[dict[str, Round], Field(min_length=1)]  # "v1-v4" or "v5" -> the stages of these rounds
    until: PositiveInt | None = None  # the last round to be made; None: all
    stop: StopConfig | None = None

    @model_validator(mode="after")
    def _rounds_follow_each_other(self) -> Self:
        expected = 1
        for key, one in self.schedule.items():
            if SPAN.fullmatch(key) is None:
                raise ValueError(f"schedule.{key}: rounds are called v1, v2, ..., and several of one kind v1-v4")
            first, last = _span(key)
            if first != expected or last < first:
                raise ValueError(f"schedule.{key}: v{expected} comes next; number the rounds v1, v2, ... without gaps")
            if not one.sections:
                raise ValueError(f"schedule.{key} has no stage; give it a method such as `ppo:`")
            expected = last + 1
        if self.until is not None and self.until >= expected - 1:
            raise ValueError(f"until = {self.until} has no effect with {expected - 1} rounds; lower it or leave it out")
        return self

    @model_validator(mode="after")
    def _gain_is_measured(self) -> Self:
        from loopwright.stages.base import POLICIES

        if self.stop is not None and (self.stop.no_gain_in or self.stop.kl):
            name = "no_gain_in" if self.stop.no_gain_in else "kl"
            for number, one in self.rounds():
                if "evaluate" not in one.sections:
                    raise ValueError(
                        f"stop.{name} needs each round evaluated; add `evaluate:` to the schedule of v{number}"
                    )
                if not set(POLICIES) & one.sections.keys():
                    raise ValueError(
                        f"stop.{name} asks each round for its version, and v{number} makes none; give it a method such "
                        f"as `ppo:`, or leave stop.{name} out"
                    )
        return self

    @model_validator(mode="after")
    def _labels_are_given(self) -> Self:
        if self.stop is not None and self.stop.labels:
            asking = [one.sections.get(stage) for one in self.schedule.values() for stage in LABELS]
            if not any(section is not None and getattr(section, "people", section) for section in asking):
                raise ValueError(
                    f"stop.labels = {self.stop.labels} has no effect: no round asks people for labels; add `feedback:` "
                    "to one, or leave it out"
                )
        return self

    def rounds(self) -> Iterator[tuple[int, Round]]:
        """(number from 1, its stages), up to the last one to be made."""
        number = 0
        for key, one in self.schedule.items():
            first, last = _span(key)
            for _ in range(first, last + 1):
                number += 1
                if self.until is None or number <= self.until:
                    yield number, one

    @property
    def sections(self) -> dict[str, StageConfig]:
        """Every stage of every round under its own name, in the order they run."""
        return {
            named(number, stage): section for number, one in self.rounds() for stage, section in one.sections.items()
        }

    @property
    def last(self) -> int:
        """The number of the last round to be made."""
        return max(number for number, _ in self.rounds())


def rounds_class(stages: Mapping[str, Stage]) -> type[RoundsConfig]:
    """The schema of a `rounds` section, of which each round may have these stages."""
    sections: Any = {name: (stage.config | None, None) for name, stage in stages.items()}
    of_round = create_model("Round", __base__=Round, **sections)
    return create_model(
        "RoundsConfig", __base__=RoundsConfig, schedule=(Annotated[dict[str, of_round], Field(min_length=1)], ...)
    )


def schedule_of(values: Any) -> list[dict[str, Any]]:
    """The rounds of a `rounds` section that was not checked yet, each as it is written."""
    schedule = values.get("schedule") if isinstance(values, dict) else None
    return [one for one in schedule.values() if isinstance(one, dict)] if isinstance(schedule, dict) else []


def set_apart(values: Any, key: str) -> None:
    """Give the rounds that a dotted key names (rounds.schedule.v5.ppo.steps) an entry of their own.

    In the values of a recipe, where v2-v5 has it among others: v2-v4 and v5 follow, with the same settings.

    Raises:
        ConfigError: the rounds stand in several entries; or the key is of a stage that only rounds have.
    """
    rounds = values.get("rounds")
    schedule = rounds.get("schedule") if isinstance(rounds, Section) else None
    stage, inside, _ = key.partition(".")
    if inside and stage not in values and isinstance(schedule, Section):
        for one, sections in schedule.items():
            if isinstance(sections, Section) and stage in sections:
                raise ConfigError(f"--set {key}: only rounds have {stage} here; set rounds.schedule.{one}.{key}")
    name = key.removeprefix("rounds.schedule.").partition(".")[0]
    if not isinstance(schedule, Section) or name == key or not SPAN.fullmatch(name):
        return
    first, last = _span(name)
    spans = {one: _span(one) for one in schedule if SPAN.fullmatch(one)}
    for one, (begin, end) in spans.items():
        if begin <= first <= last <= end and (begin, end) != (first, last):
            parts = ((begin, first - 1), (first, last), (last + 1, end))
            schedule.rename(one, [f"v{a}" if a == b else f"v{a}-v{b}" for a, b in parts if a <= b])
    within = [one for one, (begin, end) in spans.items() if first <= begin <= end <= last]
    if len(within) > 1:
        raise ConfigError(
            f"--set {key}: {name} are several entries of rounds.schedule, {', '.join(within)}; set each of them, or "
            f"all of {name} before one of its rounds"
        )


def _span(key: str) -> tuple[int, int]:
    """v2-v5 -> (2, 5), v5 -> (5, 5)."""
    found = SPAN.fullmatch(key)
    assert found is not None
    return int(found[1]), int(found[2] or found[1])


def why_stop(stop: StopConfig, number: int, made: Mapping[str, Artifact]) -> str | None:
    """Why no round follows round `number`, in words; None: the next one begins.

    Args:
        made: step -> its artifact, of all that ran so far.

    Raises:
        ConfigError: a gain is asked for, and nothing measures it.
    """
    if stop.labels is not None:
        counted = ((LABELS.get(stage_of(name)), one) for name, one in made.items() if round_of(name))
        labels = sum(int(one.manifest.metrics[figure]) for figure, one in counted if figure is not None)
        if labels >= stop.labels:
            return f"{labels} labels were given, and stop.labels = {stop.labels}"
    if stop.kl is not None:
        kl = _evaluation(number, made)["versions"][f"v{number}"]["kl"]
        if kl is not None and kl > stop.kl:
            return f"v{number} is {kl:.3g} nats from {'sft' if 'sft' in made else 'base'}, and stop.kl = {stop.kl:g}"
    if stop.no_gain_in is not None and number >= stop.no_gain_in:
        asked = range(number - stop.no_gain_in + 1, number + 1)
        measured: list[Any] = [_evaluation(one, made).get("rounds") for one in asked]
        if None in measured:
            raise ConfigError(
                f"rounds.stop.no_gain_in = {stop.no_gain_in} needs a judge that tells a gain, and v{number}.evaluate "
                "has none; add a world, a judge section or evaluate.judge, or stop by labels or kl"
            )
        if not any(found["gained"][f"v{one}"] for one, found in zip(asked, measured, strict=True)):
            return f"no significant gain in {stop.no_gain_in} rounds, and stop.no_gain_in = {stop.no_gain_in}"
    return None


def _evaluation(number: int, made: Mapping[str, Artifact]) -> Mapping[str, Any]:
    return made[named(number, "evaluate")].manifest.metrics
