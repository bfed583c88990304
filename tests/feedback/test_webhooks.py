"""Webhooks: signed so that their library verifies them, and never sent where only the server can reach."""

import asyncio
import base64
import hashlib
import hmac
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from loopwright.errors import ConfigError
from loopwright.feedback import outbound
from loopwright.feedback.outbound import Target, checked_url, is_public
from loopwright.feedback.webhooks import (
    ATTEMPTS,
    LONGEST_WAIT_SECONDS,
    Delivery,
    Sender,
    next_wait_seconds,
    secret_of,
    signed_headers,
)

KEY = bytes(range(32))
SECRET = secret_of(KEY, "w1")
BODY = '{"type": "label.created", "text": "é"}'.encode()


# Signing


def test_a_secret_is_the_hmac_of_the_id():
    expected = hmac.new(KEY, b"loopwright webhook w1", hashlib.sha256).digest()
    assert base64.b64decode(SECRET.removeprefix("whsec_")) == expected
    assert SECRET.startswith("whsec_")
    assert len({SECRET, secret_of(KEY, "w2"), secret_of(KEY[::-1], "w1")}) == 3
    with pytest.raises(ConfigError, match="has 31 bytes, fewer than 32"):
        secret_of(KEY[:31], "w1")


def test_the_receivers_library_verifies_it():
    headers = signed_headers(SECRET, "m-1", BODY, datetime.now(UTC))
    assert Webhook(SECRET).verify(BODY, headers) == {"type": "label.created", "text": "é"}
    for body, changed, secret in (
        (BODY + b" ", {}, SECRET),
        (BODY, {"webhook-id": "m-2"}, SECRET),
        (BODY, {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}, SECRET),
        (BODY, {}, secret_of(KEY, "w2")),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers | changed)


@pytest.mark.parametrize("message_id", ["", "a.b", "a\r\nx-evil: 1", "é", "x" * 65])
def test_ids_that_could_be_read_otherwise_are_refused(message_id):
    with pytest.raises(ConfigError, match="the id of a message"):
        signed_headers(SECRET, message_id, BODY, datetime.now(UTC))


# Retries


def test_waits_grow_fivefold_up_to_a_bound_and_end():
    waits = [next_wait_seconds(attempts, "m") for attempts in range(1, ATTEMPTS + 1)]
    assert waits[-1] is None
    for attempts, wait in enumerate(waits[:-1], start=1):
        longest = min(5.0 * 5 ** (attempts - 1), LONGEST_WAIT_SECONDS)
        assert longest / 2 <= wait <= longest


def test_waits_follow_from_the_message_and_differ_between_messages():
    assert next_wait_seconds(3, "m") == next_wait_seconds(3, "m")
    assert len({next_wait_seconds(3, f"m{i}") for i in range(20)}) == 20


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.0.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.0.170", "192.88.99.1", "198.18.0.1",
        "203.0.113.1", "168.63.129.16", "::", "::1", "::7f00:1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254",
        "ff02::1", "100::1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::1",
        "2002:7f00:1::", "2001::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1",
    ],
)  # fmt: skip
def test_addresses_that_are_no_hosts_on_the_internet(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"])
def test_addresses_of_the_internet(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example/", "does not begin with https://"),
        ("ftp://hooks.example/", "does not begin with https://"),
        ("file:///etc/passwd", "does not begin with https://"),
        ("gopher://hooks.example/", "does not begin with https://"),
        ("https:hooks.example", "does not begin with https://"),
        ("https://", "does not begin with https://"),
        ("https:///path", "does not begin with https://"),
        ("https://user@hooks.example/", "user name"),
        ("https://public.example:pw@127.0.0.1/", "user name"),
        ("https://hooks.example/#part", "after #"),
        ("https://hooks.example:0/", "port 0"),
        ("https://hooks.example:99999/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://hooks.example\\@127.0.0.1/", "white space, a backslash"),
        ("https://hooks.example/a b", "white space"),
        ("https://hooks.exa\tmple/", "white space"),
        ("https://hooks.example/\r\nX-Evil: 1", "white space"),
        ("https://hооks.example/", "beyond ASCII"),
        ("https://①②⑦.0.0.1/", "beyond ASCII"),
        ("", "white space"),
        ("https://hooks.example/" + "a" * 2048, "more than 2,048"),
    ],
)
def test_urls_that_are_refused(url, why):
    with pytest.raises(ConfigError, match=why):
        checked_url(url)


def test_urls_that_are_taken():
    assert checked_url("https://hooks.example") == Target("https", "hooks.example", 443, "/")
    target = checked_url("https://[2606:4700::1111]:8443/in?a=1")
    assert target == Target("https", "2606:4700::1111", 8443, "/in?a=1")
    assert target.netloc == "[2606:4700::1111]:8443"


# Delivery


@dataclass
class Receiver:
    """A server on loopback that writes down what comes and answers what it is told."""

    answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n"
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)  # that TLS asked for
    cut_off: bool = False  # the other side closed while more was being sent
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.requests.append(head + await reader.readexactly(length))
            writer.write(self.answer)
            while self.answer.endswith(b"..."):  # an answer without end
                writer.write(b"." * 65_536)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.cut_off = True
        finally:
            writer.close()
            self.closed.set()


@asynccontextmanager
async def receiver(answer: bytes = Receiver.answer, context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    found = Receiver(answer)
    if context is not None:
        context.sni_callback = lambda connection, name, _: found.names.append(name)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=context)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


def resolver(*answers: list[str]) -> tuple[Callable, list[str]]:
    """One answer a call, and the names that were asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    return resolve, asked


async def send(url: str, **settings) -> Delivery:
    sender = Sender(**{"allow_loopback": True, "timeout_seconds": 5.0} | settings)
    return await sender.deliver(url, BODY, message_id="m-1", secret=SECRET)


def test_a_message_arrives_signed():
    async def scene():
        async with receiver() as server:
            return await send(f"http://localhost:{server.port}/in?a=1"), server

    delivery, server = asyncio.run(scene())
    assert (delivery.ok, delivery.status, delivery.error, delivery.may_pass) == (True, 204, None, False)
    assert delivery.seconds > 0
    head, body = server.requests[0].split(b"\r\n\r\n")
    assert head.startswith(b"POST /in?a=1 HTTP/1.1\r\n") and body == BODY
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    headers = {name.lower(): value for name, value in headers.items()}
    assert Webhook(SECRET).verify(body, headers)
    assert headers["host"] == f"localhost:{server.port}" and headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "ok", "may_pass"),
    [(200, True, False), (400, False, False), (404, False, False), (408, False, True), (410, False, False),
     (429, False, True), (500, False, True), (503, False, True)],
)  # fmt: skip
def test_what_a_status_means(status, ok, may_pass):
    async def scene():
        async with receiver(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode()) as server:
            return await send(f"http://127.0.0.1:{server.port}/")

    delivery = asyncio.run(scene())
    assert (delivery.ok, delivery.status, delivery.may_pass) == (ok, status, may_pass)
    assert (delivery.error is None) == ok


def test_a_redirect_is_not_followed():
    async def scene():
        async with receiver() as inner:
            answer = f"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:{inner.port}/secret\r\ncontent-length: 0\r\n\r\n"
            async with receiver(answer.encode()) as server:
                return await send(f"http://127.0.0.1:{server.port}/"), inner

    delivery, inner = asyncio.run(scene())
    assert not delivery.ok and not delivery.may_pass and "redirects are not followed" in delivery.error
    assert inner.requests == []


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"], ["64:ff9b::a00:1"], ["2002:a00:1::"],
     ["fe80::1%eth0"], ["169.254.169.254"]],
)  # fmt: skip
def test_a_name_of_an_inner_address_is_refused_before_a_connection(monkeypatch, addresses):
    """One inner address among public ones is enough; nothing is told of which."""
    resolve, asked = resolver(addresses)

    monkeypatch.setattr("loopwright.feedback.webhooks._request", lambda *_: pytest.fail("a request was made"))
    delivery = asyncio.run(send("https://hooks.example/", resolve=resolve, allow_loopback=False))
    assert asked == ["hooks.example"]
    assert delivery.status is None and not delivery.may_pass
    assert delivery.error == "the URL's host has an address that is not public; give a host on the internet"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.1", "[::1]", "0", "localhost."]
)
def test_other_ways_to_write_loopback_are_refused(host):
    """By the system's own resolver, which reads them all."""
    delivery = asyncio.run(send(f"https://{host}:9/", allow_loopback=False))
    assert not delivery.ok and not delivery.may_pass and "not public" in delivery.error


def test_loopback_by_http_does_not_open_the_inner_network():
    resolve, _ = resolver(["10.0.0.1"])
    assert "not public" in asyncio.run(send("http://hooks.example/", resolve=resolve)).error
    resolve, _ = resolver(["8.8.8.8"])  # and http stays on this machine
    assert "not public" in asyncio.run(send("http://hooks.example/", resolve=resolve)).error


def test_a_name_that_moves_after_the_check_moves_nothing(monkeypatch):
    """The connection goes to the address that was checked; the name is not resolved again, by nobody."""
    resolve, asked = resolver(["127.0.0.1"], ["10.0.0.1"])
    real = socket.getaddrinfo

    def numbers_only(host, *args, **kwargs):
        ip_address(host.decode() if isinstance(host, bytes) else host)
        return real(host, *args, **kwargs)

    async def scene():
        async with receiver() as server:
            monkeypatch.setattr(socket, "getaddrinfo", numbers_only)
            return await send(f"http://rebind.example:{server.port}/", resolve=resolve), server

    delivery, server = asyncio.run(scene())
    assert delivery.ok and asked == ["rebind.example"]
    assert f"\r\nhost: rebind.example:{server.port}\r\n".encode() in server.requests[0].lower()


def test_the_next_address_is_tried_where_one_does_not_answer():
    async def scene():
        async with receiver() as server:
            resolve, _ = resolver(["127.0.0.2", "127.0.0.1"])  # the server listens on the second
            return await send(f"http://two.example:{server.port}/", resolve=resolve)

    assert asyncio.run(scene()).ok


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def scene():
        async with receiver() as server:
            return await send(f"http://127.0.0.1:{server.port}/")

    assert asyncio.run(scene()).ok


def test_an_answer_without_end_is_not_read():
    async def scene():
        async with receiver(b"HTTP/1.1 200 OK\r\n\r\n...") as server:
            delivery = await send(f"http://127.0.0.1:{server.port}/")
            await asyncio.wait_for(server.closed.wait(), 30)
            return delivery, server

    delivery, server = asyncio.run(scene())
    assert delivery.ok and server.cut_off


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nx: 1"])
def test_an_answer_that_does_not_come_is_not_waited_for(answer):
    async def hold(reader, writer):
        await reader.read(65_536)
        writer.write(answer)
        await reader.read()  # until the other side gives up

    async def scene():
        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        delivery = await send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout_seconds=0.2)
        server.close()
        return delivery

    delivery = asyncio.run(scene())
    assert delivery.error == "no answer within 0.2 seconds" and delivery.may_pass


def test_headers_that_drip_are_not_waited_for():
    """Each byte comes in time, the whole does not."""

    async def drip(reader, writer):
        try:
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass

    async def scene():
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        delivery = await send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout_seconds=0.5)
        server.close()
        return delivery

    delivery = asyncio.run(scene())
    assert not delivery.ok and delivery.may_pass


def test_a_resolver_that_hangs_is_not_waited_for():
    async def never(host, port):
        await asyncio.Event().wait()

    delivery = asyncio.run(send("https://hooks.example/", resolve=never, timeout_seconds=0.2))
    assert delivery.error == "no answer within 0.2 seconds"


@pytest.mark.parametrize(
    ("error", "said"), [(socket.gaierror(-2, "x"), "the host's name is not known"), (OSError(), "no answer (OSError)")]
)
def test_a_name_that_cannot_be_resolved_may_be_tomorrow(error, said):
    async def resolve(host, port):
        raise error

    delivery = asyncio.run(send("https://hooks.example/", resolve=resolve))
    assert (delivery.status, delivery.error, delivery.may_pass) == (None, said, True)


@pytest.mark.parametrize("answer", [b"not HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000])
def test_an_answer_that_is_none(answer):
    async def scene():
        async with receiver(answer) as server:
            return await send(f"http://127.0.0.1:{server.port}/")

    delivery = asyncio.run(scene())
    assert (delivery.ok, delivery.status, delivery.error) == (False, None, "no answer (RemoteProtocolError)")


def test_nobody_listens():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        delivery = asyncio.run(send(f"http://127.0.0.1:{closed.getsockname()[1]}/"))
    assert (delivery.status, delivery.error, delivery.may_pass) == (None, "no answer (ConnectError)", True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key) for hooks.example."""
    if shutil.which("openssl") is None:
        pytest.skip("no test of certificates without openssl")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example",
         "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


@pytest.mark.parametrize(("host", "fits"), [("hooks.example", True), ("other.example", False)])
def test_tls_is_for_the_name_though_the_connection_is_to_the_address(certificate, host, fits):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=certificate[0])
    resolve, _ = resolver(["127.0.0.1"])

    async def scene():
        async with receiver(context=serving) as server:
            return await send(f"https://{host}:{server.port}/", resolve=resolve, context=trusting), server

    delivery, server = asyncio.run(scene())
    assert server.names == [host]
    assert delivery.ok == fits
    if not fits:
        assert delivery.error == "the host's certificate is not valid for its name"
        assert server.requests == []


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate)
    resolve, _ = resolver(["127.0.0.1"])

    async def scene():
        async with receiver(context=serving) as server:
            return await send(f"https://hooks.example:{server.port}/", resolve=resolve), server

    delivery, server = asyncio.run(scene())
    assert not delivery.ok and server.requests == []


def test_the_systems_resolver_gives_each_address_once():
    assert asyncio.run(outbound.resolve("127.0.0.1", 80)) == ["127.0.0.1"]
