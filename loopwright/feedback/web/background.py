"""What takes long is computed beside the requests, and kept until it is out of date."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillComputing
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

REST = 10  # times as long as it took, what was computed is good enough, even if it is out of date
_log = logging.getLogger("loopwright.feedback")


class Computed(NamedTuple, Generic[T]):
    value: T
    version: int  # of what it was computed from
    at: float
    seconds: float


class Background(Generic[T]):
    """The newest results by key, such as a project. One thread computes: requests keep the other cores."""

    def __init__(self, compute: Callable[[str], T], stop: Callable[[], None] = lambda: None) -> None:
        """`stop`, called from another thread, ends `compute` early."""
        self._compute, self._stop = compute, stop
        self._found: dict[str, Computed[T]] = {}
        self._running: dict[str, Future[None]] = {}
        self._failed: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feedback-figures")

    def get(self, key: str, version: int, *, wait_seconds: float = 0.0) -> Computed[T] | None:
        """The newest result; if it is of another version, a new one is begun. None: there is none yet.

        Args:
            wait_seconds: for the new one. What is small is ready by then; for what is known to take longer, or is
                being computed already, nobody waits.
        """
        with self._lock:
            found = self._found.get(key)
            if found is not None and (found.version == version or time.time() < found.at + REST * found.seconds):
                return found
            if key in self._running or (found is not None and found.seconds > wait_seconds):
                wait_seconds = 0.0
            if (running := self._running.get(key)) is None:
                running = self._pool.submit(self._run, key, version)
                self._running[key] = running
        try:
            running.result(wait_seconds)
        except StillComputing:
            return found
        with self._lock:
            return self._found.get(key)

    def failed(self, key: str) -> bool:
        """Whether the last attempt came to nothing; the log says why. Whoever asks for the result tries again."""
        with self._lock:
            return key in self._failed

    def close(self) -> None:
        """Begin nothing more, and end what is being computed."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._stop()
        self._pool.shutdown()

    def _run(self, key: str, version: int) -> None:
        begun = time.time()
        try:
            value = self._compute(key)
            with self._lock:
                now = time.time()
                self._found[key] = Computed(value, version, now, now - begun)
                self._failed.discard(key)
        except Exception:
            _log.exception("figures of %s cannot be computed", key)
            with self._lock:
                self._failed.add(key)
        finally:
            with self._lock:
                self._running.pop(key, None)
