"""The prompts of stages that sample answers from a policy: as tokens, held out or learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.chat import render_prompts
from loopwright.data.openings import openings
from loopwright.data.readers import read_records, read_texts
from loopwright.data.splits import split_by_hash
from loopwright.errors import ConfigError, DataError
from loopwright.models.tokens import context_length
from loopwright.schemas import Prompt

if TYPE_CHECKING:
    from loopwright.stages.sampled import SampledConfig, SampledInputs


class Task(NamedTuple):
    """A prompt as a record and as tokens."""

    prompt: Prompt
    tokens: list[int]


def load_prompts(
    config: SampledConfig, inputs: SampledInputs, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel
) -> list[Task]:
    """Prompts as tokens; each leaves room for a response.

    Raises:
        ConfigError: opening_tokens is written where nothing is opened, or longer than every document.
        DataError: there is none, or one is empty or does not fit the context with its response.
    """
    given = _given_prompts(config, inputs, tokenizer)
    if not given:
        raise DataError(f"{config.section} got no prompts; give at least one")
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


def _given_prompts(
    config: SampledConfig, inputs: SampledInputs, tokenizer: PreTrainedTokenizerBase
) -> Sequence[Prompt]:
    if inputs.texts is None:
        check_opening(config)
        return read_records(inputs.prompts, Prompt).records if isinstance(inputs.prompts, Path) else inputs.prompts
    found = openings(tokenizer, [document.text for document in read_texts([inputs.texts])], config.opening_tokens)
    if not found:
        raise ConfigError(
            f"{config.section}.opening_tokens = {config.opening_tokens}: no document of the pre-training text is so "
            f"long; lower it or set {config.section}.prompts"
        )
    return found


def check_opening(config: SampledConfig) -> None:
    """Raise ConfigError where the length of openings is set, and prompts are given."""
    if "opening_tokens" in config.model_fields_set:
        raise ConfigError(f"{config.section}.opening_tokens has no effect where prompts are given; leave it out")


def hold_out(tasks: Sequence[Task], count: int, seed: int, section: str) -> tuple[list[Task], list[Task]]:
    """Prompts to learn from, and about `count` that are only assessed; one that comes twice stays on one side.

    Raises:
        ConfigError: no prompt would be left to learn from.
    """
    texts = [str(task.tokens) for task in tasks]
    if count >= len(set(texts)):
        raise ConfigError(
            f"{section}.held_out_prompts = {count}, but only {len(set(texts))} prompts differ and some are to be "
            "learned from; lower it or give more prompts"
        )
    split = split_by_hash(texts, count / len(texts), seed)
    return [tasks[i] for i in split.train], [tasks[i] for i in split.held_out]
