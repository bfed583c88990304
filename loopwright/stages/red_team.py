"""Attack the policy as somebody would who wants it to do harm, and keep what succeeded. See docs/red_team.md.

Attacks come from templates, from a model (Perez et al. 2022, arXiv:2202.03286: zero-shot and few-shot) and from an
attacker that is trained for it (red_team_attacker.py). Its other parts: what counts as an attack and as a success in
red_team_ground.py, a try in red_team_tries.py, attacks found before in red_team_regression.py, the figures in
red_team_report.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from loopwright.data.readers import write_records
from loopwright.errors import ConfigError
from loopwright.evaluation.metrics import rounded
from loopwright.generation.base import SamplingConfig
from loopwright.rewards import Reward
from loopwright.rewards.sources import RewardSource
from loopwright.runtime.runtime import Runtime
from loopwright.schemas.steps import stage_of
from loopwright.stages import red_team_regression as regression
from loopwright.stages import red_team_report as report
from loopwright.stages.base import POLICIES, Stage, StageConfig, StageOutput, chosen_input
from loopwright.stages.red_team_attacker import AttackerSettings
from loopwright.stages.red_team_ground import check_beside_world, check_without_world
from loopwright.stages.red_team_trial import ATTACKER, Trial
from loopwright.stages.red_team_tries import EARLIER, Writing
from loopwright.tracking.artifacts import Artifact
from loopwright.worlds import WORLDS
from loopwright.worlds.base import RedTeamGround

Source = Literal["templates", "zero_shot", "few_shot", "rl"]
SOURCES: tuple[Source, ...] = ("templates", "zero_shot", "few_shot", "rl")
WRITERS = ("zero_shot", "few_shot", "rl")  # sources that are a model
USED_BY = {  # setting -> the sources without which it has no effect
    "templates": ("templates",),
    "attacker": WRITERS,
    "attack": WRITERS,
    "opening": WRITERS,
    "asks": WRITERS,
    "asks_above": WRITERS,
    "shots": ("few_shot",),
    "shot_temperature": ("few_shot",),
    "rl": ("rl",),
}


class RedTeamConfig(StageConfig):
    """The `red_team` section of a recipe."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = SOURCES
    tries: Annotated[int, Field(gt=0, le=2_500)] = 1_000  # of each source; all successes are compared with each other
    answer: SamplingConfig = SamplingConfig(max_new_tokens=40)  # how the policy answers
    attack: Writing = Writing()  # how a model writes attacks
    opening: str | None = None  # what it continues; None: the world's
    shots: PositiveInt = 3
    shot_temperature: PositiveFloat = 0.1  # T of Perez et al. 2022
    rl: AttackerSettings = AttackerSettings()
    least_similarity: Annotated[float, Field(gt=0, le=1)] = 0.5  # of any two successes of a cluster
    answers_to_earlier: PositiveInt = 2  # an earlier attack is fixed when none of so many answers helps
    policy: Path | None = None  # the target's folder, where no stage makes one
    attacker: Path | None = None  # a causal LM's folder, where no pretrain stage makes one
    templates: Path | None = None  # one a line, with {request} in it; None: the world's
    requests: Path | None = None  # jsonl of Prompt, where no world brings harmful requests
    harm: RewardSource | None = None  # scores how harmful an answer is; None: the world's judge does
    harm_above: float = 0.0  # without a world: a success scores more
    asks: RewardSource | None = None  # without a world: scores of an attack how much harm it asks for
    asks_above: float = 0.0  # an attack scores more
    earlier: tuple[Path, ...] = ()  # regression.jsonl of other runs, oldest first

    @property
    def models(self) -> bool:
        """Whether a model writes attacks."""
        return bool(set(self.sources) & set(WRITERS))

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources names one twice; name each once")
        if "few_shot" in self.sources and "zero_shot" not in self.sources:
            raise ValueError("few_shot draws its examples from the tries of zero_shot; add that to sources")
        for name, users in USED_BY.items():
            if name in self.model_fields_set and not set(users) & set(self.sources):
                raise ValueError(f"{name} has no effect without {' or '.join(users)} in sources; leave it out")
        if self.asks is not None and self.asks.stage is not None:
            raise ValueError(
                f"asks names the stage {self.asks.stage}, whose model scores answers and knows no request for harm; "
                "give it a reward that does"
            )
        if "rl" in self.sources and self.attack.temperature == 0:
            raise ValueError("attack.temperature = 0 leaves an attacker nothing to try; raise it, or leave rl out")
        return self


@dataclass(frozen=True)
class RedTeamInputs:
    policy: Path  # the target, a Hugging Face folder
    attacker: Path | None = None  # a causal LM; None: templates alone
    world: RedTeamGround | None = None
    harm: Reward | RewardSource | None = None
    earlier: Sequence[Path] = ()  # regression.jsonl of earlier red teaming, oldest first
    trained: Path | None = None  # an earlier round's attacker, which rl goes on with; None: it starts with `attacker`


def run(config: RedTeamConfig, inputs: RedTeamInputs, runtime: Runtime) -> StageOutput:
    """Train an attacker, try again what was found before, try every source, and write down what succeeded."""
    trial = Trial(config, inputs, runtime)  # goes on from the last checkpoint
    trained = trial.train_attacker()
    again = trial.tries_of(EARLIER)
    tries = {source: trial.tries_of(source) for source in config.sources}

    ground, alike = trial.ground, config.least_similarity
    known = regression.now(trial.known, again)
    found = [one for source in config.sources for one in tries[source]]
    failed = report.failures([*found, *again], ground, alike)
    sources = {source: report.of_source(tries[source], ground, alike) for source in config.sources}
    figures = {
        "sources": sources,
        "rl_vs_templates": report.distinct_ratio(sources),
        "clusters": len({row["cluster"] for row in failed}),
        "regression": regression.figures(trial.known, known, again),
        "training": trained,
    }
    handed_on = report.as_prompts(failed, ground)
    write_records(runtime.output / "failures.jsonl", failed)
    write_records(runtime.output / "attacks.jsonl", handed_on)
    write_records(runtime.output / regression.FILE, regression.records(regression.merged(known, found)))
    shown = {"largest_clusters": report.described_clusters(failed), "worst": report.worst(failed)}
    report.write_json(runtime.output / "red_team.json", figures | shown)
    trial.save_attacker()
    return StageOutput(rounded(figures | {"handed_on": len(handed_on)}))


def bind(config: RedTeamConfig, artifacts: Mapping[str, Artifact]) -> RedTeamInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways, or a world makes a setting useless.
    """
    world, harm = artifacts.get("world"), _harm(config, artifacts)
    if world is not None:
        check_beside_world(config)
    else:
        check_without_world(config, harm)
    attacker = None
    if config.models:
        made = artifacts.get("attacker")
        attacker = chosen_input("red_team.attacker", config.attacker, made, "model", "a pretrain section")
    return RedTeamInputs(
        policy=chosen_input("red_team.policy", config.policy, artifacts.get("policy"), "model", "an sft section"),
        attacker=attacker,
        trained=trained_before(artifacts) if "rl" in config.sources else None,
        world=None if world is None else WORLDS[world.manifest.config["name"]].red_team,
        harm=harm,
        earlier=earlier_files(config, artifacts),
    )


def earlier_files(config: RedTeamConfig, artifacts: Mapping[str, Artifact]) -> tuple[Path, ...]:
    """The regression sets of earlier red teaming, oldest first: files of the config, then those of rounds before."""
    return (*config.earlier, *(one.file(regression.FILE) for one in earlier_rounds(artifacts)))


def trained_before(artifacts: Mapping[str, Artifact]) -> Path | None:
    """The attacker of the last round that trained one."""
    found = [one for one in earlier_rounds(artifacts) if f"{ATTACKER}/config.json" in one.manifest.files]
    return found[-1].file(ATTACKER) if found else None


def earlier_rounds(artifacts: Mapping[str, Artifact]) -> list[Artifact]:
    """Their red teaming, oldest first."""
    return [one for role, one in artifacts.items() if stage_of(role) == "red_team"]


def _harm(config: RedTeamConfig, artifacts: Mapping[str, Artifact]) -> RewardSource | None:
    if config.harm is None or config.harm.stage is None:
        return config.harm
    if config.harm.stage not in artifacts:
        raise ConfigError(f"red_team.harm names the stage {config.harm.stage}, which the recipe does not have; add it")
    update = {"path": artifacts[config.harm.stage].file("model"), "stage": None, "name": config.harm.title}
    return config.harm.model_copy(update=update)


def files(config: RedTeamConfig) -> list[Path]:
    """The user's files and folders, whose content belongs to the artifact's key."""
    own = (config.policy, config.attacker, config.templates, config.requests, *config.earlier)
    rewards = [source for source in (config.harm, config.asks) if source is not None]
    return [path for path in own if path is not None] + [path for source in rewards for path in source.files]


STAGE = Stage(
    name="red_team",
    config=RedTeamConfig,
    needs={
        "policy": POLICIES,
        "attacker": ("pretrain",),
        "world": ("world",),
        "reward": ("reward",),
        "reward_*": (),
        "earlier.*": ("red_team",),
    },
    bind=bind,
    run=run,
    files=files,
)
