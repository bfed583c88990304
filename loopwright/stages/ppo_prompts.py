"""The prompts of PPO: held out or trained on, and those of a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from loopwright.runtime.runtime import Runtime
from loopwright.stages import sampled_prompts
from loopwright.stages.ppo_config import PolicyConfig
from loopwright.stages.sampled_prompts import Task
from loopwright.training.ppo_batch import prompts_of_step


def hold_out(tasks: list[Task], config: PolicyConfig, runtime: Runtime) -> tuple[list[Task], list[Task]]:
    """Prompts to train on, and prompts that are only assessed: none where nothing is assessed.

    Raises:
        ConfigError: no prompt would be left to train on.
    """
    if config.assess_steps is None:
        return tasks, []
    return sampled_prompts.hold_out(tasks, config.held_out_prompts, runtime.seed_for("held out"), config.section)


def tasks_of_step(tasks: Sequence[Task], step: int, config: PolicyConfig, runtime: Runtime) -> list[Task]:
    """The prompts of a step, each as often as it is answered: a pure function of seed and step."""
    prompts = config.rollouts_per_step // config.samples_per_prompt
    chosen = prompts_of_step(len(tasks), step, prompts, partial(runtime.seed_for, "prompts"))
    return [tasks[i] for i in chosen for _ in range(config.samples_per_prompt)]
