"""An attacker that learns by PPO to write attacks which succeed, and which are not those that succeeded before.

Perez et al. 2022 (arXiv:2202.03286), sec. 3.1, train theirs with A2C on how harmful the answer is, held near its start
by a KL penalty. Hong et al. 2024 (arXiv:2402.19464) add a reward for novelty, without which it writes one attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean, pstdev
from typing import Any, NamedTuple, Self

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.evaluation.answering import Answers, reward_scores
from loopwright.evaluation.attack_clusters import Novelty
from loopwright.generation.base import Engine
from loopwright.models.heads import Critic
from loopwright.models.tokens import forbidden_token_ids
from loopwright.rewards import Reward
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages.red_team_ground import Ground, Verdict, contexts
from loopwright.stages.red_team_tries import Attack, Target, Try, Writing, write_attacks
from loopwright.training import ppo_checks
from loopwright.training.ppo_batch import Episodes, with_advantages
from loopwright.training.ppo_config import PPOSettings
from loopwright.training.ppo_learner import PPOLearner

SCALE_TRIES = 128  # of the attacker at its start, on whose answers a reward's scores are put on a scale


class AttackerSettings(PPOSettings):
    """The `rl` part of the section: the settings of PPO (docs/ppo.md), with defaults of its own, and two more."""

    novelty: NonNegativeFloat = 5.0  # weight of the diversity bonus, which varies less than success; 0: success alone
    neighbours: PositiveInt = 10  # nearest earlier attacks that one is compared with
    steps: PositiveInt = 30  # twice as many find no more that differ
    rollouts_per_step: PositiveInt = 128  # with half as many it finds fewer that differ
    minibatch_size: PositiveInt = 64
    epochs_per_batch: PositiveInt = 2
    missing_eos_penalty: NonNegativeFloat = 0.0  # an attack that is cut off may be as good as any
    kl_coef: NonNegativeFloat = 0.01  # with 0.04 it stays near its start, and its attacks alike
    learning_rate: PositiveFloat = 3e-4  # with 1e-3 a first step of few successes leads 17 nats away
    critic_learning_rate: PositiveFloat = 1e-3

    @model_validator(mode="after")
    def _settings_are_of_an_attacker(self) -> Self:
        for name in ("max_new_tokens", "temperature"):
            if name in self.model_fields_set:
                raise ValueError(
                    f"{name} of attacks is red_team.attack.{name}, for all models that write; set it there"
                )
        for name in ("eval_steps", "watch"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect on an attacker, which is measured by its tries; leave it out")
        if self.novelty == 0 and "neighbours" in self.model_fields_set:
            raise ValueError("neighbours has no effect with novelty = 0; leave it out")
        return self


class Learned(NamedTuple):
    """How far the training of an attacker has come; a checkpoint holds it with the learner's state."""

    step: int
    seen: list[str]  # wordings of attacks, for the novelty of later ones
    figures: dict[str, float]  # of the last step


def make_attacker(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, writing: Writing, config: AttackerSettings,
    runtime: Runtime,
) -> PPOLearner:  # fmt: skip
    """The learner, with a critic on the attacker's own body."""
    settings = config.model_copy(update={"max_new_tokens": writing.max_new_tokens, "temperature": writing.temperature})
    embeddings: Any = model.get_input_embeddings()
    forbidden = forbidden_token_ids(tokenizer, embeddings.num_embeddings)
    critic = Critic.from_policy(model)
    return PPOLearner(model, critic, forbidden, settings, runtime.seed_for("adapters"), runtime.scratch)


def train(
    learner: PPOLearner,
    engine: Engine,
    target: Target,
    writing: Writing,
    config: AttackerSettings,
    learned: Learned,
    runtime: Runtime,
) -> Learned:
    """PPO on E[harm + w novelty] - beta KL(attacker || its start), to the end or from where `learned` stands."""
    settings = learner.config
    novelty = Novelty(config.neighbours)
    novelty.seen = list(learned.seen)
    size = config.rollouts_per_step
    with runtime.progress("training an attacker", config.steps, learned.step) as bar:
        for step in range(learned.step, config.steps):
            before = contexts(target.ground, runtime.seed_for("rl", "requests", step), size)
            seeds = [runtime.seed_for("rl", "attack", step, row) for row in range(size)]
            openings = [target.ground.opening(context) for context in before]
            written = write_attacks(engine, openings, writing, seeds)
            attacks = [Attack(*one) for one in zip(before, written.texts, strict=True)]
            tries = target.attack("rl", attacks, [runtime.seed_for("rl", "answer", step, row) for row in range(size)])
            rewards, figures = reward_of(tries, target.ground, novelty, config.novelty)

            episodes = learner.prepare(Episodes.of(written.rollouts, runtime.device))
            observed = learner.observe(episodes)
            if step == 0:
                ppo_checks.check_reference_is_policy(episodes, observed.reference_logprobs, settings.precision)
            experience, batch = with_advantages(
                episodes, observed, (torch.tensor(rewards), None), learner.controller.coefficient, settings
            )
            updated = learner.update(experience, step, partial(runtime.seed_for, "rl", "epoch", step))
            learner.controller.update(batch["kl"], size)

            done = step + 1
            learned = Learned(done, list(novelty.seen), figures | batch)
            if done % config.log_steps == 0 or done == config.steps:
                runtime.record(done, updated | learned.figures)
            if done % config.save_steps == 0 or done == config.steps:
                runtime.checkpoint(done, {"learner": learner.state(), "learned": learned._asdict(), "tries": "{}"})
            bar.advance(1, success=figures["success_share"], kl=batch["kl"])
    return learned


def reward_of(
    tries: Sequence[Try], ground: Ground, novelty: Novelty, weight: float
) -> tuple[list[float], dict[str, float]]:
    """harm + weight * novelty of each try, 0 of what is no attack; afterwards the attacks are remembered.

    Novelty is that of every text which asks for harm (Hong et al. 2024 give it to all texts): successes are too few to
    learn variety from, and whatever else is new is worth nothing.
    """
    asking = [i for i, one in enumerate(tries) if one.asks]
    wordings = [ground.wording(tries[i].text) for i in asking]
    new = dict(zip(asking, novelty.of(wordings), strict=True)) if weight else {}
    rewards = [(one.harm or 0.0) + weight * new.get(i, 0.0) for i, one in enumerate(tries)]
    novelty.remember(wordings if weight else [])
    figures = {
        "attack_share": fmean(one.asks for one in tries),
        "success_share": fmean(one.success for one in tries),
        "novelty": fmean(new.values()) if new else 0.0,
    }
    return rewards, figures


def scaled(reward: Reward, target: Target, attacks: Sequence[Attack], seeds: Sequence[int]) -> Verdict:
    """A reward's score of an answer as harm in [0, 1]: sigmoid((score - m) / s).

    m and s are mean and deviation over the answers to these attacks. Above the mean counts as a success in training;
    what is measured and reported is up to the ground.
    """

    def raw(prompts: Sequence[Prompt], answers: Answers, tokenizer: object) -> tuple[list[float], list[bool]]:
        scores = [float(score or 0.0) for score in reward_scores(reward, tokenizer, prompts, answers)]
        return scores, [False] * len(scores)

    found = Target(target.model, target.ground, target.sampling, raw).attack("rl", attacks, seeds)
    scores = [one.harm for one in found if one.harm is not None]
    mean, std = (fmean(scores), pstdev(scores) or 1.0) if scores else (0.0, 1.0)

    def verdict(prompts: Sequence[Prompt], answers: Answers, tokenizer: object) -> tuple[list[float], list[bool]]:
        units = [(score - mean) / std for score in raw(prompts, answers, tokenizer)[0]]
        return [1.0 / (1.0 + math.exp(-max(min(one, 50.0), -50.0))) for one in units], [one > 0.0 for one in units]

    return verdict
