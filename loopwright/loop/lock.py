"""One process a run directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopwright.errors import ConfigError, RunBusyError


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run directory. The system lets go when the process ends, however it ends.

    Raises:
        RunBusyError: another process holds it; names that process.
        ConfigError: nothing can be written there.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        opened = (run / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{run}: cannot be a run directory ({reason}); choose another --out") from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise RunBusyError(f"{run}: process {pid} is working here; wait for it or choose another --out") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
