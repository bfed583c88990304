"""Loopwright: the whole loop of reinforcement learning from human feedback."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["ppo", "reward_model", "sft"]  # noqa: F822 -- found by __getattr__


def __getattr__(name: str) -> Any:
    """The library calls, loaded when first used: `import loopwright` starts no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'loopwright' has no attribute {name!r}")
    from loopwright import library

    return getattr(library, name)
