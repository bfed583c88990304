"""The root of a run's YAML file: a few settings, then one section for each stage that is to run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from loopwright.config import Config, build, dump_yaml, read_yaml
from loopwright.errors import ConfigError
from loopwright.loop.rounds import RoundsConfig, rounds_class, schedule_of, set_apart
from loopwright.loop.table import load_stages
from loopwright.schemas.steps import stage_of

if TYPE_CHECKING:
    from loopwright.stages.base import Stage, StageConfig

DATA_VARIABLE = "LOOPWRIGHT_DATA"
_PLACEHOLDER = "${data_dir}"
AFTER_ROUNDS = ("red_team", "evaluate")  # of the stages outside of rounds; the others come before the first one


class RunConfig(Config):
    """What belongs to no stage. `run_config_class` adds a section for each stage."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # of the recipe; the default run directory
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data_dir: Path | None = None  # what ${data_dir} stands for in the sections; default: $LOOPWRIGHT_DATA
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tensorboard: bool = True  # write event files to RUN/tensorboard
    rounds: RoundsConfig | None = None  # V1, V2, ...

    @property
    def sections(self) -> dict[str, "StageConfig"]:
        """The configured stages' settings, in the order of the loop; those of rounds as v1.feedback, v1.reward, ..."""
        found = {name: getattr(self, name) for name in type(self).model_fields if name not in RunConfig.model_fields}
        alone = {name: section for name, section in found.items() if section is not None}
        before = {name: section for name, section in alone.items() if name not in AFTER_ROUNDS}
        return before | ({} if self.rounds is None else self.rounds.sections) | alone

    def ending_with(self, number: int | None) -> "RunConfig":
        """The same without the rounds after this one, of which there are some; None: with all of the schedule."""
        assert self.rounds is not None
        return self.model_copy(update={"rounds": self.rounds.model_copy(update={"until": number})})

    @model_validator(mode="after")
    def _attacks_are_found_first(self) -> Self:
        """In the first rounds none may be there yet, but in all of them it is a mistake."""
        whole = self if self.rounds is None else self.ending_with(None)
        names = list(whole.sections)
        asking = [name for name, section in whole.sections.items() if getattr(section, "attacks", 0)]
        if asking and not any(stage_of(name) == "red_team" for name in names[: names.index(asking[-1])]):
            raise ValueError(
                f"{asking[0]}.attacks has no effect: no red_team runs before {asking[-1]}; add it to the rounds, or "
                "leave attacks out"
            )
        return self

    @model_validator(mode="after")
    def _gain_can_be_told(self) -> Self:
        """By a world's judges, a trained one, or the evaluation's own."""
        if self.rounds is None or self.rounds.stop is None or not self.rounds.stop.no_gain_in:
            return self
        for name, section in self.rounds.sections.items():
            if (
                stage_of(name) == "evaluate"
                and not {"world", "judge"} & self.sections.keys()
                and getattr(section, "judge", self) is None
            ):
                raise ValueError(
                    f"rounds.stop.no_gain_in = {self.rounds.stop.no_gain_in} needs a judge that tells a gain, and "
                    f"{name} has none; add a world, a judge section or evaluate.judge, or stop by labels or kl"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_absent_stages(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped = cast(dict[str, Any], handler(self))
        always = RunConfig.model_fields.keys() - {"rounds"}
        return {key: value for key, value in dumped.items() if key in always or value is not None}


def run_config_class(stages: Mapping[str, "Stage"]) -> type[RunConfig]:
    """The schema of a YAML file whose sections are these stages'."""
    sections: Any = {name: (stage.config | None, None) for name, stage in stages.items()}
    sections["rounds"] = (rounds_class(stages) | None, None)
    return create_model("RunConfig", __base__=RunConfig, **sections)


def load_config(
    path: Path, overrides: Sequence[str] = (), *, stages: Mapping[str, "Stage"] | None = None, resolved: bool = False
) -> RunConfig:
    """Read a recipe, or the `config.yaml` of a run directory (`resolved`).

    An empty section runs its stage with the defaults; `false` in a section's place leaves the stage out. An override
    that names one round of several (`rounds.schedule.v5.ppo.steps=60`, of v2-v5) is of that one alone.
    `${data_dir}` in any text stands for the folder of real data.

    Raises:
        ConfigError: in one sentence, what is wrong and where.
    """
    values = read_yaml(path, overrides, prepare=set_apart)
    return config_from(values, str(path), stages=stages, resolved=resolved)


def config_from(
    values: dict[str, Any], source: str, *, stages: Mapping[str, "Stage"] | None = None, resolved: bool = False
) -> RunConfig:
    """As `load_config`, from a mapping: {"name": …, "sft": {…}, …}."""
    rounds = schedule_of(values.get("rounds"))
    stages = load_stages([*values, *(name for one in rounds for name in one)]) if stages is None else stages
    for section in (values, *rounds):
        for name in stages:
            if name in section and section[name] is None:
                section[name] = {}
            elif section.get(name) is False:
                del section[name]
    _fill_in_data_dir(values, source, resolved=resolved)
    config = build(run_config_class(stages), values, source, resolved=resolved)
    if not config.sections:
        raise ConfigError(f"{source}: configures no stage; add a section such as `sft:`")
    return config


def resolved_text(config: RunConfig) -> str:
    """The text of a run directory's `config.yaml`."""
    return f"# Every setting of this run, defaults included.\n{dump_yaml(config)}"


def portable(value: Any, data_dir: Path | None) -> Any:
    """The same settings wherever the data lies: `data_dir` at the start of a text turned back into ${data_dir}."""
    if isinstance(value, dict):
        return {key: portable(inner, data_dir) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner, data_dir) for inner in value]
    folder = str(data_dir)
    if data_dir is not None and isinstance(value, str) and (value == folder or value.startswith(folder + "/")):
        return _PLACEHOLDER + value[len(folder) :]
    return value


def _fill_in_data_dir(values: dict[str, Any], source: str, *, resolved: bool) -> None:
    used = _mentions(values)
    if not used:
        if values.get("data_dir") is not None and not resolved:
            raise ConfigError(
                f"{source}: data_dir = {values['data_dir']} has no effect; write {_PLACEHOLDER} in a path or drop it"
            )
        return
    folder = values.get("data_dir") or os.environ.get(DATA_VARIABLE)
    if not folder:
        raise ConfigError(
            f"{source}: {used} needs the folder of real data; add --set data_dir=FOLDER or set {DATA_VARIABLE}"
        )
    path = Path(str(folder)).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(
            f"{source}: data_dir = {folder} is not a folder; add --set data_dir=FOLDER or set {DATA_VARIABLE}"
        )
    values["data_dir"] = str(path)
    _replace(values, str(path))


def _mentions(value: Any, key: str = "") -> str:
    """The dotted key of the first text that holds the placeholder."""
    if isinstance(value, str):
        return key if _PLACEHOLDER in value else ""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = (_mentions(inner, f"{key}.{name}".lstrip(".")) for name, inner in items)
    return next(filter(None, found), "")


def _replace(value: Any, folder: str) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        if isinstance(inner, str):
            value[key] = inner.replace(_PLACEHOLDER, folder)
        else:
            _replace(inner, folder)
