"""Go back to an earlier version of a run with rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.errors import ConfigError
from loopwright.loop.execution import Render, run
from loopwright.loop.lineage import StageStatus, load_run_config, status
from loopwright.loop.plan import make_plan
from loopwright.runtime.display import Display
from loopwright.schemas.steps import round_of, stage_of, version_of

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

    A version is brought back as it was or not at all; what it does not depend on may run anew, as what follows the
    rounds does. Killed, the same call goes on.

    Returns:
        The summary of what is left, as in `summary.json`.

    Raises:
        ConfigError: the run has no rounds, did not make this version, ends with it already, or would make it anew.
    """
    config = load_run_config(folder, stages=stages)
    states = status(folder, config=config, stages=stages)
    made = _versions(states)
    if config.rounds is None or not made:
        raise ConfigError(f"{folder}: has no rounds to go back over; name a run of a recipe with a rounds section")
    if version not in made:
        raise ConfigError(f"{folder}: has no version {version}; it made {', '.join(made)}")
    number = int(version[1:])
    begun = any(round_of(one.stage) > number and one.state != "not run" for one in states)
    if not begun and config.rounds.until != number:  # where it is, a rollback was killed and goes on
        raise ConfigError(f"{folder}: {version} is the newest version; there is nothing to go back from")
    needed = make_plan(config, stages).behind(made[version])
    behind = [one for one in states if one.stage in needed]
    anew = next((one for one in behind if one.state != "done"), None)
    if anew is not None:
        raise ConfigError(
            f"{folder}: {version} cannot be brought back as it was, because {anew.stage} before it is {anew.state} "
            f"({'; '.join(anew.reasons) or 'its files are gone'}); undo that, or use what there is: "
            f"{folder / made[version][behind[-1].stage]}"
        )
    return run(config.ending_with(number), folder, stages=stages, display=display, render=render)


def _versions(states: Sequence[StageStatus]) -> dict[str, dict[str, str]]:
    """Version -> step -> folder of its artifact, of the steps that made it; those alone that all of them made."""
    from loopwright.stages.base import POLICIES

    found: dict[str, dict[str, str]] = {}
    for one in states:
        if round_of(one.stage) and stage_of(one.stage) in POLICIES:
            found.setdefault(version_of(one.stage), {})[one.stage] = one.artifact or ""
    return {version: made for version, made in found.items() if all(made.values())}
