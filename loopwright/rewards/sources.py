"""Rewards as a recipe names them, and how each kind is loaded."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from loopwright.config import Config
from loopwright.errors import ConfigError
from loopwright.responders.judge import ScoringConfig
from loopwright.responders.judges import open_judge
from loopwright.rewards.base import Reward
from loopwright.rewards.callables import CallableReward
from loopwright.rewards.classifier import Classifier
from loopwright.rewards.ensemble import Ensemble
from loopwright.rewards.judged import JudgeReward
from loopwright.rewards.normalised import Negated
from loopwright.rewards.remote import RemoteReward, checked_url
from loopwright.rewards.reward_model import RewardModel
from loopwright.rewards.spans import SpanReward


class RewardSource(Config):
    """One of several rewards. What a kind needs and takes is in KINDS."""

    kind: str  # a key of KINDS
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")] | None = None  # in metrics; None: from what it is
    weight: float = 1.0  # with rule = weighted_sum
    direction: Literal["higher_is_better", "lower_is_better"] = "higher_is_better"  # lower: the score is turned around
    stage: str | None = None  # the recipe's own reward model: reward, or reward_<name>
    path: Path | None = None  # a Hugging Face folder
    paths: tuple[Path, ...] | None = None  # of the members of an ensemble
    function: str | None = None  # package.module:function of (prompts, responses), that can be imported
    url: str | None = None  # of a server; its token comes from the environment
    judge: ScoringConfig | None = None  # which model scores answers, and what it is asked
    content_hash: str | None = None  # of the model that the server should have
    batch_size: PositiveInt | None = None  # samples a request to a server; None, as of the next two: RemoteReward's
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # of a request, to the last byte
    attempts: PositiveInt | None = None  # requests to a server until one succeeds
    label: str | int | None = None  # of a classifier, as are the next three
    output: str | None = None
    reads: str | None = None
    max_tokens: PositiveInt | None = None
    rule: str | None = None  # of an ensemble
    penalty: NonNegativeFloat | None = None  # of an ensemble

    @property
    def title(self) -> str:
        """What it is called: its name, or one made from the stage, the function, the folder or the kind."""
        if self.name is not None:
            return self.name
        if self.stage is not None:
            return self.stage.removeprefix("reward_")
        if self.function is not None:
            return self.function.rpartition(":")[2]
        return self.kind if self.path is None else self.path.name

    @model_validator(mode="after")
    def _settings_are_of_this_kind(self) -> Self:
        kind = KINDS.get(self.kind)
        if kind is None:
            raise ValueError(f"kind = {self.kind} is none of {', '.join(KINDS)}; choose one")
        written = {name for name in type(self).model_fields if name not in _OF_ALL and getattr(self, name) is not None}
        if stray := sorted(written - {*kind.needs, *kind.takes}):
            raise ValueError(f"{stray[0]} has no effect with kind = {self.kind}; leave it out")
        if len(written & {*kind.needs}) != 1:
            raise ValueError(f"kind = {self.kind} needs {' or '.join(kind.needs)}; set one")
        if self.url is not None:
            try:
                checked_url(self.url)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return self

    def taken(self) -> dict[str, Any]:
        """The settings that its kind takes and that were written."""
        found = {name: getattr(self, name) for name in KINDS[self.kind].takes}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def files(self) -> list[Path]:
        """What its scores depend on, on this machine.

        Raises:
            ConfigError: the module of its function cannot be found.
        """
        judge = None if self.judge is None else self.judge.path
        found = [*(self.paths or ()), *(path for path in (self.path, judge) if path is not None)]
        if self.function is not None:
            module = self.function.partition(":")[0]
            try:
                spec = importlib.util.find_spec(module)
            except (ImportError, ValueError):
                spec = None
            if spec is None:
                raise ConfigError(_not_found(self.function))
            if spec.origin is not None and Path(spec.origin).is_file():
                found.append(Path(spec.origin))
        return found


class Kind(NamedTuple):
    """A kind of reward: its loader, and which settings of a source are its own."""

    load: Callable[[RewardSource, torch.device], Reward]
    needs: tuple[str, ...]  # exactly one of these
    takes: tuple[str, ...] = ()


def load_source(source: RewardSource, device: torch.device) -> Reward:
    """The reward, under its title.

    Raises:
        ConfigError: its function cannot be imported, or is none.
        ModelError: its folder holds no such model.
    """
    reward = KINDS[source.kind].load(source, device)
    return _turned_around(reward) if source.direction == "lower_is_better" else reward


def _turned_around(reward: Reward) -> Reward:
    """Of an ensemble each member: the worst for us is the highest of scores of which less is better."""
    if isinstance(reward, Ensemble):
        reward.members = [Negated(member) for member in reward.members]
        return reward
    return Negated(reward)


def _model(source: RewardSource, device: torch.device) -> Reward:
    assert source.path is not None
    return RewardModel(source.path, name=source.title, device=device)


def _ensemble(source: RewardSource, device: torch.device) -> Reward:
    folders = source.paths or () if source.path is None else (source.path,)
    members = [RewardModel(path, name=path.name, device=device) for path in folders]
    if source.path is not None and members[0].heads == 1:
        raise ConfigError(
            f"{source.path} has one head, which is no ensemble; train it with reward.heads, or list models in paths"
        )
    return Ensemble(members, name=source.title, **source.taken())


def _callable(source: RewardSource, device: torch.device) -> Reward:
    assert source.function is not None
    module, _, name = source.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{_not_found(source.function)} ({error})") from error
    if not callable(function):
        raise ConfigError(f"{source.function} is no function; write package.module:function")
    return CallableReward(function, source.title)


def _classifier(source: RewardSource, device: torch.device) -> Reward:
    assert source.path is not None
    return Classifier(source.path, name=source.title, device=device, **source.taken())


def _spans(source: RewardSource, device: torch.device) -> Reward:
    assert source.path is not None
    return SpanReward(source.path, name=source.title, device=device)


def _remote(source: RewardSource, device: torch.device) -> Reward:
    assert source.url is not None
    return RemoteReward(source.url, name=source.title, **source.taken())


def _judge(source: RewardSource, device: torch.device) -> Reward:
    assert source.judge is not None
    return JudgeReward(open_judge(source.judge, device=device), source.judge, name=source.title)


KINDS: dict[str, Kind] = {
    "model": Kind(_model, needs=("path", "stage")),
    "classifier": Kind(_classifier, needs=("path",), takes=("label", "output", "reads", "max_tokens")),
    "spans": Kind(_spans, needs=("path", "stage")),
    "remote": Kind(_remote, needs=("url",), takes=("content_hash", "batch_size", "timeout_seconds", "attempts")),
    "ensemble": Kind(_ensemble, needs=("paths", "path", "stage"), takes=("rule", "penalty")),
    "judge": Kind(_judge, needs=("judge",)),
    "callable": Kind(_callable, needs=("function",)),
}

_OF_ALL = ("kind", "name", "weight", "direction")  # settings of every kind


def _not_found(function: str) -> str:
    return (
        f"the module of {function} cannot be imported; write package.module:function of a package that is installed, "
        "or whose folder is in PYTHONPATH"
    )
