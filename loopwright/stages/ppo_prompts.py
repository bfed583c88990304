"""The prompts of PPO: held out or trained on, and those of a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from loopwright.runtime.runtime import Runtime
from loopwright.stages import sampled_prompts
from loopwright.stages.sampled_prompts import Task
from loopwright.training.ppo_batch import prompts_of_step

if TYPE_CHECKING:
    from loopwright.stages.ppo import PPOConfig


def hold_out(tasks: list[Task], config: PPOConfig, runtime: Runtime) -> tuple[list[Task], list[Task]]:
    """Prompts to train on, and prompts that are only assessed: none where nothing is assessed.

    Raises:
        ConfigError: no prompt would be left to train on.
    """
    if config.assess_steps is None:
        return tasks, []
    return sampled_prompts.hold_out(tasks, config.held_out_prompts, runtime.seed_for("held out"), config.section)


def tasks_of_step(tasks: Sequence[Task], step: int, config: PPOConfig, runtime: Runtime) -> list[Task]:
    """The prompts of a step: a pure function of seed and step."""
    chosen = prompts_of_step(len(tasks), step, config.rollouts_per_step, partial(runtime.seed_for, "prompts"))
    return [tasks[i] for i in chosen]
