"""Improve a policy against a reward, held near a frozen reference. docs/ppo.md has the algorithm and every detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from pydantic import PositiveInt, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.chat import render_prompts
from loopwright.data.openings import openings
from loopwright.data.readers import read_records, read_texts
from loopwright.data.splits import split_by_hash
from loopwright.errors import ConfigError, DataError
from loopwright.generation.base import Engine, Rollouts, SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.adapters import over_base
from loopwright.models.heads import Critic, head_of, reward_model_from
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.sharing import share_frozen
from loopwright.models.tokens import context_length, forbidden_token_ids, match_vocabulary
from loopwright.rewards import Reward, RewardModel, Sample, Scores, WeightedSum
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages.base import Stage, StageConfig, StageOutput, chosen_input
from loopwright.tracking.artifacts import Artifact
from loopwright.training import ppo_checks
from loopwright.training.ppo_batch import Episodes, Observations, as_learned, prompts_of_step, token_kl, with_advantages
from loopwright.training.ppo_config import PPOSettings
from loopwright.training.ppo_learner import PPOLearner
from loopwright.training.precision import in_precision

LAST_STEPS = 10  # the final figures are means over this many steps: one step's are noisy
SUMMARISED = ("score", "reward", "kl", "kl_coef", "entropy", "length_tokens", "finished_share")


class PPOConfig(PPOSettings, StageConfig):
    """The `ppo` section of a recipe. The paths stand in for stages that the recipe does not have."""

    policy: Path | None = None  # a Hugging Face folder of a causal LM
    reward: Path | None = None  # a Hugging Face folder of a one-label sequence classifier
    prompts: Path | None = None  # jsonl of Prompt; without it and a world: openings of the pre-training text
    opening_tokens: PositiveInt = 32

    @model_validator(mode="after")
    def _openings_are_used(self) -> Self:
        if self.prompts is not None and "opening_tokens" in self.model_fields_set:
            raise ValueError("opening_tokens has no effect beside prompts; leave one out")
        return self


@dataclass(frozen=True)
class PPOInputs:
    policy: Path
    reward: Path | Sequence[tuple[Reward, float]]  # a reward model's folder, or rewards with weights
    prompts: Path | Sequence[Prompt] = ()
    critic: Path | None = None  # a reward model's folder; None: the reward model, or else the policy's body
    texts: Path | None = None  # documents {"text"} whose openings are the prompts, in place of `prompts`


def run(config: PPOConfig, inputs: PPOInputs, runtime: Runtime) -> StageOutput:
    """Improve a policy against a reward (Ouyang et al. 2022, sec. 3.5)."""
    tokenizer = load_tokenizer(inputs.policy)
    policy = load_causal_lm(inputs.policy, runtime.device)
    tasks, held_out = hold_out(load_prompts(config, inputs, tokenizer, policy), config, runtime)
    reward = load_reward(inputs, runtime)
    learner = make_learner(config, inputs, reward, policy, tokenizer, runtime)
    engine = make_engine(learner.policy, tokenizer, runtime.log)  # reads the learner's weights: nothing is copied
    sampling = SamplingConfig(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    start, recent = resume(learner, runtime)  # also cuts the metrics back to the checkpoint

    with runtime.progress("ppo", config.steps, start) as bar:
        for step in range(start, config.steps):
            batch = tasks_of_step(tasks, step, config, runtime)
            seeds = [runtime.seed_for("rollout", step, row) for row in range(len(batch))]
            rollouts = engine.generate([task.tokens for task in batch], sampling, seeds)
            scored = score(reward, batch, rollouts, tokenizer)
            episodes = learner.prepare(Episodes.of(rollouts, runtime.device))
            observed = learner.observe(episodes)
            check(learner, reward, scored, episodes, observed, step)

            kl_coef = learner.controller.coefficient
            experience, figures = with_advantages(
                episodes, observed, (scored.scores.total, scored.scores.per_token), kl_coef, config
            )
            figures = learner.update(experience, step, partial(runtime.seed_for, "epoch", step)) | figures
            learner.controller.update(figures["kl"], len(batch))  # after training, as in Ziegler et al. 2019

            figures |= {"kl_coef": kl_coef, **scored.figures}
            recent = [*recent[1 - LAST_STEPS :], {name: figures[name] for name in SUMMARISED}]
            done, last = step + 1, step + 1 == config.steps
            if done % config.log_steps == 0 or last:
                runtime.record(done, figures)
                ppo_checks.watch_sampler(figures["sampler_drift"], step, config.precision, runtime.log)
            if config.eval_steps is not None and (done % config.eval_steps == 0 or last):
                runtime.record(done, assess(learner, engine, reward, held_out, sampling, runtime))
            if done % config.save_steps == 0 or last:
                runtime.checkpoint(done, {"learner": learner.state(), "recent": recent})
            bar.advance(1, reward=figures["reward"], kl=figures["kl"])

    learner.restore()
    save_model(learner.policy, tokenizer, runtime.output / "model")
    learner.critic.save(tokenizer, runtime.output / "critic")
    return StageOutput(summarise(config, recent))


class Task(NamedTuple):
    """A prompt as a record and as tokens."""

    prompt: Prompt
    tokens: list[int]


class Scored(NamedTuple):
    """Responses as the reward saw them, and what it said."""

    samples: list[Sample]
    responses: list[str]
    scores: Scores
    figures: dict[str, float]


def load_prompts(
    config: PPOConfig, inputs: PPOInputs, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel
) -> list[Task]:
    """Prompts as tokens; each leaves room for a response.

    Raises:
        ConfigError: opening_tokens is written where nothing is opened, or longer than every document.
        DataError: there is none, or one is empty or does not fit the context with its response.
    """
    given = _given_prompts(config, inputs, tokenizer)
    if not given:
        raise DataError("PPO got no prompts; give at least one")
    rendered = render_prompts(tokenizer, [prompt.messages for prompt in given])
    tasks = [Task(prompt, tokens) for prompt, tokens in zip(given, rendered, strict=True)]
    limit = context_length(policy)
    for task in tasks:
        if not task.tokens:
            raise DataError(f"prompt {task.prompt.id!r} has no tokens; a response needs at least one to follow")
        if limit is not None and len(task.tokens) + config.max_new_tokens > limit:
            raise DataError(
                f"prompt {task.prompt.id!r} has {len(task.tokens)} tokens, which with max_new_tokens = "
                f"{config.max_new_tokens} exceeds the model's context of {limit}; shorten it or lower max_new_tokens"
            )
    return tasks


def _given_prompts(config: PPOConfig, inputs: PPOInputs, tokenizer: PreTrainedTokenizerBase) -> Sequence[Prompt]:
    if inputs.texts is None:
        if "opening_tokens" in config.model_fields_set:
            raise ConfigError("ppo.opening_tokens has no effect where prompts are given; leave it out")
        return read_records(inputs.prompts, Prompt).records if isinstance(inputs.prompts, Path) else inputs.prompts
    found = openings(tokenizer, [document.text for document in read_texts([inputs.texts])], config.opening_tokens)
    if not found:
        raise ConfigError(
            f"ppo.opening_tokens = {config.opening_tokens}: no document of the pre-training text is so long; "
            "lower it or set ppo.prompts"
        )
    return found


def hold_out(tasks: list[Task], config: PPOConfig, runtime: Runtime) -> tuple[list[Task], list[Task]]:
    """Prompts to train on, and prompts that are only assessed; a prompt that comes twice stays on one side.

    Raises:
        ConfigError: no prompt would be left to train on.
    """
    if config.eval_steps is None:
        return tasks, []
    texts = [str(task.tokens) for task in tasks]
    if config.held_out_prompts >= len(set(texts)):
        raise ConfigError(
            f"ppo.held_out_prompts = {config.held_out_prompts}, but only {len(set(texts))} prompts differ and some are "
            "to be trained on; lower it, or leave ppo.eval_steps out"
        )
    split = split_by_hash(texts, config.held_out_prompts / len(texts), runtime.seed_for("held out"))
    return [tasks[i] for i in split.train], [tasks[i] for i in split.held_out]


def load_reward(inputs: PPOInputs, runtime: Runtime) -> WeightedSum:
    """The rewards to sum, each with its weight."""
    if isinstance(inputs.reward, Path):
        return WeightedSum([(RewardModel(inputs.reward, device=runtime.device), 1.0)])
    return WeightedSum(list(inputs.reward))


def make_learner(
    config: PPOConfig,
    inputs: PPOInputs,
    reward: WeightedSum,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
) -> PPOLearner:
    """Policy and reference from one folder; the critic from the reward model (Stiennon et al. 2020, app. G.1)."""
    loaded = reward.rewards[0][0] if isinstance(inputs.reward, Path) else None  # nobody else holds it
    reason = None
    if isinstance(loaded, RewardModel):
        assert isinstance(inputs.reward, Path)
        reason = lay_over(policy, loaded, inputs.reward, config)
    critic = start_critic(config, inputs, reward, policy, tokenizer, runtime)
    embeddings: Any = policy.get_input_embeddings()  # may have more rows than the tokenizer has tokens
    forbidden = forbidden_token_ids(tokenizer, embeddings.num_embeddings)
    learner = PPOLearner(policy, critic, forbidden, config, runtime.seed_for("adapters"), runtime.scratch)
    reasons = {"the critic": learner.critic_shares}
    if isinstance(loaded, RewardModel):
        in_precision(loaded.model.requires_grad_(False), config.precision)
        reasons["the reward model"] = reason or share_frozen(loaded.model, learner.policy)
        share_frozen(loaded.model, learner.critic.model)
    for name, why in reasons.items():
        if why is not None and config.trainable.mode != "all":
            runtime.log(f"{name} keeps weights of its own beside the policy's: {why}")
    return learner


def lay_over(policy: PreTrainedModel, loaded: RewardModel, folder: Path, config: PPOConfig) -> str | None:
    """Let a reward model that was trained with LoRA over the policy's base read it again, or say why not."""
    if config.trainable.mode != "lora":
        return None
    found = over_base(loaded.model, folder, policy)
    if isinstance(found, str):
        return found
    loaded.model = found
    return None


def start_critic(
    config: PPOConfig,
    inputs: PPOInputs,
    reward: WeightedSum,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
) -> Critic:
    """From the folder that is named, the first reward model that reads the policy's tokens, or the policy's body.

    A head on the policy's body starts at 0 (lm-human-preferences): no value is better than a made-up one.

    Raises:
        ConfigError: the folder that is named does not read the policy's tokens.
    """
    models = [part for part, _ in reward.rewards if isinstance(part, RewardModel)]
    if inputs.critic is not None:
        models = [RewardModel(inputs.critic, device=runtime.device)]
        if not models[0].reads(tokenizer):
            raise ConfigError(
                f"ppo.critic = {inputs.critic} has another tokenizer or chat template than the policy and would read "
                "other text; name a reward model made from the policy's model, or leave critic out"
            )
        lay_over(policy, models[0], inputs.critic, config)
    for model in models:
        if model.reads(tokenizer):
            critic = Critic.from_reward_model(model.model)
            match_vocabulary(critic.model, tokenizer)  # it also reads the policy's padding
            return critic
    body = reward_model_from(policy, seed=0)
    with torch.no_grad():
        head_of(body).weight.zero_()
    return Critic(body)


def resume(learner: PPOLearner, runtime: Runtime) -> tuple[int, list[dict[str, float]]]:
    """The step to go on from and the figures of the steps before it."""
    found = runtime.restore()
    if found is None:
        return 0, []
    learner.load(found.state["learner"])
    return found.step, found.state["recent"]


def score(reward: WeightedSum, tasks: Sequence[Task], rollouts: Rollouts, tokenizer: PreTrainedTokenizerBase) -> Scored:
    """Score what was sampled, and count it."""
    responses = decode_responses(tokenizer, rollouts)
    samples = [
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
    scores = reward.score(samples)
    figures = {
        "score": scores.total.mean().item(),
        "score_std": scores.total.std(correction=0).item(),
        "length_tokens": rollouts.response_mask.sum(1).float().mean().item(),
        "finished_share": rollouts.finished.float().mean().item(),
    }
    if len(scores.parts) > 1:
        figures |= {f"score_{name}": part.mean().item() for name, part in scores.parts.items()}
    return Scored(samples, responses, scores, figures)


def tasks_of_step(tasks: Sequence[Task], step: int, config: PPOConfig, runtime: Runtime) -> list[Task]:
    """The prompts of a step: a pure function of seed and step."""
    chosen = prompts_of_step(len(tasks), step, config.rollouts_per_step, partial(runtime.seed_for, "prompts"))
    return [tasks[i] for i in chosen]


def check(
    learner: PPOLearner,
    reward: WeightedSum,
    scored: Scored,
    episodes: Episodes,
    observed: Observations,
    step: int,
) -> None:
    """Scores can be learned from; before the first update KL is 0, and padding changes no model's result."""
    precision = learner.config.precision
    ppo_checks.check_scores(scored.scores.total, scored.responses, first=step == 0)
    if observed.policy_logprobs is not None:  # else the update looks when it has them
        ppo_checks.check_ratio_is_one((observed.policy_logprobs - episodes.logprobs)[episodes.mask], step, precision)
    if step > 0:
        return
    ppo_checks.check_reference_is_policy(episodes, observed.reference_logprobs, precision)
    ppo_checks.check_padding(learner, episodes._replace(below=None), precision)
    few = scored.samples[: ppo_checks.PADDED_ROWS]
    for part, _ in reward.rewards:
        if isinstance(part, RewardModel):
            alone = torch.cat([part.score([sample]).total for sample in few])
            ppo_checks.check_reward_padding(part.name, part.score(few).total, alone, precision)


def assess(
    learner: PPOLearner,
    engine: Engine,
    reward: WeightedSum,
    held_out: Sequence[Task],
    sampling: SamplingConfig,
    runtime: Runtime,
) -> dict[str, float]:
    """Figures of one response to each held-out prompt. The seeds never change: only the weights move the figures."""
    seeds = [runtime.seed_for("held out", row) for row in range(len(held_out))]
    rollouts = engine.generate([task.tokens for task in held_out], sampling, seeds)
    scored = score(reward, held_out, rollouts, engine.tokenizer)
    episodes = learner.prepare(Episodes.of(rollouts, runtime.device))
    observed = learner.observe(episodes)
    kl = token_kl(as_learned(episodes, observed, learner.config)[0], observed).sum(1).mean().item()
    return {
        "held_out_score": scored.figures["score"],
        "held_out_kl": kl,
        "held_out_length_tokens": scored.figures["length_tokens"],
    }


def summarise(config: PPOConfig, recent: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over the last steps."""
    figures = {name: sum(step[name] for step in recent) / len(recent) for name in SUMMARISED}
    return {"steps": config.steps, "responses_sampled": config.steps * config.rollouts_per_step, **figures}


def bind(config: PPOConfig, artifacts: Mapping[str, Artifact]) -> PPOInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one of the three is given neither way, or both ways.
    """
    world, text = artifacts.get("world"), artifacts.get("text")
    opened = text if world is None and config.prompts is None else None  # PPO learns on text that was trained on
    return PPOInputs(
        policy=chosen_input("ppo.policy", config.policy, artifacts.get("policy"), "model", "an sft section"),
        reward=chosen_input("ppo.reward", config.reward, artifacts.get("reward"), "model", "a reward section"),
        prompts=chosen_input("ppo.prompts", config.prompts, world, "prompts_train.jsonl", "a world or pretrain section")
        if opened is None
        else (),
        texts=None if opened is None else opened.file("text.jsonl.gz"),
    )


STAGE = Stage(
    name="ppo",
    config=PPOConfig,
    needs={"policy": ("sft", "pretrain"), "reward": ("reward",), "world": ("world",), "text": ("pretrain",)},
    bind=bind,
    run=run,
    files=lambda config: [path for path in (config.policy, config.reward, config.prompts) if path is not None],
)
