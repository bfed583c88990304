"""The table of stages, in the order of the loop."""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopwright.stages.base import Stage

# Modules by name, so that reading the table imports no stage; each has a `STAGE`.
STAGES = {
    "world": "loopwright.stages.world",
    "pretrain": "loopwright.stages.pretrain",
    "sft": "loopwright.stages.sft",
    "feedback": "loopwright.stages.feedback",
    "reward": "loopwright.stages.reward",
    "ppo": "loopwright.stages.ppo",
    "evaluate": "loopwright.stages.evaluate",
}


def load_stages(names: Iterable[str]) -> dict[str, "Stage"]:
    """Those of the named stages that exist, in the order of the loop."""
    wanted = set(names)
    return {name: import_module(module).STAGE for name, module in STAGES.items() if name in wanted}
