"""The table of stages, in the order of the loop."""

import re
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopwright.stages.base import Stage

# Where each stage is, as "module:name", so that reading the table imports none.
STAGES = {
    "world": "loopwright.stages.world:STAGE",
    "dataset": "loopwright.stages.dataset:STAGE",
    "pretrain": "loopwright.stages.pretrain:STAGE",
    "demonstrations": "loopwright.stages.demonstrations:STAGE",
    "sft": "loopwright.stages.sft:STAGE",
    "sft_clean": "loopwright.stages.sft:CLEAN",
    "annotator": "loopwright.stages.reward_of_part:ANNOTATOR",
    "judge": "loopwright.stages.reward_of_part:JUDGE",
    "constitutional": "loopwright.stages.constitutional:STAGE",
    "feedback": "loopwright.stages.feedback:STAGE",
    "ai_feedback": "loopwright.stages.ai_feedback:STAGE",
    "reward": "loopwright.stages.reward:STAGE",
    "rejection": "loopwright.stages.rejection:STAGE",
    "rest": "loopwright.stages.rest:STAGE",
    "hindsight": "loopwright.stages.hindsight:STAGE",
    "conditioned": "loopwright.stages.conditioned:STAGE",
    "dpo": "loopwright.stages.dpo:STAGE",
    "kto": "loopwright.stages.kto:STAGE",
    "rloo": "loopwright.stages.ppo:RLOO",
    "grpo": "loopwright.stages.ppo:GRPO",
    "reinforce_plus_plus": "loopwright.stages.ppo:REINFORCE_PLUS_PLUS",
    "ppo": "loopwright.stages.ppo:STAGE",
    "red_team": "loopwright.stages.red_team:STAGE",
    "evaluate": "loopwright.stages.evaluate:STAGE",
}

# Stages that a recipe may have several of, each under a name of its own: reward_helpful, reward_safe.
NAMED = ("reward",)


def load_stages(names: Iterable[str]) -> dict[str, "Stage"]:
    """Those of the named stages that exist, in the order of the loop; named ones in the order given."""
    wanted = list(names)
    stages: dict[str, Stage] = {}
    for name, where in STAGES.items():
        if name in wanted:
            stages[name] = _stage(where)
        for own in dict.fromkeys(wanted):
            if name in NAMED and re.fullmatch(rf"{name}_[a-z0-9]+(_[a-z0-9]+)*", own):
                stages[own] = replace(_stage(where), name=own)
    return stages


def _stage(where: str) -> "Stage":
    module, _, attribute = where.partition(":")
    stage: Stage = getattr(import_module(module), attribute)
    return stage
