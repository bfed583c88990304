"""The whole loop: which stages run, what is stale, and how a killed run goes on."""

from loopwright.loop.config import RunConfig, config_from, load_config
from loopwright.loop.execution import run
from loopwright.loop.line import Version, versions
from loopwright.loop.lineage import StageStatus, status
from loopwright.loop.rollback import rollback
from loopwright.loop.seeds import refuse_several, run_seeds, seed_folders
from loopwright.loop.summary import read_summary

__all__ = [
    "RunConfig",
    "StageStatus",
    "Version",
    "config_from",
    "load_config",
    "read_summary",
    "refuse_several",
    "rollback",
    "run",
    "run_seeds",
    "seed_folders",
    "status",
    "versions",
]
