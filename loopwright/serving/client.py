"""What every client of ours does with an address and a reply before it believes either."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loopwright.errors import ConfigError

if TYPE_CHECKING:
    import httpx

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0  # between two attempts; a server may ask for less or more
LONGEST_ASKED_WAIT_SECONDS = 600.0
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0  # that an unused connection is kept: less than our servers keep it

_chance = random.SystemRandom()  # waiting times are no part of a run's random numbers


# With TLS the second socket takes the first one's place.
_CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")


class WrongReply(Exception):
    """What a server did that no right one does: the end of a sentence that begins with its name."""


def http_client(token: str | None, timeout_seconds: float, what: str) -> httpx.Client:
    """Connections are kept; redirects are not followed; neither proxies nor passwords of the environment are used.

    Raises:
        ConfigError: httpx is not installed, which `what` needs.
    """
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise ConfigError(f'{what} needs httpx: pip install "loopwright[serve]"') from error
    return httpx.Client(
        headers={"Accept-Encoding": "identity"} | ({} if token is None else {"Authorization": f"Bearer {token}"}),
        timeout=httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, CONNECT_SECONDS)),
        limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
        verify=_certificates(),
        follow_redirects=False,
        trust_env=False,
    )


@cache
def _certificates() -> ssl.SSLContext:
    """The system's; reading them takes longer than a request."""
    return ssl.create_default_context()


def checked_url(url: str, server: str, *, example: str, variable: str) -> str:
    """The address of a server, as requests begin with it.

    Args:
        server: what it is, for errors: "a reward server".
        example: an address that is right.
        variable: the environment variable where a token belongs.

    Raises:
        ConfigError: it is none. Nothing of it is repeated, because passwords stand in the strangest places.
    """
    none = f"the address of {server} is none: {{}}; write {example}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(none.format("its host or port cannot be read")) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"the address of {server} holds a password; give it as a token in {variable}")
    faults = {
        "it does not begin with http:// or https://": parts.scheme not in ("http", "https"),
        "it names no host": not parts.hostname,
        "it has port 0": port == 0,
        "it has a query": "?" in url,
        "it has a fragment": "#" in url,
    }
    for fault, found in faults.items():
        if found:
            raise ConfigError(none.format(fault))
    return url.rstrip("/")


class Deadline:
    """Ends a request that takes too long as a whole, where httpx bounds each wait for the next bytes alone."""

    def __init__(self) -> None:
        self.passed = False
        self._socket: socket.socket | None = None  # of the connection that was opened last: there is one at a time

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """For httpx's request extension of this name."""
        if event in _CONNECTED:
            self._socket = info["return_value"].get_extra_info("socket")
            if self.passed:
                self._end()

    @contextmanager
    def watch(self, seconds: float) -> Iterator[None]:
        """What is read inside ends after so many seconds; `passed` tells whether it did."""
        self.passed = False
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _end(self) -> None:
        self.passed = True
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # whoever reads from it is woken


def received(response: httpx.Response, most_bytes: int) -> Iterator[bytes]:
    """The body of a reply as it comes in.

    Raises:
        WrongReply: it is compressed or has more than `most_bytes`.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        raise WrongReply("compresses its replies, which nobody asked for")
    count = 0
    for chunk in response.iter_raw():
        count += len(chunk)
        if count > most_bytes:
            raise WrongReply(f"replies with more than {most_bytes} bytes")
        yield chunk


def own_wait(attempt: int) -> float:
    """Seconds: twice as long each time, and by chance up to half less, so that clients do not come back together."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)) * _chance.uniform(0.5, 1.0)


def asked_wait(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number of them or a date; None where it holds neither."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        seconds = float(header.strip()[:12])
    else:
        try:
            moment = parsedate_to_datetime(header)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            seconds = (moment - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_ASKED_WAIT_SECONDS)


def shown(text: str) -> str:
    """A server's words on one line of a terminal."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())[:300]
