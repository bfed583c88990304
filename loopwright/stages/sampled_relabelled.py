"""What `hindsight` and `conditioned` share: answers of every quality are learned, under a text that says how good they
were.

The best there is to say is said by no text at all. So the policy answers its best under the plain prompt: what is saved
is a policy like any other, with the chat template it came with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import conditioned, render_prompts
from loopwright.errors import ConfigError
from loopwright.objectives.hindsight import quantile_bins
from loopwright.runtime.parts import Part
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import ScoredAnswer
from loopwright.stages.base import StageOutput
from loopwright.stages.sampled import SampledInputs
from loopwright.stages.sampled_answers import AnswersConfig, Looks, Setup, finish, prompts_of_round, set_up
from loopwright.training.loop import FitResult


class RelabelledConfig(AnswersConfig):
    """`epochs` and `max_steps` are those of each loop."""

    loops: PositiveInt = 3  # sample, relabel, learn: so many times
    max_prompts: PositiveInt | None = 256  # of each loop
    samples_per_prompt: PositiveInt = 4  # Zhang et al. 2023, table 7
    epochs: PositiveFloat | None = 2.0
    against: Literal["prompt", "all"] = "prompt"  # what an answer's score is compared with

    @model_validator(mode="after")
    def _there_is_something_to_compare_with(self) -> Self:
        if self.samples_per_prompt == 1 and self.against == "prompt" and "against" in self.model_fields_set:
            raise ValueError("against = prompt has no effect with samples_per_prompt = 1; raise it or set against: all")
        return self


# From the answers of each loop so far, learn those that are to be learned now.
Learn = Callable[[Setup, Sequence[Sequence[ScoredAnswer]], Runtime, Looks], FitResult]


def learn_in_loops(
    config: RelabelledConfig,
    inputs: SampledInputs,
    runtime: Runtime,
    learn: Learn,
    texts: Callable[[Sequence[str]], Iterable[str]],
) -> StageOutput:
    """Sample answers under the best condition, learn each under what it achieved; several times over. Writes model/.

    Args:
        texts: the longest conditions there are, from the names of the rewards.
    """
    setup = set_up(config, inputs, runtime)
    check_room(setup, config, texts(setup.reward.names))
    looks = Looks(setup.sampler, setup.prompts.held_out)
    found = runtime.restore()  # also cuts the metrics back to the checkpoint
    history: list[dict[str, Any]] = [] if found is None else found.state["around"]["history"]
    drawn: list[list[ScoredAnswer]] = []
    for loop in range(config.loops):
        asked = prompts_of_round(setup.prompts.train, loop, config, runtime)
        drawn.append(setup.sampler.draw(f"answers-{loop}", asked, config.samples_per_prompt, config.temperature))
        if loop < len(history):
            continue  # learned before the run was cut off
        done = sum(before["steps"] for before in history)
        fitted = learn(setup, drawn, Part(runtime, done, {"history": history}, found), looks)
        found = None  # the trainings after the one that was cut off begin afresh
        score = sum(answer.score for answer in drawn[-1]) / len(drawn[-1])
        history = [*history, {"score": score, "steps": fitted.steps, **fitted.evaluation}]
    return StageOutput({
        "answers": sum(map(len, drawn)),
        "loops": history,
        "steps": sum(before["steps"] for before in history),
        **finish(setup, inputs.policy, drawn[-1], looks.last, runtime),
    })  # fmt: skip


def prompts_under(tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[ScoredAnswer, str]]) -> list[list[int]]:
    """The prompt of each answer under a condition, as tokens; under none the tokens that were answered."""
    wanted = {(tuple(answer.prompt_ids), condition): answer.prompt for answer, condition in asked if condition}
    messages = [conditioned(prompt.messages, condition) for (_, condition), prompt in wanted.items()]
    rendered = dict(zip(wanted, render_prompts(tokenizer, messages) if messages else [], strict=True))
    return [
        rendered[tuple(answer.prompt_ids), condition] if condition else answer.prompt_ids for answer, condition in asked
    ]


def check_room(setup: Setup, config: RelabelledConfig, texts: Iterable[str]) -> None:
    """Raise ConfigError where answers would not fit `max_length` under these conditions."""
    for text in texts:
        messages = [conditioned(task.prompt.messages, text) for task in setup.prompts.train]
        longest = max(map(len, render_prompts(setup.tokenizer, messages))) + config.max_new_tokens
        if longest > config.max_length:
            raise ConfigError(
                f"{config.section}.max_length = {config.max_length}, but a prompt under {text!r} with max_new_tokens = "
                f"{config.max_new_tokens} may take {longest} tokens; raise it, or lower max_new_tokens"
            )


def bins_of(
    scores: Sequence[float], answers: Sequence[ScoredAnswer], edges: Sequence[float], against: str
) -> list[int]:
    """The bin of each answer, by its score among all, or by how far it is from the mean of those to the same prompt.

    A reward model knows which of two answers to a prompt is better, and not which of two prompts is easier. Where all
    answers to a prompt have one score, this tells nothing: they are compared with all.

    Args:
        scores: [N], one an answer.
        edges: see `quantile_bins`.
    """
    values = torch.tensor(scores, dtype=torch.float64)
    bins = quantile_bins(values, edges)
    if against == "prompt":
        numbers: dict[tuple[int, ...], int] = {}
        group = torch.tensor([numbers.setdefault(tuple(answer.prompt_ids), len(numbers)) for answer in answers])
        means = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, group, values) / group.bincount()
        ahead = values - means[group]
        differ = torch.zeros(len(numbers), dtype=torch.bool).index_fill_(0, group[ahead != 0], True)[group]
        if differ.any():
            bins[differ] = quantile_bins(ahead[differ], edges)
    found: list[int] = bins.tolist()
    return found
