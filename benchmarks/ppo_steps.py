"""Steps of the PPO stage as a recipe runs it, its checks, figures and records included, on what `shapes.save` wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from shapes import Shape

from loopwright.kernels.choice import choose
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages import ppo


class _EnoughError(Exception):
    """All steps that were asked for are done."""


def run_ppo(
    folder: Path,
    shape: Shape,
    steps: int,
    after_step: Callable[[dict[str, float]], None],
    *,
    prompts: int | None = None,
    ending: bool = False,
    device: str = "cpu",
    **settings: Any,
) -> None:
    """Take so many steps; `after_step` gets the figures that each recorded.

    The stage itself stops at a step whose sampler and learner part, and this where responses are not as long as said.

    Args:
        prompts: how many of the folder's are used; fewer than `shape.batch`: a step samples several responses to each.
        ending: responses may end early.
        settings: further ones of the `ppo` section.
    """
    config = ppo.PPOConfig(
        steps=steps + 1,  # the last one would also write a checkpoint, and is not taken
        rollouts_per_step=shape.batch,
        minibatch_size=shape.batch // shape.minibatches,
        epochs_per_batch=shape.epochs,
        max_new_tokens=shape.response,
        learning_rate=3e-6,
        critic_learning_rate=3e-6,
        save_steps=steps + 1,
        **settings,
    )
    ids = torch.load(folder / "prompts.pt").tolist()[:prompts]
    given = [Prompt.user(str(i), " ".join(f"w{token}" for token in row)) for i, row in enumerate(ids)]
    runtime = Runtime.temporary(Path(tempfile.mkdtemp(dir=folder)), stage="ppo")
    runtime.device = torch.device(device)
    recorded: list[dict[str, float]] = []

    def record(_step: int, figures: Any, write: Callable[[int, Any], None] = runtime.record) -> None:
        write(_step, figures)
        recorded.append(dict(figures))

    class Bar:
        def advance(self, *_args: Any, **_figures: Any) -> None:
            tokens = recorded[-1]["length_tokens"]
            if tokens < shape.response and not ending:
                raise SystemExit(
                    f"responses have {tokens:g} tokens on average, not {shape.response}: nothing was timed"
                )
            after_step(recorded[-1])
            if len(recorded) == steps:
                raise _EnoughError

    @contextmanager
    def progress(*_args: Any) -> Iterator[Bar]:
        yield Bar()

    runtime.record, runtime.progress = record, progress
    choose(folder)
    with suppress(_EnoughError):
        ppo.run(config, ppo.PPOInputs(folder / "policy", folder / "reward", given), runtime)
