"""What the steps of a run are called: a stage by its name, a stage of a round with the round before it: v2.reward."""

import re

_IN_A_ROUND = re.compile(r"v(\d+)\.(.+)")


def named(number: int, stage: str) -> str:
    """What a stage of a round is called."""
    return f"v{number}.{stage}"


def round_of(step: str) -> int:
    """The round that a step belongs to, from 1; 0 for those of no round."""
    found = _IN_A_ROUND.fullmatch(step)
    return int(found[1]) if found else 0


def stage_of(step: str) -> str:
    """The name of a step within its round: v2.reward -> reward."""
    found = _IN_A_ROUND.fullmatch(step)
    return found[2] if found else step


def version_of(step: str) -> str:
    """What the policy that a step leaves behind is called: its round, or outside of rounds the step."""
    return f"v{number}" if (number := round_of(step)) else step
