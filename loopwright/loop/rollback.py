"""Go back to an earlier version of a run with rounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.errors import ConfigError
from loopwright.loop.execution import Render, run
from loopwright.loop.lineage import load_run_config
from loopwright.runtime.display import Display
from loopwright.schemas.steps import version_of
from loopwright.tracking.artifacts import current_artifacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loopwright.stages.base import Stage


def rollback(
    folder: Path,
    version: str,
    *,
    stages: Mapping[str, Stage] | None = None,
    display: Display | None = None,
    render: Render | None = None,
) -> dict[str, Any]:
    """End the run's rounds with `version` ("v3"). Nothing is deleted: the recipe brings the later rounds back.

    Returns:
        The summary of what is left, as in `summary.json`.

    Raises:
        ConfigError: the run has no rounds, did not make this version, or ends with it already.
    """
    config = load_run_config(folder, stages=stages)
    made = [one for one in dict.fromkeys(map(version_of, current_artifacts(folder))) if re.fullmatch(r"v\d+", one)]
    if config.rounds is None or not made:
        raise ConfigError(f"{folder}: has no rounds to go back over; name a run of a recipe with a rounds section")
    if version not in made:
        raise ConfigError(f"{folder}: has no version {version}; it made {', '.join(made)}")
    if version == made[-1]:
        raise ConfigError(f"{folder}: {version} is the newest version; there is nothing to go back from")
    return run(config.ending_with(int(version[1:])), folder, stages=stages, display=display, render=render)
