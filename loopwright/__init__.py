"""Loopwright: the whole loop of reinforcement learning from human feedback."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = [  # noqa: F822 -- found by __getattr__
    "best_of",
    "conditioned",
    "dpo",
    "grpo",
    "hindsight",
    "kto",
    "ppo",
    "reinforce_plus_plus",
    "rejection",
    "rest",
    "reward_model",
    "rloo",
    "sft",
]


def __getattr__(name: str) -> Any:
    """The library calls, loaded when first used: `import loopwright` starts no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'loopwright' has no attribute {name!r}")
    # By its name: every stage imports this package, and must not count the library, with all stages, as its own code.
    return getattr(import_module("loopwright.library"), name)
