"""The secret that a server and its clients share."""

import os
import re
from pathlib import Path

from loopwright.errors import ConfigError

SHORTEST_TOKEN = 16  # characters
_MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def read_token(file: Path | None, variable: str, *, shortest: int = SHORTEST_TOKEN) -> str | None:
    """The token in a file, or else in an environment variable; None where there is neither.

    Never an argument of a command: other users of the machine see those.

    Args:
        shortest: characters; 1 for the token of somebody else's server, who chose it.

    Raises:
        ConfigError: the file cannot be read, or the token is too short or not of printable ASCII characters.
    """
    if file is None:
        token, source = os.environ.get(variable, ""), f"the environment variable {variable}"
        if not token:
            return None
    else:
        source = str(file)
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: the token cannot be read ({type(error).__name__}); {_MAKE_ONE}") from None
    check_token(token, source, shortest=shortest)
    return token


def check_token(token: str, source: str, *, shortest: int = SHORTEST_TOKEN) -> None:
    """Raises ConfigError, which does not repeat the token."""
    if not re.fullmatch(r"[!-~]*", token):
        raise ConfigError(f"the token in {source} has characters that no HTTP header carries; {_MAKE_ONE}")
    if len(token) < shortest:
        raise ConfigError(
            f"the token in {source} has {len(token)} characters and could be guessed; it needs {shortest}: {_MAKE_ONE}"
        )
