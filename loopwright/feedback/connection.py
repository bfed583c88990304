"""HTTP to an annotation server: tried again where that may help, bounded, and with errors for people."""

import json
import os
import random
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loopwright.errors import ConfigError, StoreError

TOKEN_VARIABLE = "LOOPWRIGHT_FEEDBACK_TOKEN"
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 30.0  # between two attempts
LONGEST_REPLY_BYTES = 64 * 2**20
LONGEST_LINE_BYTES = 8 * 2**20  # of a stream

_chance = random.SystemRandom()  # waiting times are no part of a run's random numbers


class Passing(Exception):
    """A failure that may be over at the next attempt."""


class Unreachable(StoreError):
    """The server does not answer; it may later."""


class Connection:
    """Requests with a token, one after the other."""

    def __init__(self, url: str, token: str, *, timeout_seconds: float, attempts: int) -> None:
        """Raises ConfigError where the address is none, or httpx is not installed."""
        self.url = checked_url(url)
        self.attempts = attempts
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise ConfigError('a feedback server is asked with httpx: pip install "loopwright[feedback]"') from error
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_seconds,
            verify=ssl.create_default_context(),
            follow_redirects=False,  # for the token's sake
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """A JSON object.

        Raises:
            Unreachable: there was no answer, however often it was asked.
            StoreError: the server refuses, in its own words.
        """
        return self._request("GET", path, query, None)

    def send(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """As `get`, of a write that does the same when it comes twice."""
        return self._request(method, path, {}, json.dumps(body).encode())

    def lines(self, path: str, **query: Any) -> Iterator[bytes]:
        """The lines of a stream.

        Raises:
            Passing: it broke off.
            StoreError: the server refuses, or a line has no end.
        """
        from httpx import TransportError

        try:
            with self._http.stream("GET", path, params=query) as response:
                if response.status_code != 200:
                    self._check(response.status_code, _bounded(response.iter_bytes(), self))
                rest = b""
                for chunk in response.iter_bytes():
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from (line for line in whole if line.strip())
                    if len(rest) > LONGEST_LINE_BYTES:
                        raise self.strange(f"a line is longer than {LONGEST_LINE_BYTES} bytes")
                if rest.strip():
                    yield rest
        except TransportError as error:
            raise Passing(type(error).__name__) from None

    def wait(self, attempt: int, reason: Passing) -> None:
        """Sleep before the next attempt. Raises Unreachable after the last."""
        if attempt >= self.attempts:
            raise Unreachable(
                f"{self.url}: no answer in {self.attempts} attempts (the last: {reason}); start `loopwright feedback "
                "serve` there and run the same command again, which goes on"
            ) from None
        # twice as long each time, and by chance up to half less, so that clients do not come back together
        time.sleep(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)) * _chance.uniform(0.5, 1.0))

    def strange(self, what: str) -> StoreError:
        """The server says what none would say."""
        return StoreError(f"{self.url}: {what}; check that a feedback server of this version is there")

    def _request(self, method: str, path: str, query: Mapping[str, Any], body: bytes | None) -> dict[str, Any]:
        attempt = 0
        while True:
            attempt += 1
            try:
                reply = json.loads(self._once(method, path, query, body))
            except Passing as reason:
                self.wait(attempt, reason)
                continue
            except ValueError:
                reply = None
            if isinstance(reply, dict):
                return reply
            raise self.strange("what it says is no JSON object")

    def _once(self, method: str, path: str, query: Mapping[str, Any], body: bytes | None) -> bytes:
        from httpx import TransportError

        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            with self._http.stream(method, path, params=query, content=body, headers=headers) as response:
                received = _bounded(response.iter_bytes(), self)
        except TransportError as error:
            raise Passing(type(error).__name__) from None
        self._check(response.status_code, received)
        return received

    def _check(self, status: int, body: bytes) -> None:
        if status in RETRIED_STATUSES:
            raise Passing(f"status {status}")
        if 200 <= status < 300:
            return
        why = _sentence(body) or f"status {status}; is a feedback server there?"
        if status == 401:
            why = f"it does not know this token; put one of `loopwright feedback token create` into {TOKEN_VARIABLE}"
        raise StoreError(f"{self.url}: {why}")


def read_token(file: Path | None = None) -> str:
    """The token, from a file or from LOOPWRIGHT_FEEDBACK_TOKEN. Never an argument: others on a machine see those.

    Raises:
        ConfigError: there is none, or it is no token. It is not repeated.
    """
    where = f"the environment variable {TOKEN_VARIABLE}" if file is None else str(file)
    try:
        token = os.environ.get(TOKEN_VARIABLE, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: the token cannot be read ({type(error).__name__}); write it there") from None
    if not re.fullmatch(r"[!-~]+", token.strip()):
        raise ConfigError(
            f"{where} holds no token of the feedback server; make one with `loopwright feedback token create` and put "
            "it there"
        )
    return token.strip()


def checked_url(url: str) -> str:
    """A server's address, as requests begin with it.

    Raises:
        ConfigError: it is none. Nothing of it is repeated, for it may hold a password.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        plain = not (parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"))
    except ValueError:
        sound = plain = False
    if not sound or not plain:
        raise ConfigError(
            "the feedback server's address is none; write http://HOST:PORT or https://HOST, and the token into "
            f"{TOKEN_VARIABLE}"
        )
    return url.rstrip("/")


def shown(text: str) -> str:
    """A server's words on one line of a terminal."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:300]


def _bounded(chunks: Iterator[bytes], connection: Connection) -> bytes:
    received = bytearray()
    for chunk in chunks:
        received += chunk
        if len(received) > LONGEST_REPLY_BYTES:
            raise connection.strange(f"a reply is longer than {LONGEST_REPLY_BYTES} bytes")
    return bytes(received)


def _sentence(body: bytes) -> str:
    try:
        return shown(str(json.loads(body)["error"]))
    except (ValueError, KeyError, TypeError):
        return ""
