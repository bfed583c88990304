"""A policy's own answers with their scores, for stages that learn from the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import PositiveInt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.readers import write_records
from loopwright.errors import ConfigError
from loopwright.evaluation.best_of import best_of_frontier
from loopwright.evaluation.kl import response_kl
from loopwright.evaluation.metrics import gain_interval
from loopwright.generation.base import Engine, Rollouts, SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.trainable import make_trainable
from loopwright.rewards import Merged, Sample
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import ScoredAnswer
from loopwright.stages.base import check_max_length
from loopwright.stages.sampled import SampledConfig, SampledInputs
from loopwright.stages.sampled_prompts import Task, hold_out, load_prompts
from loopwright.stages.sampled_rewards import load_reward, normalise, samples_of, save_scales
from loopwright.training.batches import split_rows
from loopwright.training.examples import ExamplesConfig
from loopwright.training.ppo_batch import prompts_of_step
from loopwright.training.ppo_checks import check_scores

SAMPLES = "samples.jsonl"  # the answers that were learned
HELD_OUT_SEED = 1  # of no stage: what one round holds out, no other learns from


class AnswersConfig(SampledConfig, ExamplesConfig):
    """How answers are sampled, and learned."""

    samples_per_prompt: PositiveInt = 8
    max_prompts: PositiveInt | None = None  # so many of the prompts, drawn anew each time; None: all
    answers_at_once: PositiveInt = 512  # sampled and scored together; what a crash loses at most
    held_out_prompts: PositiveInt = 100  # about so many, by hash: what is gained is measured on them


class Prompts(NamedTuple):
    """Each different prompt once."""

    train: list[Task]
    held_out: list[Task]


def divided_prompts(
    config: AnswersConfig, inputs: SampledInputs, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel
) -> Prompts:
    """Prompts to answer and learn from, and prompts that tell what was gained.

    Raises:
        ConfigError: answers to them would not fit `max_length`, or none would be left to learn from.
    """
    tasks = {tuple(task.tokens): task for task in load_prompts(config, inputs, tokenizer, policy)}
    longest = max(map(len, tasks)) + config.max_new_tokens
    if longest > config.max_length:
        raise ConfigError(
            f"{config.section}.max_length = {config.max_length}, but a prompt with max_new_tokens = "
            f"{config.max_new_tokens} may take {longest} tokens; raise it, or lower max_new_tokens"
        )
    return Prompts(*hold_out(list(tasks.values()), config.held_out_prompts, HELD_OUT_SEED, config.section))


def prompts_of_round(tasks: Sequence[Task], number: int, config: AnswersConfig, runtime: Runtime) -> list[Task]:
    """All prompts, or `max_prompts` of them: each comes once before any comes twice."""
    if config.max_prompts is None or config.max_prompts >= len(tasks):
        return list(tasks)
    seed = partial(runtime.seed_for, "prompts")
    return [tasks[i] for i in prompts_of_step(len(tasks), number, config.max_prompts, seed)]


class Sampler:
    """Samples answers from a policy as it is now, and scores them.

    What is drawn under a name is on disk as soon as a part of it is there, and is read back after a crash.
    """

    def __init__(self, engine: Engine, reward: Merged, config: AnswersConfig, runtime: Runtime) -> None:
        self._engine, self._merged, self._config, self._runtime = engine, reward, config, runtime
        self._unread: dict[str, Any] | None = None  # the state of the reward after what was read back last

    def scale(self, tasks: Sequence[Task]) -> None:
        """Give each of several rewards mean 0 and deviation 1 on the policy's answers, where the rule asks for it."""
        if self._merged.merge.normalise:
            self._kept("scales", lambda: self._measure_scales(tasks))

    def draw(self, name: str, tasks: Sequence[Task], copies: int, temperature: float) -> list[ScoredAnswer]:
        """So many answers to each prompt, prompt by prompt.

        The name and the prompt's id are the seed of an answer, so it never matters what else is asked.

        Raises:
            CheckError: the reward says the same of them all.
        """
        rows = [(task, copy) for task in tasks for copy in range(copies)]
        parts, answers = split_rows(rows, self._config.answers_at_once), list[ScoredAnswer]()
        with self._runtime.progress(f"sampling {name}", len(parts)) as bar:
            for number, part in enumerate(parts):
                answers += self._kept(f"{name}-{number}", partial(self._answers, name, part, temperature))
                bar.advance()
        if copies > 1:
            scores = torch.tensor([answer.score for answer in answers])
            check_scores(scores, [answer.response for answer in answers], first=True)
        return answers

    def score_again(self, name: str, answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
        """Answers of another time with the scores that this reward gives them."""
        parts = split_rows(answers, self._config.answers_at_once)
        return [
            answer
            for number, part in enumerate(parts)
            for answer in self._kept(f"{name}-{number}", partial(self._rescored, part))
        ]

    def look(self, held_out: Sequence[Task]) -> Look:
        """One answer to each held-out prompt. The seeds never change: only the weights move the figures."""
        rows = [(task, 0) for task in held_out]
        parts = [self._drawn("held out", part, 1.0) for part in split_rows(rows, self._config.answers_at_once)]
        return Look([rollouts for rollouts, _ in parts], [answer for _, answers in parts for answer in answers])

    def first_look(self, held_out: Sequence[Task]) -> Look:
        """What `look` finds before any training, kept over a crash; its rollouts are not."""
        return Look([], self._kept("before", lambda: self.look(held_out).answers))

    def _reward(self) -> Merged:
        if self._unread is not None:
            scales = {} if self._merged.scales else self._unread["scales"]  # which are laid on once
            self._merged.load({**self._unread, "scales": scales})
            self._unread = None
        return self._merged

    def _kept(self, name: str, work: Callable[[], list[ScoredAnswer]]) -> list[ScoredAnswer]:
        """What the work gives, or gave before a crash."""
        place = self._runtime.beside(self._runtime.scratch / "answers" / name)
        found = place.restore()
        if found is not None:
            self._unread = found.state["reward"]
            return [ScoredAnswer.model_validate_json(line) for line in found.state["answers"]]
        answers = work()
        lines = [answer.model_dump_json() for answer in answers]
        place.checkpoint(1, {"answers": lines, "reward": self._reward().state()})
        return answers

    def _measure_scales(self, tasks: Sequence[Task]) -> list[ScoredAnswer]:
        reward, config = self._reward(), self._config
        sampling = SamplingConfig(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
        normalise(reward, tasks, self._engine, sampling, config.answers_at_once, self._runtime)
        return []

    def _answers(self, name: str, rows: Sequence[tuple[Task, int]], temperature: float) -> list[ScoredAnswer]:
        return self._drawn(name, rows, temperature)[1]

    def _drawn(
        self, name: str, rows: Sequence[tuple[Task, int]], temperature: float
    ) -> tuple[Rollouts, list[ScoredAnswer]]:
        sampling = SamplingConfig(max_new_tokens=self._config.max_new_tokens, temperature=temperature)
        seeds = [self._runtime.seed_for(name, task.prompt.id, copy) for task, copy in rows]
        tasks = [task for task, _ in rows]
        rollouts = self._engine.generate([task.tokens for task in tasks], sampling, seeds)
        responses = decode_responses(self._engine.tokenizer, rollouts)
        samples = samples_of(tasks, rollouts, self._engine.tokenizer, responses)
        answers = [
            ScoredAnswer(
                prompt=sample.prompt,
                response=sample.response,
                prompt_ids=sample.prompt_ids,
                response_ids=sample.response_ids,
                finished=sample.finished,
                temperature=temperature,
                stage=self._runtime.stage,
                **said,
            )
            for sample, said in zip(samples, self._said_of(samples), strict=True)
        ]
        return rollouts, answers

    def _rescored(self, answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
        samples = [
            Sample(
                prompt=answer.prompt,
                response=answer.response,
                prompt_ids=answer.prompt_ids,
                response_ids=answer.response_ids,
                finished=answer.finished,
                tokenizer=self._engine.tokenizer,
            )
            for answer in answers
        ]
        return [answer.model_copy(update=said) for answer, said in zip(answers, self._said_of(samples), strict=True)]

    def _said_of(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """The `score` of each sample and its `criteria`, less the penalty of an answer without EOS."""
        scores = self._reward().score(samples)
        whole, parts = scores.whole().tolist(), {name: part.tolist() for name, part in scores.parts.items()}
        said = []
        for row, sample in enumerate(samples):
            penalty = 0.0 if sample.finished else self._config.missing_eos_penalty
            criteria = {name: part[row] - penalty for name, part in parts.items()}
            said.append({"score": whole[row] - penalty, "criteria": criteria})
        return said


class Look(NamedTuple):
    """Answers to the held-out prompts."""

    rollouts: list[Rollouts]
    answers: list[ScoredAnswer]

    def scores(self) -> list[float]:
        return [answer.score for answer in self.answers]

    def figures(self) -> dict[str, float]:
        count = len(self.answers)
        return {
            "held_out_score": sum(self.scores()) / count,
            "held_out_length_tokens": sum(len(answer.response_ids) for answer in self.answers) / count,
            "held_out_finished_share": sum(answer.finished for answer in self.answers) / count,
        }


class Looks:
    """The last look at the held-out prompts while a policy is trained."""

    def __init__(self, sampler: Sampler, held_out: Sequence[Task]) -> None:
        self._sampler, self._held_out = sampler, held_out
        self.last: Look | None = None

    def __call__(self) -> dict[str, float]:
        self.last = self._sampler.look(self._held_out)
        return self.last.figures()


class Setup(NamedTuple):
    """Everything that a policy needs to learn from its own answers."""

    tokenizer: PreTrainedTokenizerBase
    policy: Any  # the model, or the peft model around it
    prompts: Prompts
    reward: Merged
    sampler: Sampler
    before: Look  # at the held-out prompts

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)


def set_up(config: AnswersConfig, inputs: SampledInputs, runtime: Runtime) -> Setup:
    """The policy, ready to be trained, with the rewards, the prompts, and how the policy does before."""
    tokenizer = load_tokenizer(inputs.policy)
    policy = load_causal_lm(inputs.policy, runtime.device)
    check_max_length(runtime.stage, config.max_length, policy)
    prompts = divided_prompts(config, inputs, tokenizer, policy)
    reward = load_reward(inputs, runtime, config.merge if "merge" in config.model_fields_set else None)
    learner = make_trainable(policy, config.trainable, runtime.seed_for("adapters"))
    sampler = Sampler(make_engine(learner, tokenizer, runtime.log), reward, config, runtime)
    sampler.scale(prompts.train)
    return Setup(tokenizer, learner, prompts, reward, sampler, sampler.first_look(prompts.held_out))


def finish(
    setup: Setup, start: Path, learned: Sequence[ScoredAnswer], after: Look | None, runtime: Runtime
) -> dict[str, Any]:
    """Save the policy and what it learned last; gives what training was worth in the eyes of the reward.

    Args:
        start: the folder of the policy before.
        after: its answers to the held-out prompts now.
    """
    save_model(setup.policy, setup.tokenizer, runtime.output / "model")
    write_records(runtime.output / SAMPLES, learned)
    save_scales(setup.reward, runtime.output)
    assert after is not None
    gain = gain_interval(after.scores(), setup.before.scores(), seed=runtime.seed_for("intervals"))
    assert gain is not None
    return {
        "learned_score": sum(answer.score for answer in learned) / len(learned),
        **after.figures(),
        "held_out_score_before": setup.before.figures()["held_out_score"],
        "held_out_gain": gain.mean,
        "held_out_gain_low": gain.low,
        "held_out_gain_high": gain.high,
        "held_out_kl": moved(setup.policy, start, setup.tokenizer, after),
        "held_out_prompts": len(after.answers),
    }


def moved(policy: Any, start: Path, tokenizer: PreTrainedTokenizerBase, look: Look) -> float:
    """KL(policy || start) in nats per response, over the full vocabulary, on the policy's held-out answers."""
    reference = load_causal_lm(start, policy.device)
    found = [response_kl(policy, reference, tokenizer, rollouts, 1.0).exact for rollouts in look.rollouts]
    return float(sum(one.sum() for one in found) / len(look.answers))


def frontier(answers: Sequence[ScoredAnswer], copies: int) -> list[dict[str, float]]:
    """What best-of-n reaches without any training, for n = 1, 2, 4, ..., from `copies` answers to each prompt."""
    scores = [[one.score for one in part] for part in split_rows(answers, copies)]
    return [{"n": point.n, "kl_at_most": point.kl, "score": point.value} for point in best_of_frontier(scores)]
