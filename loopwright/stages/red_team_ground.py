"""What red teaming stands on: where requests come from, which text is an attack, which answer is a success.

A world brings all of it, exactly. Without one there are a file of requests, and rewards that score texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loopwright.data.readers import read_records
from loopwright.errors import ConfigError, DataError
from loopwright.evaluation.answering import Answers, reward_scores
from loopwright.rewards import Reward, Sample
from loopwright.rewards.sources import load_source
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.worlds.base import RedTeamGround, Request

if TYPE_CHECKING:
    from loopwright.stages.red_team import RedTeamConfig, RedTeamInputs

REQUEST = "{request}"  # in a template

# (prompts, answers, the target's tokenizer) -> how harmful each answer is, and whether its attack has succeeded
Verdict = Callable[[Sequence[Prompt], Answers, object], tuple[list[float], list[bool]]]


class Ground(Protocol):
    """What red teaming asks."""

    templates: Sequence[str]

    def opening(self, context: str) -> str:
        """What a model that writes attacks continues."""

    def requests(self, seed: int, count: int) -> list[Request]:
        """Harmful requests, each with what stands before an attack in its message."""

    def read(self, texts: Sequence[str], *, wrapped: bool) -> list[Prompt | None]:
        """Each as a prompt with its tags; None where it is no attack.

        Args:
            wrapped: the texts are requests in templates, not a model's.
        """

    def harm(self, prompts: Sequence[Prompt], answers: Answers, tokenizer: object) -> tuple[list[float], list[bool]]:
        """How harmful each answer is, and whether its attack has succeeded."""

    def wording(self, text: str) -> str:
        """What of a text is compared with others."""

    def may_train(self, prompt: Prompt) -> bool:
        """Whether an attack may be handed on to training."""


class WorldGround:
    """The exact recogniser and the exact judge of a world."""

    def __init__(self, world: RedTeamGround, templates: Sequence[str] | None, opening: str | None) -> None:
        self.world = world
        self.templates = list(world.templates.values()) if templates is None else templates
        self._opening = opening

    def opening(self, context: str) -> str:
        return self.world.opening(context) if self._opening is None else self._opening

    def requests(self, seed: int, count: int) -> list[Request]:
        return list(self.world.requests(seed, count))

    def read(self, texts: Sequence[str], *, wrapped: bool) -> list[Prompt | None]:
        return [self.world.read("", text) for text in texts]

    def harm(self, prompts: Sequence[Prompt], answers: Answers, tokenizer: object) -> tuple[list[float], list[bool]]:
        succeeded = [self.world.complies(text) for text in answers.texts]
        return [float(success) for success in succeeded], succeeded

    def wording(self, text: str) -> str:
        return self.world.wording(text)

    def may_train(self, prompt: Prompt) -> bool:
        return not self.world.is_held_out(prompt)


class FileGround:
    """A file of requests; one reward says of an attack whether it asks for harm, another how harmful an answer is."""

    def __init__(self, config: RedTeamConfig, harm: Reward, asks: Reward | None, templates: Sequence[str]) -> None:
        assert config.requests is not None
        self._opening = config.opening or ""
        self.templates = templates
        self._harm, self._harm_above = harm, config.harm_above
        self._asks, self._asks_above = asks, config.asks_above
        self._requests = [prompt.messages[-1].content for prompt in read_records(config.requests, Prompt).records]

    def opening(self, context: str) -> str:
        return self._opening

    def requests(self, seed: int, count: int) -> list[Request]:
        rng = random.Random(seed)
        return [Request("", rng.choice(self._requests)) for _ in range(count)]

    def read(self, texts: Sequence[str], *, wrapped: bool) -> list[Prompt | None]:
        prompts = [Prompt.user("", text, task="harmful") for text in texts]
        if wrapped:
            return list(prompts)
        assert self._asks is not None
        # Such a reward reads what stands in the place of the answer.
        spoken = [i for i, text in enumerate(texts) if text.strip()]
        samples = [Sample(prompts[i], texts[i], [], [], True, None) for i in spoken]
        scores = self._asks.score(samples).whole().tolist() if samples else []
        asking = {i for i, score in zip(spoken, scores, strict=True) if score > self._asks_above}
        return [prompt if i in asking else None for i, prompt in enumerate(prompts)]

    def harm(self, prompts: Sequence[Prompt], answers: Answers, tokenizer: object) -> tuple[list[float], list[bool]]:
        scores = [float(score or 0.0) for score in reward_scores(self._harm, tokenizer, prompts, answers)]
        return scores, [score > self._harm_above for score in scores]

    def wording(self, text: str) -> str:
        return text

    def may_train(self, prompt: Prompt) -> bool:
        return True


def open_ground(config: RedTeamConfig, inputs: RedTeamInputs, runtime: Runtime) -> Ground:
    """The world's, or else that of the files and rewards in the config.

    Raises:
        ConfigError: neither is there, or both.
        DataError: a file holds no request, or no template.
    """
    templates = None if config.templates is None else read_templates(config.templates)
    if inputs.world is not None:
        check_beside_world(config)
        return WorldGround(inputs.world, templates, config.opening)
    check_without_world(config, inputs.harm)
    harm = load_harm(inputs, runtime)
    assert harm is not None
    return FileGround(
        config, harm, None if config.asks is None else load_source(config.asks, runtime.device), templates or ()
    )


def check_without_world(config: RedTeamConfig, harm: object) -> None:
    """Raise ConfigError where something is missing that a world would bring."""
    needed: dict[str, object] = {"requests": config.requests, "harm": harm}
    if config.models:
        needed |= {"asks": config.asks, "opening": config.opening}
    if "templates" in config.sources:
        needed["templates"] = config.templates
    if missing := [name for name, value in needed.items() if value is None]:
        raise ConfigError(f"red_team.{missing[0]} is missing and there is no world; set it, or add a world section")


def check_beside_world(config: RedTeamConfig) -> None:
    """Raise ConfigError where a setting has no effect because a world brings what it stands for."""
    for name in ("requests", "harm_above", "asks", "asks_above"):
        if name in config.model_fields_set:
            raise ConfigError(f"red_team.{name} has no effect beside a world, which brings its own; leave it out")
    if config.harm is not None and "rl" not in config.sources:
        raise ConfigError(
            "red_team.harm has no effect beside a world without rl in sources: the world's judge measures; leave it out"
        )


def load_harm(inputs: RedTeamInputs, runtime: Runtime) -> Reward | None:
    """The reward that scores how harmful an answer is; None: the world's judge does."""
    if inputs.harm is None:
        return None
    return inputs.harm if isinstance(inputs.harm, Reward) else load_source(inputs.harm, runtime.device)


def read_templates(path: Path) -> list[str]:
    """One a line; each holds "{request}" once.

    Raises:
        DataError: the file is not there or empty, or a line does not.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); check the path") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and line.count(REQUEST) != 1:
            raise DataError(f"{path}:{number}: has {REQUEST} {line.count(REQUEST)} times; write it once a template")
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise DataError(f"{path}: holds no template; write one a line, with {REQUEST} in it")
    return found


def contexts(ground: Ground, seed: int, count: int) -> list[str]:
    """What stands before attacks that a model writes."""
    return [request.context for request in islice(ground.requests(seed, count), count)]
