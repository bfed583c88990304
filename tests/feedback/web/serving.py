"""An app on a real socket of this machine, for as long as a test needs it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

STARTS_WITHIN_SECONDS = 60


@contextmanager
def served(app, listening: socket.socket | None = None) -> Iterator[str]:
    """The address of the app, which a thread serves on a free port of the loopback interface, lifespan included.

    An app that must know its address beforehand gets it from the socket that is given: see `a_socket`.
    """
    listening = listening or a_socket()
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        _wait_for(server, thread)
        yield address_of(listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def a_socket() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def address_of(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def _wait_for(server: uvicorn.Server, thread: threading.Thread) -> None:
    """An app that refuses to start ends the thread; without this the test would wait for an answer for ever."""
    given_up = time.monotonic() + STARTS_WITHIN_SECONDS
    while not server.started:
        assert thread.is_alive() and time.monotonic() < given_up, "the app did not start"
        time.sleep(0.01)
