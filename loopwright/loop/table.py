"""The table of stages, in the order of the loop."""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopwright.stages.base import Stage

# Where each stage is, as "module:name", so that reading the table imports none.
STAGES = {
    "world": "loopwright.stages.world:STAGE",
    "pretrain": "loopwright.stages.pretrain:STAGE",
    "sft": "loopwright.stages.sft:STAGE",
    "sft_clean": "loopwright.stages.sft:CLEAN",
    "feedback": "loopwright.stages.feedback:STAGE",
    "reward": "loopwright.stages.reward:STAGE",
    "ppo": "loopwright.stages.ppo:STAGE",
    "evaluate": "loopwright.stages.evaluate:STAGE",
}


def load_stages(names: Iterable[str]) -> dict[str, "Stage"]:
    """Those of the named stages that exist, in the order of the loop."""
    wanted = set(names)
    return {name: _stage(where) for name, where in STAGES.items() if name in wanted}


def _stage(where: str) -> "Stage":
    module, _, attribute = where.partition(":")
    stage: Stage = getattr(import_module(module), attribute)
    return stage
