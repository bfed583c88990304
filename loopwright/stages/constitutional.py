"""Constitutional AI, supervised phase: a model learns from its own answers, revised by written principles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from loopwright.data.chat import Example, encode_examples
from loopwright.data.constitution import load_constitution
from loopwright.data.readers import read_records, write_records
from loopwright.errors import ConfigError, DataError
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.tokens import context_length
from loopwright.models.trainable import make_trainable
from loopwright.responders.local import LocalResponder
from loopwright.responders.sources import ResponderConfig
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import AI, Demonstration, Prompt, ReplySettings, Responder, RevisedAnswer
from loopwright.schemas.responders import Temperature
from loopwright.stages.base import POLICIES, Stage, StageConfig, StageOutput, check_max_length, chosen_input
from loopwright.stages.constitutional_revisions import Voices, answer_helpfully, revise_all
from loopwright.tracking.artifacts import Artifact, id_of_file
from loopwright.training.examples import ExamplesConfig, fit_examples

HARMFUL = "harmful"  # the task of a prompt whose answer is to be revised


class ConstitutionalConfig(StageConfig, ExamplesConfig):
    epochs: PositiveFloat | None = 1.0  # as Bai et al.
    max_length: Annotated[int, Field(ge=2)] = 256  # tokens of prompt and answer together
    prompts: PositiveInt = 1_000  # harmful ones, whose answers are revised; as many as there are, at most
    revisions: PositiveInt = 4  # of each answer, one after the other; as Bai et al.
    helpful_share: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of what is learned: answers to harmless prompts
    max_new_tokens: PositiveInt = 64  # of an answer, a critique and a revision
    temperature: Temperature = 1.0  # of answers to harmful prompts, which are to differ
    helpful_temperature: Temperature = 0.5  # of answers to harmless ones: learning surer ones keeps it helpful
    critic_temperature: Temperature = 0.0  # of critiques and revisions, which are to be right
    prompts_at_once: PositiveInt = 256  # between two checkpoints
    critic: ResponderConfig | None = None  # None: the policy itself
    constitution: Path | None = None  # a YAML file; None: the world's
    policy: Path | None = None  # a causal LM's folder, where no stage makes one
    red_team_file: Path | None = None  # JSON lines of Prompt; None: the world's that are tagged harmful
    helpful_file: Path | None = None  # JSON lines of Prompt; None: the world's others

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for name in ("helpful_file", "helpful_temperature"):
            if self.helpful_share == 0 and name in self.model_fields_set and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect with helpful_share = 0; leave one out")
        return self

    @property
    def answer_settings(self) -> ReplySettings:
        return ReplySettings(temperature=self.temperature, max_new_tokens=self.max_new_tokens)

    @property
    def helpful_settings(self) -> ReplySettings:
        return ReplySettings(temperature=self.helpful_temperature, max_new_tokens=self.max_new_tokens)

    @property
    def critic_settings(self) -> ReplySettings:
        return ReplySettings(temperature=self.critic_temperature, max_new_tokens=self.max_new_tokens)


@dataclass(frozen=True)
class ConstitutionalInputs:
    policy: Path  # a Hugging Face folder
    policy_id: str | None
    constitution: Path
    red_team: Path  # JSON lines of Prompt; those tagged with another task than "harmful" are left out
    helpful: Path | None  # those tagged "harmful" are left out; None: no helpful samples
    critic: Responder | None = None  # in place of config.critic


def run(config: ConstitutionalConfig, inputs: ConstitutionalInputs, runtime: Runtime) -> StageOutput:
    """Answer, criticise, revise, and learn the revisions (Bai et al. 2022, sec. 3, arXiv:2212.08073).

    Writes model/, revisions.jsonl (RevisedAnswer: everything said on the way) and demonstrations.jsonl (Demonstration:
    what was learned).

    Raises:
        DataError: there are no prompts, one leaves no room for an answer, or no revision is of use.
    """
    constitution = load_constitution(inputs.constitution)
    tokenizer, model = load_tokenizer(inputs.policy), load_causal_lm(inputs.policy, runtime.device)
    check_max_length(runtime.stage, config.max_length, model)
    policy = LocalResponder(
        make_engine(model, tokenizer, runtime.log_once), "policy", inputs.policy_id, context_length(model)
    )
    voices = Voices(policy, inputs.policy_id, inputs.critic or open_critic(config, policy, runtime))

    red_team = red_team_prompts(inputs.red_team)[: config.prompts]
    revised = revise_all(red_team, constitution, voices, config, runtime.beside(runtime.scratch / "revisions"))
    write_records(runtime.output / "revisions.jsonl", revised)
    kept, flaws = usable(revised, runtime)
    count = round(len(kept) * config.helpful_share / (1 - config.helpful_share))
    helpful = []
    if count and inputs.helpful is not None:
        aside = runtime.beside(runtime.scratch / "helpful")
        helpful = answer_helpfully(helpful_prompts(inputs.helpful), count, policy, config, aside)

    learned, examples, too_long = fitting([*kept, *helpful], tokenizer, config)
    write_records(runtime.output / "demonstrations.jsonl", learned)
    model = make_trainable(model, config.trainable, runtime.seed_for("adapters"))
    order_seed, pad_id = runtime.seed_for("order"), int(tokenizer.pad_token_id)
    fitted = fit_examples(model, examples, config, runtime, order_seed=order_seed, pad_id=pad_id)
    save_model(model, tokenizer, runtime.output / "model")
    counts = {"prompts": len(red_team), "revised": len(kept), "dropped": flaws, "helpful": len(helpful)}
    trained = {"too_long": too_long, "examples": len(examples), "steps": fitted.steps}
    return StageOutput(counts | trained | {"changed_share": changed_share(revised)})


def open_critic(config: ConstitutionalConfig, policy: LocalResponder, runtime: Runtime) -> Responder:
    """Raises ConfigError for a model of this machine that is no chat model."""
    critic = policy if config.critic is None else config.critic.open(runtime.device, runtime.log_once)
    if isinstance(critic, LocalResponder) and critic.engine.tokenizer.chat_template is None:
        # Without turns an answer could say what the manager says.
        raise ConfigError(
            f"{runtime.stage}: the critic {critic.name} has no chat template, so that an answer could pass for a "
            "critique request; name a chat model in constitutional.critic, or fine-tune this one first"
        )
    return critic


def red_team_prompts(path: Path) -> list[Prompt]:
    """Raises DataError where there is none."""
    found = [prompt for prompt in read_records(path, Prompt).records if prompt.tags.get("task", HARMFUL) == HARMFUL]
    if not found:
        raise DataError(f"{path}: no prompt is tagged with the task {HARMFUL}, nor without a task; give some")
    return found


def helpful_prompts(path: Path) -> list[Prompt]:
    """Raises DataError where there is none."""
    found = [prompt for prompt in read_records(path, Prompt).records if prompt.tags.get("task") != HARMFUL]
    if not found:
        raise DataError(f"{path}: every prompt is tagged {HARMFUL}; give harmless ones, or set helpful_share to 0")
    return found


def usable(revised: Sequence[RevisedAnswer], runtime: Runtime) -> tuple[list[Demonstration], dict[str, int]]:
    """The final revisions to learn from, and how many answers were dropped, by the reason.

    Raises:
        DataError: none is left.
    """
    flaws = Counter(one.flaw for one in revised)
    dropped = {str(flaw): flaws[flaw] for flaw in sorted(set(flaws) - {None}, key=str)}
    reasons = ", ".join(f"{count} {flaw.replace('_', ' ')}" for flaw, count in dropped.items())
    if not flaws[None]:
        raise DataError(
            f"the critic revised none of {len(revised)} answers to any use ({reasons}); look at "
            f"{runtime.output / 'revisions.jsonl'}, and give a critic that can criticise"
        )
    if dropped:
        runtime.log(f"{sum(dropped.values())} of {len(revised)} answers have no revision to learn from ({reasons})")
    kept = [
        Demonstration(id=f"{one.id}/revised", prompt=one.prompt, response=one.final, annotator=f"{AI}{one.critic}")
        for one in revised
        if one.flaw is None
    ]
    return kept, dropped


def fitting(
    given: Sequence[Demonstration], tokenizer: Any, config: ConstitutionalConfig
) -> tuple[list[Demonstration], list[Example], int]:
    """Those that fit max_length, as records and as tokens, and how many do not.

    Raises:
        DataError: none does.
    """
    examples = encode_examples(tokenizer, [one.prompt for one in given], [one.response for one in given])
    fits = [i for i, example in enumerate(examples) if example.length <= config.max_length]
    if not fits:
        raise DataError(f"no revision fits max_length = {config.max_length} with its prompt; raise it")
    return [given[i] for i in fits], [examples[i] for i in fits], len(given) - len(fits)


def changed_share(revised: Sequence[RevisedAnswer]) -> dict[str, float]:
    """By principle, the share of its turns that changed the answer."""
    turns: dict[str, list[bool]] = {}
    for answer in revised:
        for one in answer.revisions:
            turns.setdefault(one.principle, []).append(one.flaw is None)
    return {principle: sum(changed) / len(changed) for principle, changed in sorted(turns.items())}


def bind(config: ConstitutionalConfig, artifacts: Mapping[str, Artifact]) -> ConstitutionalInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways, or the world writes no constitution: its models cannot
            criticise.
    """
    made, world = artifacts.get("policy"), artifacts.get("world")
    if config.constitution is None and world is not None and "critique" not in world.manifest.config["skills"]:
        raise ConfigError(
            "constitutional has no constitution; set world.skills to [critique], which brings one, or name a file in "
            "constitutional.constitution"
        )
    policy = chosen_input("constitutional.policy", config.policy, made, "model", "an sft section")

    def of_the_world(setting: str, path: Path | None, file: str) -> Path:
        return chosen_input(f"constitutional.{setting}", path, None if path else world, file, "a world section")

    prompts = "prompts_train.jsonl"
    return ConstitutionalInputs(
        policy=policy,
        policy_id=id_of_file(policy) if made is None else made.id,
        constitution=of_the_world("constitution", config.constitution, "constitution.yaml"),
        red_team=of_the_world("red_team_file", config.red_team_file, prompts),
        helpful=of_the_world("helpful_file", config.helpful_file, prompts) if config.helpful_share else None,
    )


def files(config: ConstitutionalConfig) -> list[Path]:
    critic = None if config.critic is None else config.critic.path
    paths = (config.policy, config.constitution, config.red_team_file, config.helpful_file, critic)
    return [path for path in paths if path is not None]


STAGE = Stage(
    "constitutional",
    ConstitutionalConfig,
    needs={"policy": POLICIES, "world": ("world",)},
    bind=bind,
    run=run,
    files=files,
)
