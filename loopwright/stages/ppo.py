"""Improve a policy against a reward, held near a frozen reference. docs/ppo.md has the algorithm and every detail.

Its relatives that need no critic run the same code, with advantages of their own: docs/policy_gradients.md.

Its parts stand beside it: the settings in ppo_config.py, the prompts of a step in ppo_prompts.py, the models in
ppo_models.py, the watch in ppo_looks.py; prompts and rewards are those of every stage that samples (sampled.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.errors import ConfigError
from loopwright.generation.base import Engine, SamplingConfig
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.tokens import context_length
from loopwright.rewards import Merged, Reward
from loopwright.rewards.combine import reward_models
from loopwright.runtime.runtime import Runtime
from loopwright.stages import sampled
from loopwright.stages.base import POLICIES, Stage, StageOutput
from loopwright.stages.ppo_config import GRPOConfig, PolicyConfig, PPOConfig, ReinforcePlusPlusConfig, RLOOConfig
from loopwright.stages.ppo_looks import Watcher, load_held_out_rewards, watching_models
from loopwright.stages.ppo_models import make_learner
from loopwright.stages.ppo_prompts import hold_out, tasks_of_step
from loopwright.stages.sampled import SampledInputs
from loopwright.stages.sampled_prompts import Task, load_prompts
from loopwright.stages.sampled_rewards import Scored, load_reward, normalise, save_scales, score
from loopwright.tracking.artifacts import Artifact
from loopwright.training import ppo_checks
from loopwright.training.ppo_batch import Episodes, Observations, as_learned, token_kl, with_advantages
from loopwright.training.ppo_learner import PPOLearner
from loopwright.training.raw_text import RawText

LAST_STEPS = 10  # the final figures are means over this many steps: one step's are noisy
SUMMARISED = ("score", "reward", "kl", "kl_coef", "entropy", "length_tokens", "finished_share")


@dataclass(frozen=True)
class PPOInputs(SampledInputs):
    reference: Path | None = None  # a causal LM's folder; None: the policy's
    critic: Path | None = None  # of PPO, a reward model's folder; None: the reward model, or else the policy's body
    ptx_text: Path | None = None  # documents for ptx_coef
    held_out_rewards: Sequence[Reward] = ()  # that the watch looks with, in place of the folders in the config
    held_out_models: Mapping[str, Path] = field(default_factory=dict)  # or the folders of the stages named there


def run(config: PolicyConfig, inputs: PPOInputs, runtime: Runtime) -> StageOutput:
    """Improve a policy against a reward (Ouyang et al. 2022, sec. 3.5)."""
    tokenizer = load_tokenizer(inputs.policy)
    policy = load_causal_lm(inputs.policy, runtime.device)
    tasks, held_out = hold_out(load_prompts(config, inputs, tokenizer, policy), config, runtime)
    reward = load_reward(inputs, runtime, config.merge if "merge" in config.model_fields_set else None)
    held_out_rewards = load_held_out_rewards(config, inputs, reward, len(held_out), runtime)
    learner = make_learner(config, inputs, reward, policy, tokenizer, runtime)
    engine = make_engine(learner.policy, tokenizer, runtime.log)  # reads the learner's weights: nothing is copied
    raw_text = load_raw_text(config, inputs, policy, tokenizer, runtime)
    sampling = SamplingConfig(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    watcher = Watcher(config, held_out_rewards, learner, runtime)
    start, recent = resume(learner, reward, watcher, runtime)  # also cuts the metrics back to the checkpoint
    if reward.merge.normalise and not reward.scales:
        normalise(reward, tasks, engine, sampling, config.rollouts_per_step, runtime)

    def look(done: int) -> None:
        seen, figures = assess(learner, engine, reward, held_out, sampling, runtime)
        runtime.record(done, figures | watcher.look(done, seen, reward.unlearned(seen.scores), figures))

    if config.watch is not None and start == 0:
        look(0)  # what the others are compared to

    done = start
    with runtime.progress(runtime.stage, config.steps, start) as bar:
        for step in range(start, config.steps):
            if watcher.stopped:
                break
            batch = tasks_of_step(tasks, step, config, runtime)
            seeds = [runtime.seed_for("rollout", step, row) for row in range(len(batch))]
            rollouts = engine.generate([task.tokens for task in batch], sampling, seeds)
            scored = score(reward, batch, rollouts, tokenizer)
            episodes = learner.prepare(Episodes.of(rollouts, runtime.device))
            observed = learner.observe(episodes)
            check_step(learner, reward, scored, episodes, observed, step)

            kl_coef = learner.controller.coefficient
            experience, figures = with_advantages(
                episodes, observed, reward.to_learn_from(scored.scores), kl_coef, config
            )
            figures = learner.update(experience, step, partial(runtime.seed_for, "epoch", step), raw_text) | figures
            learner.controller.update(figures["kl"], len(batch))  # after training, as in Ziegler et al. 2019

            figures |= {"kl_coef": kl_coef, **scored.figures, **reward.learn(scored.scores)}
            recent = [*recent[1 - LAST_STEPS :], {name: figures[name] for name in summarised(reward)}]
            done, last = step + 1, step + 1 == config.steps
            if done % config.log_steps == 0 or last:
                runtime.record(done, figures)
                ppo_checks.watch_sampler(figures["sampler_drift"], step, config.precision, runtime.log)
            if config.assess_steps is not None and (done % config.assess_steps == 0 or last):
                look(done)
            if done % config.save_steps == 0 or last or watcher.stopped:
                state = {"learner": learner.state(), "reward": reward.state(), "recent": recent}
                runtime.checkpoint(done, state | {"watcher": watcher.state()})
            bar.advance(1, reward=figures["reward"], kl=figures["kl"])

    watcher.roll_back()
    learner.restore()
    save(learner, reward, tokenizer, runtime.output)
    return StageOutput(summarise(config, reward, recent, done) | watcher.summary())


def load_raw_text(
    config: PolicyConfig,
    inputs: PPOInputs,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
) -> RawText | None:
    """What joins the minibatches, where ptx_coef asks for it (Ouyang et al. 2022, eq. 2).

    Raises:
        ConfigError: there is no text, or its rows are longer than the model's context.
    """
    if config.ptx_coef == 0:
        return None
    check_raw_text(config, inputs.ptx_text)
    assert inputs.ptx_text is not None
    limit, tokens = context_length(policy), config.ptx_row_tokens
    if limit is not None and tokens > limit:
        raise ConfigError(
            f"{config.section}.ptx_row_tokens = {tokens} is longer than the model's context of {limit}; lower it"
        )
    return RawText.read(
        inputs.ptx_text,
        tokenizer,
        row_tokens=tokens,
        rows_per_step=config.ptx_rows,
        seed=runtime.seed_for("text"),
    )


def save(learner: PPOLearner, reward: Merged, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """model/, critic/ where there is one, and the scales that rewards were read with."""
    save_model(learner.policy, tokenizer, folder / "model")
    if learner.critic is not None:
        learner.critic.model.save(tokenizer, folder / "critic")
    save_scales(reward, folder)


def resume(
    learner: PPOLearner, reward: Merged, watcher: Watcher, runtime: Runtime
) -> tuple[int, list[dict[str, float]]]:
    """The step to go on from and the figures of the steps before it."""
    found = runtime.restore()
    if found is None:
        return 0, []
    learner.load(found.state["learner"])
    reward.load(found.state["reward"])
    watcher.load(found.state["watcher"])
    return found.step, found.state["recent"]


def check_step(
    learner: PPOLearner,
    reward: Merged,
    scored: Scored,
    episodes: Episodes,
    observed: Observations,
    step: int,
) -> None:
    """Scores can be learned from; before the first update KL is 0, and padding changes no model's result."""
    precision = learner.config.precision
    ppo_checks.check_scores(scored.scores.whole(), scored.responses, first=step == 0)
    if observed.policy_logprobs is not None:  # else the update looks when it has them
        ppo_checks.check_ratio_is_one((observed.policy_logprobs - episodes.logprobs)[episodes.mask], step, precision)
    if step > 0:
        return
    if learner.starts_at_reference:
        ppo_checks.check_reference_is_policy(episodes, observed.reference_logprobs, precision)
    ppo_checks.check_padding(learner, episodes._replace(below=None), precision)
    few = scored.samples[: ppo_checks.PADDED_ROWS]
    for model in reward_models(reward):
        alone = torch.cat([model.score([sample]).total for sample in few])
        ppo_checks.check_reward_padding(model.name, model.score(few).total, alone, precision)


def assess(
    learner: PPOLearner,
    engine: Engine,
    reward: Merged,
    held_out: Sequence[Task],
    sampling: SamplingConfig,
    runtime: Runtime,
) -> tuple[Scored, dict[str, float]]:
    """A response to each held-out prompt, and figures. The seeds never change: only the weights move the figures."""
    seeds = [runtime.seed_for("held out", row) for row in range(len(held_out))]
    rollouts = engine.generate([task.tokens for task in held_out], sampling, seeds)
    scored = score(reward, held_out, rollouts, engine.tokenizer)
    episodes = learner.prepare(Episodes.of(rollouts, runtime.device))
    observed = learner.observe(episodes)
    kl = token_kl(as_learned(episodes, observed, learner.config)[0], observed).sum(1).mean().item()
    parts = {f"held_out_{name}": scored.figures[name] for name in parts_of(reward)}
    figures = parts | {
        "held_out_score": scored.figures["score"],
        "held_out_kl": kl,
        "held_out_length_tokens": scored.figures["length_tokens"],
    }
    return scored, figures


def parts_of(reward: Merged) -> list[str]:
    """What the means of several rewards are called."""
    return [f"score_{name}" for name in reward.names] if len(reward.names) > 1 else []


def summarised(reward: Merged) -> list[str]:
    """The figures of a step that are also final figures; of several rewards, each one's mean."""
    return [*SUMMARISED, *parts_of(reward), *(["multiplier"] if reward.merge.rule == "constraint" else [])]


def summarise(
    config: PolicyConfig, reward: Merged, recent: Sequence[Mapping[str, float]], steps: int
) -> dict[str, Any]:
    """Means over the last steps."""
    figures = {name: sum(step[name] for step in recent) / len(recent) for name in summarised(reward)}
    return {"steps": steps, "responses_sampled": steps * config.rollouts_per_step, **figures}


def bind(config: PolicyConfig, artifacts: Mapping[str, Artifact]) -> PPOInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways; or the reference is the model that training starts from.
    """
    mixed = artifacts.get("text") if config.ptx_coef and config.ptx_text is None else None
    text = config.ptx_text if mixed is None else mixed.file("text.jsonl.gz")
    check_raw_text(config, text)
    watching = watching_models(config, artifacts)
    reference, start = config.reference, artifacts.get("start")
    if reference == "start":
        if config.policy is not None or start is None or start == artifacts.get("policy"):
            raise ConfigError(
                f"{config.section}.reference = start: no round before this one made the policy from what rounds begin "
                "with; leave reference out"
            )
        reference = start.file("model")
    return PPOInputs(
        **vars(sampled.bind(config, artifacts)),
        reference=reference,
        ptx_text=text,
        held_out_models=watching,
    )


def check_raw_text(config: PolicyConfig, text: Path | None) -> None:
    """Raise ConfigError where raw text is to be mixed in and there is none."""
    if config.ptx_coef and text is None:
        raise ConfigError(
            f"{config.section}.ptx_coef needs raw text; name a file or folder in {config.section}.ptx_text, or "
            "pre-train in this run"
        )


def needs_besides(config: PolicyConfig) -> dict[str, tuple[str, ...]]:
    """What only some settings need: the version that the rounds began with."""
    return {"start": POLICIES} if config.reference == "start" else {}


def files(config: PolicyConfig) -> list[Path]:
    """The user's files and folders, whose content belongs to the artifact's key."""
    given = (config.ptx_text, config.reference, *(() if config.watch is None else config.watch.reward))
    return sampled.files(config) + [path for path in given if isinstance(path, Path)]


def stage_of(config: type[PolicyConfig]) -> Stage:
    """The line of the table for a section."""
    return Stage(
        config.section,
        config,
        needs=sampled.NEEDS,
        needs_besides=needs_besides,
        bind=bind,
        run=run,
        files=files,
    )


STAGE = stage_of(PPOConfig)
RLOO = stage_of(RLOOConfig)
GRPO = stage_of(GRPOConfig)
REINFORCE_PLUS_PLUS = stage_of(ReinforcePlusPlusConfig)
