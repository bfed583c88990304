"""Telling other servers what has happened: signed, to public hosts alone, and again when it did not arrive.

Signed as standardwebhooks.com says, so receivers check with the library of their language. No secret is stored: each
follows from the server's key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

import httpx
from standardwebhooks import Webhook

from loopwright.errors import ConfigError
from loopwright.feedback.outbound import Resolve, Target, addresses_of, checked_url, resolve

ATTEMPTS = 8  # within about 11 hours
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 6 * 3600.0
MAX_ADDRESSES = 4  # of a host, tried one after the other
SHORTEST_KEY = 32  # bytes


def secret_of(server_key: bytes, webhook_id: str) -> str:
    """What signs a webhook's messages, as its receiver gets it: HMAC-SHA-256 of the id under the server's key.

    Raises:
        ConfigError: the key is shorter than SHORTEST_KEY bytes.
    """
    if len(server_key) < SHORTEST_KEY:
        raise ConfigError(f"the server's key has {len(server_key)} bytes, fewer than {SHORTEST_KEY}; make a new one")
    secret = hmac.digest(server_key, b"loopwright webhook " + webhook_id.encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(secret).decode()


def signed_headers(secret: str, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The headers of one attempt. The id stays the same when a message is sent again; the time does not.

    Raises:
        ConfigError: the id has other characters than letters, digits, - and _, or more than 64.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", message_id):
        raise ConfigError("the id of a message takes 1 to 64 letters, digits, - and _; give it another")
    now = now.astimezone(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, body.decode()),
    }


class Delivery(NamedTuple):
    """How one attempt went."""

    ok: bool  # a status of 200 to 299
    status: int | None  # None: no answer
    error: str | None  # for people; nothing of what the other server said
    seconds: float
    may_pass: bool  # trying again may help


@dataclass(frozen=True)
class Sender:
    """Sends messages, each attempt on a connection of its own.

    Args:
        allow_loopback: for tests: also servers on this machine, and those by http.
        timeout_seconds: for an attempt as a whole, from the name's resolution to the end of the answer's headers.
        context: of TLS; None: the system's certificates.
    """

    allow_loopback: bool = False
    timeout_seconds: float = 10.0
    resolve: Resolve = resolve
    context: ssl.SSLContext | None = None

    async def deliver(self, url: str, body: bytes, *, message_id: str, secret: str) -> Delivery:
        """One attempt. Redirects are not followed, proxies of the environment not used, the answer's body not read.

        Args:
            body: JSON as UTF-8.

        Raises:
            ConfigError: the message's id is none. What is wrong with the URL is said in the delivery.
        """
        headers = signed_headers(secret, message_id, body, datetime.now(UTC))
        headers["content-type"] = "application/json"
        begun = time.monotonic()
        status, error, may_pass = None, None, True
        try:
            async with asyncio.timeout(self.timeout_seconds):
                status = await self._status(url, body, headers)
        except ConfigError as refused:
            error, may_pass = str(refused), False
        except TimeoutError:
            error = f"no answer within {self.timeout_seconds:g} seconds"
        except (httpx.HTTPError, OSError, ValueError) as failed:  # ValueError: of a resolver's strange answer
            error = _failure(failed)
        if status is not None and not 200 <= status < 300:
            error = f"answered with status {status}" + (", and redirects are not followed" if status < 400 else "")
            may_pass = status in (408, 429) or status >= 500
        return Delivery(error is None, status, error, time.monotonic() - begun, error is not None and may_pass)

    async def _status(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        target = checked_url(url, allow_loopback=self.allow_loopback)
        addresses = await addresses_of(target, self.resolve, allow_loopback=self.allow_loopback)
        tried = addresses[:MAX_ADDRESSES]
        async with httpx.AsyncClient(
            verify=self.context or _context(),
            timeout=httpx.Timeout(self.timeout_seconds, connect=self.timeout_seconds / len(tried)),
            follow_redirects=False,
            trust_env=False,
        ) as client:
            for last, address in enumerate(tried, start=1 - len(tried)):
                request = _request(client, target, address, body, headers)
                try:
                    response = await client.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if last == 0:
                        raise
                    continue
                await response.aclose()
                return response.status_code
        raise AssertionError("a target has an address")


def next_wait_seconds(attempts: int, message_id: str) -> float | None:
    """How long to wait after so many attempts that failed; None: give up.

    Five times as long each time, and up to half less, so that messages which failed together do not come back
    together; how much less follows from the message and the attempt.
    """
    if attempts >= ATTEMPTS:
        return None
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 5.0 ** (attempts - 1))
    return longest * random.Random(f"{message_id} {attempts}").uniform(0.5, 1.0)


def _request(
    client: httpx.AsyncClient, target: Target, address: str, body: bytes, headers: Mapping[str, str]
) -> httpx.Request:
    """To the address, for the name: in the Host header, and for TLS, which checks the certificate against it."""
    url = httpx.URL(scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode())
    return client.build_request(
        "POST",
        url,
        content=body,
        headers={**headers, "host": target.netloc, "user-agent": "loopwright"},
        extensions={"sni_hostname": target.host},
    )


def _failure(error: Exception) -> str:
    """Why there was no answer, in our own words."""
    if isinstance(error, socket.gaierror):
        return "the host's name is not known"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "the host's certificate is not valid for its name"
    return f"no answer ({type(error).__name__})"


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()
