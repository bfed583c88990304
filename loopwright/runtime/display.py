"""What a person watches while a stage works. The command line draws it; a library call stays quiet."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """One bar."""

    def advance(self, n: int = 1, **shown: float) -> None:
        """Move on by `n`; `shown` are figures to print beside the bar, such as loss=1.23."""


class Display(Protocol):
    """Where progress and messages go."""

    def progress(self, description: str, total: int, start: int = 0) -> AbstractContextManager[Progress]: ...

    def log(self, message: str) -> None: ...


class _NoProgress:
    def advance(self, n: int = 1, **shown: float) -> None:
        pass


class Quiet:
    """Shows nothing."""

    def progress(self, description: str, total: int, start: int = 0) -> AbstractContextManager[Progress]:
        return nullcontext(_NoProgress())

    def log(self, message: str) -> None:
        pass
