"""The rewards of a stage that samples: which they are, how they are loaded, and what they say of responses."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transformers import PreTrainedTokenizerBase

from loopwright.errors import ConfigError
from loopwright.generation.base import Engine, Rollouts, SamplingConfig, decode_responses
from loopwright.rewards import MergeConfig, Merged, Reward, RewardModel, Sample, Scores, WeightedSum
from loopwright.rewards.agreement import figures_of_parts
from loopwright.rewards.combine import check_fit, reward_models, unique
from loopwright.rewards.sources import RewardSource, load_source
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import chosen_input, finds_spans
from loopwright.stages.sampled_prompts import Task
from loopwright.tracking.artifacts import Artifact
from loopwright.training.ppo_batch import prompts_of_step

if TYPE_CHECKING:
    from loopwright.stages.sampled import SampledConfig, SampledInputs


class Scored(NamedTuple):
    """Responses as the reward saw them, and what it said."""

    samples: list[Sample]
    responses: list[str]
    scores: Scores
    figures: dict[str, float]


def chosen_rewards(config: SampledConfig, artifacts: Mapping[str, Artifact]) -> Path | tuple[RewardSource, ...]:
    """The one reward model, or the rewards to merge: those of the config, or else all that the recipe trains.

    Raises:
        ConfigError: there is none, one is given both ways, one that the recipe trains is not used, or their names are
            not those that the rule reads.
    """
    trained = {role: artifacts[role] for role in to_train_on(config, artifacts)}
    lone = trained.get("reward")
    if not config.rewards and set(trained) <= {"reward"} and (lone is None or _kind(lone) == "model" or config.reward):
        only = chosen_input(f"{config.section}.reward", config.reward, lone, "model", "a reward section")
        if "merge" in config.model_fields_set:
            raise _nothing_to_merge(config.section, "one reward model")
        return only
    _check_stages(config, trained)
    sources = config.rewards or tuple(RewardSource(kind=_kind(one), stage=name) for name, one in trained.items())
    check_fit(unique([one.title for one in sources]), [one.weight for one in sources], config.merge)
    policy = config.policy or (artifacts["policy"].file("model") if "policy" in artifacts else None)
    return tuple(
        _judged_by(source, policy)
        if source.stage is None
        else source.model_copy(
            update={"path": trained[source.stage].file("model"), "stage": None, "name": source.title}
        )
        for source in sources
    )


def _judged_by(source: RewardSource, policy: Path | None) -> RewardSource:
    """The same reward; a judge that names no model is the policy that training starts from, as in Lee et al. 2023."""
    if source.judge is None or source.judge.path is not None or source.judge.url is not None:
        return source
    return source.model_copy(update={"judge": source.judge.model_copy(update={"path": policy})})


def to_train_on(config: SampledConfig, roles: Iterable[str]) -> list[str]:
    rewards = [role for role in roles if role == "reward" or role.startswith("reward_")]
    return [role for role in rewards if role not in config.watching]


def _check_stages(config: SampledConfig, trained: Collection[str]) -> None:
    """Raise ConfigError where the config does not use just the reward stages of the recipe."""
    if config.reward is not None:
        raise ConfigError(
            f"{config.section}.reward = {config.reward} contradicts the stages {', '.join(trained)}, which make their "
            f"own; leave one out, or list all in {config.section}.rewards"
        )
    used = {source.stage for source in config.rewards} if config.rewards else set(trained)
    if unknown := sorted(used - {None, *trained}, key=str):
        raise ConfigError(
            f"{config.section}.rewards names the stage {unknown[0]}, which the recipe does not have; add that section"
        )
    if unused := sorted(set(trained) - used):
        raise ConfigError(
            f"{config.section}.rewards does not use the stage {unused[0]} that the recipe has; add {{kind: model, "
            f"stage: {unused[0]}}} to it, or drop the section"
        )


def _nothing_to_merge(section: str, what: str) -> ConfigError:
    return ConfigError(
        f"{section}.merge has no effect on {what}; leave it out, or list the rewards in {section}.rewards"
    )


def _kind(trained: Artifact) -> str:
    """What of KINDS a reward stage has made."""
    return "spans" if finds_spans(trained) else "model"


def load_reward(inputs: SampledInputs, runtime: Runtime, merge: MergeConfig | None = None) -> Merged:
    """The rewards, merged.

    Args:
        merge: how, where that was written; None: the sum of weight times score.

    Raises:
        ConfigError: nothing is there to merge, or the rewards do not fit the rule.
    """
    if isinstance(inputs.reward, Path | Merged):
        if merge is not None:
            what = "one reward model" if isinstance(inputs.reward, Path) else "rewards that are merged already"
            raise _nothing_to_merge(runtime.stage, what)
        if isinstance(inputs.reward, Merged):  # a new one: what it learned belongs to another run
            return Merged(inputs.reward.rewards, inputs.reward.merge, inputs.reward.name)
        return WeightedSum([(RewardModel(inputs.reward, device=runtime.device), 1.0)])
    merge = merge or MergeConfig()
    pairs = []
    for given in inputs.reward:
        if isinstance(given, RewardSource):
            pairs.append((load_source(given, runtime.device), given.weight))
            if merge.normalise is None and merge.how.normalises:
                merge = merge.model_copy(update={"normalise": True})
        else:
            pairs.append(given)
    return Merged(pairs, merge)


def own_models(inputs: SampledInputs, reward: Merged) -> list[tuple[RewardModel, Path]]:
    """The reward models that were loaded here, which nobody else holds, with their folders."""
    if isinstance(inputs.reward, Merged):
        return []
    given = [inputs.reward] if isinstance(inputs.reward, Path) else inputs.reward
    return [
        (model, folder)
        for one, (part, _) in zip(given, reward.rewards, strict=True)
        for model, folder in zip(reward_models(part), _folders(one), strict=False)
    ]


def _folders(given: Path | RewardSource | tuple[Reward, float]) -> Sequence[Path]:
    """Of the models that a reward was loaded from."""
    if isinstance(given, RewardSource):
        return given.paths or ([] if given.path is None else [given.path])
    return [given] if isinstance(given, Path) else []


def normalise(
    reward: Merged,
    tasks: Sequence[Task],
    engine: Engine,
    sampling: SamplingConfig,
    at_once: int,
    runtime: Runtime,
) -> None:
    """Measure each reward's mean and deviation on responses of the policy that training starts from."""
    count = reward.merge.reference_samples
    chosen = prompts_of_step(len(tasks), 0, count, partial(runtime.seed_for, "reference prompts"))
    samples: list[Sample] = []
    for first in range(0, count, at_once):
        batch = [tasks[i] for i in chosen[first : first + at_once]]
        seeds = [runtime.seed_for("reference", first + row) for row in range(len(batch))]
        rollouts = engine.generate([task.tokens for task in batch], sampling, seeds)
        samples += samples_of(batch, rollouts, engine.tokenizer, decode_responses(engine.tokenizer, rollouts))
    reward.normalise(samples)


def save_scales(reward: Merged, folder: Path) -> None:
    """normalisation.json: the mean and deviation that each reward's scores are read with."""
    if reward.scales:
        scales = {name: scale._asdict() for name, scale in reward.scales.items()}
        (folder / "normalisation.json").write_text(json.dumps(scales, indent=1), encoding="utf-8")


def score(reward: Merged, tasks: Sequence[Task], rollouts: Rollouts, tokenizer: PreTrainedTokenizerBase) -> Scored:
    """Score what was sampled, and count it."""
    responses = decode_responses(tokenizer, rollouts)
    samples = samples_of(tasks, rollouts, tokenizer, responses)
    scores = reward.score(samples)
    whole = scores.whole()
    figures = {
        "score": whole.mean().item(),
        "score_std": whole.std(correction=0).item(),
        "length_tokens": rollouts.response_mask.sum(1).float().mean().item(),
        "finished_share": rollouts.finished.float().mean().item(),
    }
    if scores.std is not None:
        figures["score_uncertainty"] = scores.std.mean().item()
    if len(scores.parts) > 1:
        figures |= figures_of_parts(scores.parts) | reward.shares(scores, samples)
    return Scored(samples, responses, scores, figures)


def samples_of(
    tasks: Sequence[Task], rollouts: Rollouts, tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]
) -> list[Sample]:
    """What rewards read."""
    return [
        Sample(
            prompt=task.prompt,
            response=response,
            prompt_ids=task.tokens,
            response_ids=rollouts.response_tokens(row),
            finished=bool(rollouts.finished[row]),
            tokenizer=tokenizer,
        )
        for row, (task, response) in enumerate(zip(tasks, responses, strict=True))
    ]
