"""JSON that somebody gives, to be sent on: what could be kept and never be read again is refused."""

import json
from typing import Any

DEEPEST = 32  # objects and arrays in one another; what reads and writes JSON gives up at some hundreds


def sendable(given: dict[str, Any]) -> dict[str, Any]:
    """What was given.

    Raises:
        ValueError: it is nested too deep, or holds what JSON cannot say: half of a surrogate pair, NaN, infinity.
    """
    if _deeper_than(given, DEEPEST):
        raise ValueError(f"is nested more than {DEEPEST} deep")
    try:
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a character (a lone surrogate)") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be sent as JSON: {error}") from None
    return given


def _deeper_than(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(most == 0 or _deeper_than(one, most - 1) for one in inner if isinstance(one, dict | list | tuple))
