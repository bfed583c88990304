"""The model server: what it says, who is let in, what is refused, and that nothing is written for nobody."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import httpx
import pytest

from loopwright.data.chat import ensure_chat_template
from loopwright.errors import ConfigError, DataError, ResponderError
from loopwright.models.loading import save_model
from loopwright.responders.server import Limits, _Events, _Speaker, _whole, model_app
from loopwright.responders.wire import TOKEN_VARIABLE
from loopwright.schemas import Message, Reply, ReplySettings
from loopwright.serving import server as http_server
from loopwright.serving.server import HTTPException
from tests.cli.test_cli import call
from tests.responders.speakers import Echo, Endless
from tests.serving import TOKEN, RunningApp
from tests.tiny import tiny_model, tiny_tokenizer

REQUEST = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}


def ask(app, body=REQUEST, headers=None, host="localhost", method="POST", path="/v1/chat/completions"):
    """The reply to one request, without a socket."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | (headers or {})

    async def once():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(once())


def sentence(reply):
    """What a refusal says; its form is OpenAI's."""
    assert reply.json().keys() == {"error"}
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    return reply.json()["error"]["message"]


# ---- what it says


def test_a_whole_reply():
    reply = ask(model_app(Echo(), "artifact-id")).json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", reply.pop("id")) and reply.pop("created") > 1_700_000_000
    message = {"role": "assistant", "content": "onetwo"}
    assert reply == {
        "object": "chat.completion", "model": "echo", "system_fingerprint": "artifact-id",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
    }  # fmt: skip


def test_a_stream():
    """Lines of `data: {...}`, a blank one after each, and `[DONE]`."""
    app = model_app(Echo(), "artifact-id")
    reply = ask(app, REQUEST | {"stream": True, "messages": [{"role": "user", "content": "a b\u2028 c\u00e9"}]})
    assert (
        reply.headers["content-type"].startswith("text/event-stream") and reply.headers["cache-control"] == "no-store"
    )
    *events, last, nothing = reply.text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {event[:7] for event in events} == {"data: {"} and "\u2028" not in reply.text
    assert len({chunk.pop("id") for chunk in chunks}) == len({chunk.pop("created") for chunk in chunks}) == 1
    heads = [{name: value for name, value in chunk.items() if name != "choices"} for chunk in chunks]
    assert heads == [{"object": "chat.completion.chunk", "model": "echo", "system_fingerprint": "artifact-id"}] * 5
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}, {"content": "cé"}, {},
    ]  # fmt: skip
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["length"]


def test_an_empty_reply():
    empty = REQUEST | {"messages": [{"role": "user", "content": ""}]}
    assert ask(model_app(Echo()), empty).json()["choices"][0]["message"]["content"] == ""
    events = ask(model_app(Echo()), empty | {"stream": True}).text.split("\n\n")
    assert len(events) == 4 and events[2] == "data: [DONE]"


def test_the_model_that_it_has():
    reply = ask(model_app(Echo()), b"", method="GET", path="/v1/models").json()
    (card,) = reply["data"]
    assert reply["object"] == "list" and card.pop("created") > 1_700_000_000
    assert card == {"id": "echo", "object": "model", "owned_by": "loopwright"}


def test_what_the_responder_is_asked():
    echo = Echo()
    app = model_app(echo, limits=Limits(new_tokens=100))
    history = [{"role": "system", "content": "s"}, *REQUEST["messages"], {"role": "assistant", "content": "a"}]
    ask(app, REQUEST | {"messages": [*history, *REQUEST["messages"]], "temperature": 0, "max_tokens": 9, "seed": 5})
    ask(app, REQUEST | {"max_completion_tokens": 100, "seed": None})
    ask(app, REQUEST | {"n": 1, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0})
    (messages, first), (_, second), (_, third) = echo.asked
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert (first.temperature, first.max_new_tokens, first.seed) == (0, 9, 5)
    assert (second.temperature, second.max_new_tokens, second.seed) == (1, 100, None)
    assert third.max_new_tokens == 100  # of the 256 that are meant where nothing is said


# ---- who is let in


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("POST", "/v1/chat/completions")])
def test_only_who_has_the_token_is_answered(method, path):
    app = model_app(Echo(), token=TOKEN)
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
        reply = ask(app, headers=headers, host="example.org", method=method, path=path)
        assert reply.status_code == 401 and "token is missing or wrong" in sentence(reply)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(app, headers=headers, host="example.org", method=method, path=path).status_code == 200
    assert ask(model_app(Echo()), host="evil.example", method=method, path=path).status_code == 403
    with pytest.raises(ConfigError, match="has 5 characters"):
        model_app(Echo(), token="short")


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model": "gpt"}, 404, "no such model; it has echo"),
        ({"model": None}, 400, "model: "),
        ({"messages": []}, 400, "messages: "),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, 400, "messages.0.content: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, 400, "messages.0.name: Extra inputs"),
        ({"messages": [*REQUEST["messages"], {"role": "assistant", "content": "x"}]}, 400, "is the assistant's; end"),
        ({"max_tokens": 2000}, 400, "max_tokens = 2000 is more than the 1024 allowed here"),
        ({"max_tokens": 0}, 400, "max_tokens: "),
        ({"max_tokens": True}, 400, "max_tokens: "),
        ({"max_tokens": 1, "max_completion_tokens": 1}, 400, "two names of one limit"),
        ({"temperature": -1}, 400, "temperature: "),
        ({"temperature": 1e-9}, 400, "temperature: .*is less than 0.01"),
        ({"temperature": "1"}, 400, "temperature: "),
        ({"seed": 2**63}, 400, "seed: "),
        ({"stream": "yes"}, 400, "stream: "),
        ({"n": 2}, 400, "n = 2 is not supported; leave it out"),
        ({"top_p": 0.9}, 400, "top_p = 0.9 is not supported"),
        ({"frequency_penalty": 0.1}, 400, "frequency_penalty = 0.1 is not supported"),
        ({"stop": ["x"]}, 400, "stop: Extra inputs are not permitted"),
        ({"logit_bias": {}}, 400, "logit_bias: Extra inputs"),
        ({"tools": []}, 400, "tools: Extra inputs"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused(changes, status, message):
    echo = Echo()
    reply = ask(model_app(echo), REQUEST | changes)
    assert reply.status_code == status and re.search(message, sentence(reply)), sentence(reply)
    assert echo.asked == []


def test_what_is_no_request():
    app = model_app(Echo(), limits=Limits(body_bytes=2000))
    for body, status in ((b"{", 400), (b"[" * 1000, 400), (b"\xff", 400), (b" " * 2001, 413), (b"[]", 400)):
        reply = ask(app, body)
        assert reply.status_code == status and sentence(reply)
    assert sentence(ask(app, b'{"model": "\\ud800"}'))
    assert ask(app, headers={"Content-Type": "text/plain"}).status_code == 415
    assert ask(app, method="GET").status_code == 405 and ask(app, path="/v1/completions").status_code == 404


@pytest.mark.parametrize("words", [0, 2])
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("prompt 0 has 80 tokens; shorten it"), 400, "prompt 0 has 80 tokens; shorten it"),
        (ResponderError("model server x gave no answer"), 502, "model server x gave no answer"),
        (ZeroDivisionError("secret path"), 500, "the model failed (ZeroDivisionError); its server's log says more"),
    ],
)
def test_whose_fault_it_is(error, status, message, words):
    class Failing(Echo):
        def reply(self, messages, settings):
            yield from ["word"] * words
            raise error

    reply = ask(model_app(Failing()))
    assert (reply.status_code, sentence(reply)) == (status, message)
    streamed = ask(model_app(Failing()), REQUEST | {"stream": True})
    if not words:  # nothing was sent yet, so there is a status
        assert (streamed.status_code, sentence(streamed)) == (status, message)
    else:
        last = streamed.text.split("\n\n")[-2].removeprefix("data: ")
        assert streamed.status_code == 200 and json.loads(last)["error"]["message"] == message


# ---- one at a time, and for somebody


@pytest.fixture
def endless():
    """An app on a socket that would write for ever."""
    responder = Endless()
    running = RunningApp(model_app(responder, limits=Limits(waiting=1)))
    yield responder, running
    running.stop()


def begin(running, **changes):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    body = json.dumps(REQUEST | changes)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_ends_the_writing(endless, stream):
    responder, running = endless
    with closing(begin(running, stream=stream)) as connection:
        assert responder.begun.wait(10)
        if stream:
            assert connection.getresponse().readline().startswith(b"data: ")
        assert not responder.closed.is_set()
    assert responder.closed.wait(10)


def test_who_gives_up_while_waiting_leaves_the_queue():
    """One is answered, one waits, a third is told to come back; when the second has left there is room for it."""

    speaker = _Speaker(Endless(), Limits(waiting=1), SimpleNamespace(stopping=False))

    def asks():
        return speaker.reply([Message(role="user", content="x")], ReplySettings())

    async def scenario():
        first = asks()
        assert await anext(first) == "word "
        second = asyncio.ensure_future(anext(asks()))
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="2 replies are asked for already; ask later") as found:
            await anext(asks())
        assert found.value.status_code == 503 and found.value.headers == {"Retry-After": "2"}
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        third = asyncio.ensure_future(anext(asks()))
        await asyncio.sleep(0)
        assert not third.done()
        await first.aclose()
        assert await third == "word "

    asyncio.run(scenario())


def test_a_reply_that_takes_too_long_ends():
    responder = Endless()
    app = model_app(responder, limits=Limits(seconds=0.2))
    reply = ask(app)
    assert reply.status_code == 500 and "the reply took longer than 0.2 seconds" in sentence(reply)
    assert responder.closed.wait(10)
    responder.closed.clear()
    running = RunningApp(app)
    with closing(begin(running, stream=True)) as connection:  # it is not read, and ends all the same
        reply = connection.getresponse()
        assert responder.closed.wait(10)
        with pytest.raises(http.client.IncompleteRead):
            reply.read()
    running.stop()


def test_a_stream_that_cannot_be_sent_ends_its_generator():
    closed = []

    async def events():
        try:
            while True:
                yield "data: {}\n\n"
        finally:
            closed.append(True)

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")

    async def scenario():
        response = _Events(events(), 10)
        with pytest.raises(OSError):
            await response({"type": "http"}, receive, send)
        assert closed == [True] and response.events is not None  # not when the garbage is collected

    asyncio.run(scenario())


def test_waiting_for_ones_turn_does_not_count():
    async def late():
        await asyncio.sleep(0.1)
        yield "late"
        yield Reply(text="late", finished=True, model="m")

    head = {"id": "x", "created": 1, "model": "m", "fingerprint": None}
    assert asyncio.run(_whole(late(), head, 0.05))["choices"][0]["message"]["content"] == "late"


def test_replies_are_written_one_after_the_other():
    inside, most = [], []

    class Watched(Echo):
        def reply(self, messages, settings):
            inside.append(1)
            for _ in range(3):
                most.append(len(inside))
                yield "x"
            inside.pop()
            yield Reply(text="xxx", finished=True, model="echo")

    app = model_app(Watched())

    async def several():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await asyncio.gather(
                *(client.post("/v1/chat/completions", json=REQUEST | {"stream": i % 2 == 0}) for i in range(6))
            )

    assert {reply.status_code for reply in asyncio.run(several())} == {200}
    assert most == [1] * 18


SERVES_FOR_EVER = """
from loopwright.responders.server import model_app
from loopwright.serving.server import listen, serve
from tests.responders.speakers import Endless

class Says(Endless):
    def reply(self, messages, settings):
        print("begun", flush=True)
        yield from super().reply(messages, settings)

with listen("127.0.0.1", 0, None, "") as listening:
    print(listening.getsockname()[1], flush=True)
    serve(model_app(Says()), listening)
"""


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_that_is_told_to_stop_says_so_in_the_middle_of_a_reply(stream):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVES_FOR_EVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    port = int(process.stdout.readline())
    with closing(begin(SimpleNamespace(port=port), stream=stream)) as connection:
        assert process.stdout.readline() == "begun\n"
        begun = connection.getresponse() if stream else None
        process.send_signal(signal.SIGTERM)
        reply = begun or connection.getresponse()
        assert reply.status == (200 if stream else 503)
        assert b"the server is stopping" in reply.read()
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM and said == ""


# ---- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    path = tmp_path_factory.mktemp("models") / "policy"
    save_model(tiny_model("llama"), tokenizer, path)
    return path


def test_the_command_serves_the_folder(folder, monkeypatch, capsys):
    apps = []
    monkeypatch.setattr(http_server, "serve", lambda app, listening: apps.append(app))
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    status, out, err = call(monkeypatch, capsys, "serve-model", str(folder), "--port", "0", "--max-new-tokens", "9")
    assert status == 0 and out == "" and TOKEN not in err
    assert re.search(r"policy is served on http://127.0.0.1:\d+/v1, to who has the token; Ctrl-C ends it", err)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    reply = ask(apps[0], REQUEST | {"model": "policy"}, headers).json()
    assert reply["model"] == "policy" and re.fullmatch("[0-9a-f]{64}", reply["system_fingerprint"])
    assert sentence(ask(apps[0], REQUEST | {"model": "policy", "max_tokens": 10}, headers)).endswith("9 allowed here")
    long = REQUEST | {"model": "policy", "messages": [{"role": "user", "content": "x" * 99}]}
    assert "more than the model's context of 64" in sentence(ask(apps[0], long, headers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], f"set {TOKEN_VARIABLE} or give --token-file"),
        (["--token-file", "missing"], "missing: the token cannot be read"),
    ],
)
def test_a_command_that_cannot_serve(folder, arguments, message, monkeypatch, capsys):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    status, out, err = call(monkeypatch, capsys, "serve-model", str(folder), "--port", "0", *arguments)
    assert status == 1 and out == "" and message in err and "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_ends_the_command(folder):
    code = "from loopwright.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve-model", str(folder), "--port", "0"], stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env={**os.environ, TOKEN_VARIABLE: TOKEN},
    )  # fmt: skip
    said = process.stderr.readline()
    url = said.split(" on ")[1].split(",")[0]
    reply = httpx.post(
        f"{url}/chat/completions", json=REQUEST | {"model": "policy", "max_tokens": 9},
        headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60,
    )  # fmt: skip
    assert reply.status_code == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and TOKEN not in said + out + err and "Traceback" not in err
