"""Embedded examples: generated text, prompts and exact judges."""

from loopwright.worlds.base import World
from loopwright.worlds.front_desk.world import FrontDesk

WORLDS: dict[str, World] = {"front_desk": FrontDesk()}

__all__ = ["WORLDS", "World"]
