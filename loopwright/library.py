"""The training stages as calls on a model and tokenizer in memory.

    from loopwright import best_of, dpo, kto, ppo, rejection, reward_model, sft  # and the others of `__all__`

Each call snapshots what it is given into a folder, runs the same stage as the command line, and loads what
comes out: the given model is never changed. Settings are those of the stage's section in a YAML file, but for those
that name what the arguments bring. Bars in `require` raise RequirementError where they are missed.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.config.loader import build
from loopwright.data.readers import write_records
from loopwright.errors import ConfigError, DataError
from loopwright.generation.base import SamplingConfig
from loopwright.generation.engines import make_engine
from loopwright.kernels.choice import choose
from loopwright.models.loading import load_causal_lm, load_reward_model, load_tokenizer, save_model
from loopwright.rewards import CallableReward, Merged, Reward, RewardModel
from loopwright.rewards.picking import Picked, pick_best
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import (
    KINDS,
    Attack,
    Comparison,
    Correction,
    Demonstration,
    Judgement,
    Message,
    Prompt,
    Ranking,
    Rating,
    Thumb,
)
from loopwright.stages import conditioned as conditioned_stage
from loopwright.stages import dpo as dpo_stage
from loopwright.stages import hindsight as hindsight_stage
from loopwright.stages import kto as kto_stage
from loopwright.stages import ppo as ppo_stage
from loopwright.stages import ppo_config
from loopwright.stages import rejection as rejection_stage
from loopwright.stages import rest as rest_stage
from loopwright.stages import reward as reward_stage
from loopwright.stages import sft as sft_stage
from loopwright.stages.base import StageConfig, StageOutput, check_requirements
from loopwright.stages.sampled import SampledConfig, SampledInputs

RewardLike = Reward | Callable[[list[str], list[str]], Sequence[float]]
Rewards = RewardLike | Sequence[tuple[RewardLike, float]]
R = TypeVar("R", bound=BaseModel)
C = TypeVar("C", bound=StageConfig)
OTHERS = (Ranking, Rating, Correction)  # that order answers as comparisons do
AGES = "earlier_rounds_weight"
DIRECT = ("policy", "feedback", "kinds", "max_bad_share", AGES)  # settings of dpo and kto that only recipes use
SAMPLED = ("policy", "reward")  # and of the stages that sample
_SHAPES: dict[tuple[type, ...], str] = {
    (str,): "text",
    (str, str): "pair (prompt, response)",
    (str, str, str): "triple (prompt, better response, worse response)",
    (str, str, bool): "triple (prompt, response, True where it is liked)",
}


class Trained(NamedTuple):
    """What a call gives back."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    metrics: dict[str, Any]


def sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Demonstration | tuple[str, str]],
    *,
    seed: int = 0,
    folder: Path | None = None,
    **settings: Any,
) -> Trained:
    """Fine-tune on demonstrations: records, or (prompt, response) texts. `settings`: docs/sft.md.

    Args:
        folder: keeps checkpoints and metrics, so that the same call goes on after a crash; None: a temporary one.
    """
    config = _settings(sft_stage.SFTConfig, settings, "sft", idle_here=("max_bad_share",))
    records = _records(demonstrations, "demonstrations", (Demonstration,), _demonstration, parts=(str, str))
    with _workplace("sft", seed, folder, model, tokenizer, [config, *records]) as (runtime, start):
        path = start.parent / "demonstrations.jsonl"
        write_records(path, records)
        output = sft_stage.run(config, sft_stage.SFTInputs(start, path, config.text), runtime)
        return _trained(runtime, config, output)


def reward_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Sequence[Judgement | tuple[str, str, str]],
    *,
    seed: int = 0,
    folder: Path | None = None,
    **settings: Any,
) -> tuple[RewardModel, dict[str, Any]]:
    """Train a reward model and give its metrics, too. `settings`: docs/reward.md.

    Args:
        comparisons: (prompt, better response, worse response) texts; or records, of the other kinds, too.
    """
    config = _settings(reward_stage.RewardConfig, settings, "reward", idle_here=("feedback", "kinds", AGES))
    kinds = (Comparison, *OTHERS, Thumb, Attack)
    records = _records(comparisons, "comparisons", kinds, _comparison, parts=(str, str, str))
    with _workplace("reward", seed, folder, model, tokenizer, [config, *records]) as (runtime, start):
        output = reward_stage.run(config, reward_stage.RewardInputs(start, **_by_kind(records)), runtime)
        check_requirements("reward", config.require, output.metrics)
        trained = runtime.output / "model"
        return RewardModel(load_reward_model(trained, runtime.device), load_tokenizer(trained)), output.metrics


def dpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Sequence[Judgement | tuple[str, str, str]],
    *,
    seed: int = 0,
    folder: Path | None = None,
    **settings: Any,
) -> Trained:
    """Improve a model on pairs of answers without a reward model; the reference is the model as given.

    `settings`: docs/dpo.md.

    Args:
        comparisons: (prompt, better response, worse response) texts; or records, of rankings, ratings and corrections,
            too.
    """
    config = _settings(dpo_stage.DPOConfig, settings, "dpo", idle_here=DIRECT)
    records = _records(comparisons, "comparisons", (Comparison, *OTHERS), _comparison, parts=(str, str, str))
    with _workplace("dpo", seed, folder, model, tokenizer, [config, *records]) as (runtime, start):
        output = dpo_stage.run(config, dpo_stage.DPOInputs(start, _by_kind(records)), runtime)
        return _trained(runtime, config, output)


def kto(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    thumbs: Sequence[Judgement | tuple[str, str, bool]],
    *,
    seed: int = 0,
    folder: Path | None = None,
    **settings: Any,
) -> Trained:
    """Improve a model on answers that were liked or not; the reference is the model as given. `settings`: docs/kto.md.

    Args:
        thumbs: (prompt, response, whether it was liked); or records, of the other kinds, too, which become thumbs.
    """
    config = _settings(kto_stage.KTOConfig, settings, "kto", idle_here=DIRECT)
    kinds = (Thumb, Comparison, *OTHERS, Attack)
    records = _records(thumbs, "thumbs", kinds, _thumb, parts=(str, str, bool))
    with _workplace("kto", seed, folder, model, tokenizer, [config, *records]) as (runtime, start):
        output = kto_stage.run(config, kto_stage.KTOInputs(start, _by_kind(records)), runtime)
        return _trained(runtime, config, output)


def _improver(kind: type[ppo_config.PolicyConfig]) -> Callable[..., Trained]:
    """The call of one of the stages that improve a policy against a reward: they differ in their settings alone."""

    def improve(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt | str],
        rewards: Rewards,
        *,
        held_out_rewards: Sequence[RewardLike] = (),
        seed: int = 0,
        folder: Path | None = None,
        **settings: Any,
    ) -> Trained:
        """Improve a model against rewards; the frozen reference is the model as given, unless `reference` in the
        settings names a folder. `settings`: docs/{0}.md.

        Args:
            rewards: one, or several with their weights. A reward is a `RewardModel`, or a function of the lists of
                prompts and responses that gives a number for each. `merge` in the settings says how several become
                one (docs/merging.md); without it they are summed. Or a `Merged`.
            held_out_rewards: what `watch` looks with, in place of folders: rewards that know other labels.
        """
        config = _settings(kind, settings, kind.section, idle_here=SAMPLED)
        if config.reference == "start":
            raise ConfigError("reference = start is the model that a recipe's rounds begin with; name a folder")
        given, records = _merged(rewards), _prompts(prompts)
        looking = [_reward(reward) for reward in held_out_rewards]
        with _workplace(kind.section, seed, folder, model, tokenizer, [config, *records]) as (runtime, start):
            inputs = ppo_stage.PPOInputs(
                start,
                given,
                records,
                reference=config.reference,
                ptx_text=config.ptx_text,
                held_out_rewards=looking,
            )
            return _trained(runtime, config, ppo_stage.run(config, inputs, runtime))

    improve.__name__ = improve.__qualname__ = kind.section
    improve.__doc__ = (improve.__doc__ or "").replace("{0}", kind.section)
    return improve


ppo = _improver(ppo_config.PPOConfig)
rloo = _improver(ppo_config.RLOOConfig)
grpo = _improver(ppo_config.GRPOConfig)
reinforce_plus_plus = _improver(ppo_config.ReinforcePlusPlusConfig)


def _self_taught(
    kind: type[SampledConfig], run: Callable[[Any, SampledInputs, Runtime], StageOutput]
) -> Callable[..., Trained]:
    """The call of one of the stages that learn a model's own answers: they differ in their settings alone."""

    def learn(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt | str],
        rewards: Rewards,
        *,
        seed: int = 0,
        folder: Path | None = None,
        **settings: Any,
    ) -> Trained:
        """Fine-tune a model on its own answers, by their scores. `settings`: docs/{0}.md; the rest as in `ppo`."""
        config = _settings(kind, settings, kind.section, idle_here=SAMPLED)
        given, records = _merged(rewards), _prompts(prompts)
        with _workplace(kind.section, seed, folder, model, tokenizer, [config, *records]) as (runtime, start):
            return _trained(runtime, config, run(config, SampledInputs(start, given, records), runtime))

    learn.__name__ = learn.__qualname__ = kind.section
    learn.__doc__ = (learn.__doc__ or "").replace("{0}", kind.section)
    return learn


def _reject(config: rejection_stage.RejectionConfig, given: SampledInputs, runtime: Runtime) -> StageOutput:
    inputs = rejection_stage.RejectionInputs(**vars(given), earlier=config.earlier)
    return rejection_stage.run(config, inputs, runtime)


rejection = _self_taught(rejection_stage.RejectionConfig, _reject)
rest = _self_taught(rest_stage.RestConfig, rest_stage.run)
hindsight = _self_taught(hindsight_stage.HindsightConfig, hindsight_stage.run)
conditioned = _self_taught(conditioned_stage.ConditionedConfig, conditioned_stage.run)


def best_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt | str],
    rewards: Rewards,
    *,
    n: int = 16,
    seed: int = 0,
    **sampling: Any,
) -> list[Picked]:
    """Answer each prompt n times and give the answer that scores highest; nothing is trained.

    Args:
        sampling: `max_new_tokens`, `temperature`, ... (docs/generation.md).
    """
    if n < 1:
        raise ConfigError(f"n = {n} leaves no answer to give; set it to 1 or more")
    given, config = _merged(rewards), build(SamplingConfig, sampling, "best_of")
    if n > 1 and config.temperature == 0:
        raise ConfigError(
            f"n = {n} has no effect with temperature = 0, where all answers are the same; set n = 1 or raise it"
        )
    reward = given if isinstance(given, Merged) else Merged(given)
    return pick_best(make_engine(model, tokenizer, warnings.warn), reward, _prompts(prompts), n, config, seed)


def _prompts(given: Sequence[Prompt | str]) -> list[Prompt]:
    return _records(given, "prompts", (Prompt,), lambda i, text: Prompt.user(f"prompt-{i}", text), parts=(str,))


def _merged(rewards: Rewards) -> Merged | list[tuple[Reward, float]]:
    """Rewards with their weights, or what merges them."""
    if isinstance(rewards, Merged):
        return rewards
    return _weighted(rewards if isinstance(rewards, Sequence) else [(rewards, 1.0)])


@contextmanager
def _workplace(
    stage: str,
    seed: int,
    folder: Path | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    given: Sequence[BaseModel],
) -> Iterator[tuple[Runtime, Path]]:
    """A runtime on the model's device, and the folder of the model as it was given.

    The same call finds its own checkpoint again; one with other settings, data or weights has a place of its own.
    """
    for name, loader, one in (("model", "AutoModelForCausalLM", model), ("tokenizer", "AutoTokenizer", tokenizer)):
        if not hasattr(one, "save_pretrained"):
            raise ConfigError(f"{name} is {one!r:.60}; load one with transformers.{loader}.from_pretrained(folder)")
    with tempfile.TemporaryDirectory() as temporary:
        start = Path(temporary) / "start"
        save_model(model, tokenizer, start)
        digest = hashlib.sha256(f"{seed}{[record.model_dump_json() for record in given]}".encode())
        for file in sorted(start.iterdir()):
            digest.update(file.read_bytes())
        work = Path(temporary if folder is None else folder) / f"{stage}-{digest.hexdigest()[:12]}"
        runtime = Runtime.temporary(work, stage=stage, seed=seed)
        choose(work)
        runtime.device = model.device
        yield runtime, start


def _settings(kind: type[C], settings: dict[str, Any], section: str, *, idle_here: Sequence[str]) -> C:
    """The config of a stage; raises ConfigError where a setting is not known, or is one that only recipes use."""
    config = build(kind, settings, section)
    if idle := [name for name in idle_here if name in config.model_fields_set]:
        raise ConfigError(f"{section}: {idle[0]} has no effect on what is given in memory; leave it out")
    return config


def _trained(runtime: Runtime, config: StageConfig, output: StageOutput) -> Trained:
    """Raises RequirementError where a bar of `require` is missed."""
    check_requirements(runtime.stage, config.require, output.metrics)
    folder = runtime.output / "model"
    return Trained(load_causal_lm(folder, runtime.device), load_tokenizer(folder), output.metrics)


def _by_kind(records: Sequence[Judgement]) -> dict[str, Any]:
    """Kind -> the records of it, in their order."""
    sorted_out = {kind: [one for one in records if isinstance(one, record)] for kind, record in KINDS.items()}
    return {kind: own for kind, own in sorted_out.items() if own}


def _records(
    given: Sequence[Any], what: str, kinds: tuple[type[R], ...], make: Callable[..., R], *, parts: tuple[type, ...]
) -> list[R]:
    """Records of these kinds as they are, and what is given as its parts, of these types, made into records.

    Raises:
        DataError: there are none, or one is something else.
    """
    wanted = f"{', '.join(kind.__name__ for kind in kinds)} or {_SHAPES[parts]}"
    if isinstance(given, str) or not len(given):
        raise DataError(f"{what} is {given!r:.60}; give a list of at least one {wanted}")
    records = []
    for number, item in enumerate(given):
        found = (item,) if isinstance(item, str) else item
        if isinstance(item, kinds):
            records.append(item)
        elif isinstance(found, tuple | list) and len(found) == len(parts) and all(map(isinstance, found, parts)):
            records.append(make(number, *found))
        else:
            raise DataError(f"{what}[{number}] is {item!r:.60}; give a {wanted}")
    return records


def _demonstration(number: int, prompt: str, response: str) -> Demonstration:
    return Demonstration(id=str(number), prompt=(Message(role="user", content=prompt),), response=response)


def _comparison(number: int, prompt: str, better: str, worse: str) -> Comparison:
    message = Message(role="user", content=prompt)
    return Comparison(id=str(number), prompt=(message,), responses=(better, worse), choice=0)


def _thumb(number: int, prompt: str, response: str, good: bool) -> Thumb:
    return Thumb(id=str(number), prompt=(Message(role="user", content=prompt),), responses=(response,), good=good)


def _weighted(given: Sequence[Any]) -> list[tuple[Reward, float]]:
    """Raises ConfigError when something is no reward with a weight."""
    if not given:
        raise ConfigError("rewards is empty; give at least one reward, such as a function of prompts and responses")
    for number, item in enumerate(given):
        pair = item if isinstance(item, tuple) and len(item) == 2 else (None, None)
        if not (callable(pair[0]) or isinstance(pair[0], Reward)) or not isinstance(pair[1], int | float):
            raise ConfigError(
                f"rewards[{number}] is {item!r:.60}; give (reward, weight), the reward a RewardModel or a function"
            )
    return [(_reward(reward), float(weight)) for reward, weight in given]


def _reward(given: RewardLike) -> Reward:
    return given if isinstance(given, Reward) else CallableReward(given, getattr(given, "__name__", "function"))
