"""The client of a model server: what it asks, what it tries again, what it does not believe."""

import json
import socket
import sys
import threading

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import ConfigError, ResponderError
from loopwright.responders import openai
from loopwright.responders.openai import OpenAIResponder, _event_data
from loopwright.responders.wire import TOKEN_VARIABLE
from loopwright.schemas import Message, Reply, ReplySettings, whole
from loopwright.serving.client import Deadline, WrongReply
from tests.serving import TOKEN, scripted

MESSAGES = [Message(role="system", content="Be brief."), Message(role="user", content="Hi\u2028")]
SETTINGS = ReplySettings(temperature=0.5, max_new_tokens=7, seed=3)
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "system_fingerprint": "fp"}


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that would have been waited."""
    waited = []
    monkeypatch.setattr(openai.time, "sleep", waited.append)
    return waited


def chunk(content=None, finish_reason=None, **changes):
    delta = {} if content is None else {"content": content}
    text = json.dumps(HEAD | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]} | changes)
    return b"data: " + text.encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
WORDS = [chunk(""), chunk("Hello"), chunk(" you\u2028"), chunk(None, "stop"), DONE]


def streams(*events, status=200, kind="text/event-stream; charset=utf-8", **headers):
    """A reply whose connection ends with the last event."""
    headers = {"Content-Type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: (status, headers, iter(events))


def says(status, body=b"", kind="application/json", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return streams(content, status=status, kind=kind, **headers)


def hangs_up(request):
    return None, {}, b""


def answer(content="Hello you", finish_reason="stop", **changes):
    message = {"role": "assistant", "content": content}
    return HEAD | {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]} | changes


def pieces(url, model="m", **options):
    return list(OpenAIResponder(url, model, **options).reply(MESSAGES, SETTINGS))


# ---- right replies


def test_pieces_come_as_they_are_written():
    """The server goes on only when the client has given out what it was sent."""
    heard = threading.Event()

    def waits_for_its_reader():
        yield chunk("Hello")
        assert heard.wait(10)
        yield from WORDS[2:]

    with scripted(lambda request: (200, {"Content-Type": "text/event-stream"}, waits_for_its_reader())) as (url, _):
        reply = OpenAIResponder(url, "m").reply(MESSAGES, SETTINGS)
        assert next(reply) == "Hello"
        heard.set()
        last = Reply(text="Hello you\u2028", finished=True, model="m-1", policy="fp")
        assert list(reply) == [" you\u2028", last]


def test_without_streaming_it_is_one_piece():
    with scripted(says(200, answer(finish_reason="length"))) as (url, seen):
        got = pieces(url, stream=False)
    assert got == ["Hello you", Reply(text="Hello you", finished=False, model="m-1", policy="fp")]
    assert json.loads(seen[0][2])["stream"] is False


def test_what_is_asked():
    with scripted(streams(*WORDS), streams(*WORDS)) as (url, seen):
        pieces(url + "/v1/", token="short")
        whole(OpenAIResponder(url, "m").reply(MESSAGES, ReplySettings()))
    path, headers, body = seen[0]
    assert path == "POST /v1/chat/completions"
    assert headers["Authorization"] == "Bearer short" and headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "model": "m", "temperature": 0.5, "max_tokens": 7, "seed": 3, "stream": True,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\u2028"}],
    }  # fmt: skip
    assert "Authorization" not in seen[1][1] and "seed" not in json.loads(seen[1][2])


def test_the_only_model_of_a_server_needs_no_name(waits):
    cards = {"object": "list", "data": [{"id": "newest", "object": "model"}]}
    with scripted(says(503), says(200, cards), streams(*WORDS)) as (url, seen):
        pieces(url, model=None)
    assert [path for path, _, _ in seen] == ["GET /models", "GET /models", "POST /chat/completions"]
    assert json.loads(seen[2][2])["model"] == "newest"
    for data, message in (([], r"has 0 models \(\)"), ([{"id": "a"}, {"id": "b"}], r"has 2 models \(a, b\); name one")):
        with scripted(says(200, {"data": data})) as (url, _), pytest.raises(ResponderError, match=message):
            pieces(url, model=None)


@pytest.mark.parametrize("cut", [1, 3, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_are_read_however_they_are_cut(cut, end):
    text = b": ping\nevent: message\ndata: one\nid: 7\n\n\n:\ndata:two\ndata:  lines\n\ndata: \xe2\x80\xa8\n\ndata: cut"
    text = text.replace(b"\n", end)
    chunks = [text[i : i + cut] for i in range(0, len(text), cut)]
    assert list(_event_data(chunks)) == [b"one", b"two\n lines", b"\xe2\x80\xa8"]


@pytest.mark.parametrize("endless", [[b"x" * 1000], [b"data: " + b"x" * 994 + b"\n"]])
def test_an_event_without_an_end(endless):
    with pytest.raises(WrongReply, match="sends an event of more than 1048576 bytes"):
        list(_event_data(endless * 1060))


# ---- what is tried again


@pytest.mark.parametrize("trouble", [says(429), says(502), says(503, b"<html>", "text/html"), says(504), hangs_up])
def test_what_may_pass_is_tried_again_after_twice_the_wait(trouble, waits):
    with scripted(trouble, trouble, streams(*WORDS)) as (url, seen):
        assert pieces(url)[:-1] == ["Hello", " you\u2028"]
    assert len(waits) == 2 and 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0
    assert len({body for _, _, body in seen}) == 1


def test_a_stream_that_ends_before_its_first_word_is_tried_again(waits):
    def breaks_off(request):
        return 200, {"Content-Type": "text/event-stream", "Content-Length": "1000"}, iter(WORDS[:1])

    with scripted(breaks_off, streams(*WORDS)) as (url, _):
        assert pieces(url)[:-1] == ["Hello", " you\u2028"]
    assert len(waits) == 1


def test_after_the_first_word_nothing_is_tried_again(waits):
    """Else a reader would see the beginning of one reply and the end of another."""

    def breaks_off(request):
        return 200, {"Content-Type": "text/event-stream", "Content-Length": "1000"}, iter(WORDS[:2])

    with scripted(breaks_off, streams(*WORDS)) as (url, seen):
        reply = OpenAIResponder(url, "m").reply(MESSAGES, SETTINGS)
        assert next(reply) == "Hello"
        with pytest.raises(ResponderError, match=f"{url} broke off in the middle of a reply .*RemoteProtocolError"):
            next(reply)
    assert waits == [] and len(seen) == 1


def test_a_server_that_names_the_wait(waits):
    with scripted(says(429, Retry_After="7"), streams(*WORDS)) as (url, _):
        pieces(url)
    assert waits == [7]
    with (
        scripted(says(429, {"error": {"message": "slow down"}}, Retry_After="300"), streams(*WORDS)) as (url, _),
        pytest.raises(ResponderError, match="no answer in 1 attempt and 120 seconds .*status 429: slow down"),
    ):
        pieces(url)
    assert waits == [7]  # nobody waits longer than for the reply


def test_after_the_last_attempt_the_error_says_who_and_how_often(waits):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ResponderError, match=f"http://127.0.0.1:{port} gave no answer in 4 attempts .*ConnectError"):
        pieces(f"http://127.0.0.1:{port}")
    assert len(waits) == 3


# ---- what is not believed


def endless():
    yield chunk("a")
    while True:
        yield chunk("a" * 100)


def drips():
    yield chunk("Hello")
    while True:
        threading.Event().wait(0.02)  # no test waits for it, so it may meet another one's time.sleep
        yield b" "


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (streams(*WORDS[:2], b"data: {\n\n"), "gives a reply that is none .*JSON"),
        (streams(b"data: " + b"[" * 100_000 + b"\n\n"), "gives a reply that is none"),
        (streams(b"data: []\n\n"), "gives a reply that is none"),
        (streams(b"data: \xff\n\n"), "gives a reply that is none"),
        (streams(chunk(7)), "choices.0.delta.content: Input should be a valid string"),
        (streams(chunk("a", 1)), "choices.0.finish_reason"),
        (streams(chunk("a", model=["m"])), "model: Input should be a valid string"),
        (streams(chunk("a", model="m" * 300)), "model: "),
        (streams(chunk("a", choices={})), "choices: "),
        (streams(chunk("a", choices=[{"index": 1, "delta": {"content": "b"}}])), "gives several replies"),
        (streams(chunk("a", choices=[{"index": 0, "delta": {"content": "b"}}] * 2)), "gives several replies"),
        (streams(chunk("a", error={"message": "out of\nmemory"})), r"broke off in the middle .*\(out of memory\)"),
        (streams(chunk("a", error=7)), "it does not say why"),
        (streams(*WORDS[:2], DONE), "ended its reply without saying why"),
        (streams(*WORDS[:2]), "ended its reply without saying why"),
        (streams(chunk("a", "content_filter"), DONE), "ended its reply with finish_reason content_filter"),
        (lambda request: (200, {"Content-Type": "text/event-stream"}, endless()), "wrote more than 1000 characters"),
        (streams(*[b": " + b"x" * 9998 + b"\n"] * 101), "replies with more than 1000000 bytes"),
        (streams(*WORDS, kind="text/html"), "replies with text/html, not text/event-stream"),
        (streams(*WORDS, Content_Encoding="gzip"), "compresses its replies"),
    ],
)  # fmt: skip
def test_a_stream_that_cannot_be_right(reply, message, waits):
    with scripted(reply) as (url, seen), pytest.raises(ResponderError, match=message) as found:
        pieces(url, most_characters=1000)
    assert waits == [] and len(seen) == 1
    assert "\n" not in str(found.value) and str(found.value).startswith(f"model server {url} ")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (says(200, b"<html>hello</html>", "text/html"), "replies with text/html, not application/json"),
        (says(200, b"{"), "a reply that is none"),
        (says(200, answer(["a"])), "choices.0.message.content: Input should be a valid string"),
        (says(200, answer(choices=[])), "ended its reply without saying why"),
        (says(200, answer("x" * 1001)), "wrote more than 1000 characters"),
        (says(200, b" " * 1_000_001), "replies with more than 1000000 bytes"),
    ],
)
def test_a_whole_reply_that_cannot_be_right(reply, message, waits):
    with scripted(reply) as (url, _), pytest.raises(ResponderError, match=message):
        pieces(url, stream=False, most_characters=1000)
    assert waits == []


@given(data=st.data())
def test_whatever_comes_is_a_reply_or_one_sentence(data):
    """A right stream with bytes lost, changed and put in, and a status and type of any kind."""
    body = bytearray(b"".join(WORDS))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"\n\n", b"data: ", b'"', b"{", b"null", b"\\ud800", b"[DONE]"])
        )
    status = data.draw(st.sampled_from([200] * 8 + [204, 301, 400, 429, 500, 599]))
    kind = data.draw(st.sampled_from(["text/event-stream"] * 4 + ["", "text/html", "application/json"]))
    answered = httpx.Response(status, headers={"Content-Type": kind}, stream=httpx.ByteStream(bytes(body)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai, "http_client", lambda *_: httpx.Client(transport=httpx.MockTransport(lambda _: answered)))
        try:
            *said, reply = pieces("http://host/v1", attempts=1)
        except ResponderError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert status == 200 and reply.text == "".join(said) and reply.text.encode()


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_that_drips_is_not_waited_for(stream):
    kind = "text/event-stream" if stream else "application/json"
    with (
        scripted(lambda request: (200, {"Content-Type": kind}, drips())) as (url, _),
        pytest.raises(ResponderError, match="the reply took longer than 0.3 seconds"),
    ):
        pieces(url, stream=stream, timeout_seconds=0.3)


def test_behind_tls_the_second_socket_is_the_one_that_is_cut():
    """The first is a shell then: its descriptor belongs to the one that encrypts."""

    class Stream:
        def __init__(self, connection):
            self.connection = connection

        def get_extra_info(self, name):
            return {"socket": self.connection}[name]

    ours, theirs = socket.socketpair()
    shell = socket.socket()
    shell.detach()
    deadline = Deadline()
    deadline.trace("connection.connect_tcp.complete", {"return_value": Stream(shell)})
    deadline.trace("connection.start_tls.complete", {"return_value": Stream(ours)})
    theirs.settimeout(10)
    with deadline.watch(0.01):
        assert theirs.recv(1) == b""  # the other side sees the end
    for end in (ours, theirs):
        end.close()


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "mend the request"), (401, f"set {TOKEN_VARIABLE}"), (403, f"set {TOKEN_VARIABLE}"), (404, "ends in /v1"),
     (413, "mend"), (500, "look at the server's log"), (501, "log")],
)  # fmt: skip
@pytest.mark.parametrize(
    "body", [{"error": {"message": "no,\n\x1b[2Jnever"}}, {"error": "no,\n\x1b[2Jnever"}, {"detail": "no, [2Jnever"}]
)
def test_a_refusal_is_not_tried_again(status, advice, body, waits):
    with (
        scripted(says(status, body)) as (url, seen),
        pytest.raises(ResponderError, match=rf"refused with status {status} \(no, \[2Jnever\); .*{advice}"),
    ):
        pieces(url)
    assert waits == [] and len(seen) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[" * 60_000, b"[]", b'{"error": 1}', b"\xff", b""])
def test_a_refusal_that_says_nothing(body):
    with scripted(says(400, body)) as (url, _), pytest.raises(ResponderError, match=r"\(it does not say why\)"):
        pieces(url)


# ---- the token


def test_the_token_goes_nowhere_else():
    with scripted(streams(*WORDS)) as (other, at_other):
        for status in (301, 302, 307, 308):
            with (
                scripted(says(status, Location=other + "/chat/completions")) as (url, _),
                pytest.raises(ResponderError, match=f"status {status} .*redirects are not followed"),
            ):
                pieces(url, token=TOKEN)
    assert at_other == []


def test_the_token_comes_from_the_environment_and_is_never_shown(monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    echoes = [
        says(401, {"error": {"message": f"wrong key {TOKEN}"}}),
        streams(chunk("a", error={"message": f"wrong key {TOKEN}"})),
        says(429, {"error": f"wrong key {TOKEN}"}),
    ]
    for echo in echoes:
        with scripted(echo) as (url, seen), pytest.raises(ResponderError, match=r"wrong key \[the token\]") as found:
            pieces(url, attempts=1)
        assert seen[0][1]["Authorization"] == f"Bearer {TOKEN}"
        assert TOKEN not in str(found.value) + repr(found.value.__cause__) + caplog.text
    assert TOKEN not in repr(OpenAIResponder("http://host/v1"))
    monkeypatch.setenv(TOKEN_VARIABLE, "with a space")
    with pytest.raises(ConfigError, match="no HTTP header carries"):
        OpenAIResponder("http://host/v1")


def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with scripted(streams(*WORDS)) as (url, _):
        assert pieces(url, attempts=1)[-1].finished


# ---- arguments


@pytest.mark.parametrize("url", ["localhost:8600", "ftp://host", "http://host?key=hunter2", "http://me:hunter2@host"])
def test_an_address_that_is_none_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="the address of a model server") as found:
        OpenAIResponder(url)
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"timeout_seconds": 0}, {"most_characters": 0}])
def test_arguments_that_make_no_sense(settings):
    with pytest.raises(ConfigError, match="must be positive"):
        OpenAIResponder("http://host/v1", **settings)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r'needs httpx: pip install "loopwright\[serve\]"'):
        OpenAIResponder("http://host/v1")
