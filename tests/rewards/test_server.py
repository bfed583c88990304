"""The reward server: who is let in, what is refused, what comes back."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest
import torch

from loopwright.cli.serve import content_hash
from loopwright.errors import ConfigError, DataError
from loopwright.models.heads import reward_model_from
from loopwright.rewards import CallableReward, Classifier, RewardModel, Scores, VerifierReward, server
from loopwright.rewards.server import Limits, reward_app
from loopwright.rewards.wire import TOKEN_VARIABLE
from loopwright.schemas import Prompt
from loopwright.serving import server as http_server
from loopwright.serving.server import listen
from loopwright.serving.tokens import read_token
from tests.cli.test_cli import call
from tests.rewards.serving import TOKEN, served
from tests.tiny import saved, tiny_model, tiny_tokenizer

LENGTH = CallableReward(lambda prompts, responses: [float(len(r)) for r in responses], "length")
SAMPLE = {
    "id": 7,
    "prompt": {"id": "p", "messages": [{"role": "user", "content": "Hi"}], "tags": {"reference": [1, None]}},
    "response": "Hello",
    "finished": True,
}
LONG = {"role": "user", "content": "x" * 60}
REQUEST = {"protocol": 1, "samples": [SAMPLE]}


def ask(app, method="POST", path="/score", body=REQUEST, headers=None, host="localhost"):
    """(status, JSON) of one request, without a socket."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | (headers or {})

    async def once():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, content=content, headers=headers)

    reply = asyncio.run(once())
    return reply.status_code, reply.json()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_scores_come_back_in_order_with_ids_and_who_gave_them():
    request = {"protocol": 1, "samples": [SAMPLE, SAMPLE | {"id": 3, "response": "é"}]}
    model = {"name": "length", "hash": "abc"}
    app = reward_app(LENGTH, content_hash="abc")
    expected = {"protocol": 1, "model": model, "ids": [7, 3], "scores": [5.0, 1.0], "std": None, "parts": {}}
    assert ask(app, body=request) == (200, expected)
    assert ask(app, "GET", "/health", b"") == (200, {"protocol": 1, "model": model, "scores_text": True})


def test_the_reward_sees_tags_messages_and_whether_the_response_ended():
    seen = []
    app = reward_app(VerifierReward(lambda samples: seen.extend(samples) or [0.0], "see"))
    ask(app)
    (sample,) = seen
    assert sample.prompt.model_dump(mode="json") == SAMPLE["prompt"]
    assert (sample.response, sample.finished, sample.tokenizer) == ("Hello", True, None)


def test_std_and_parts_come_back():
    class Unsure:
        name = "unsure"

        def score(self, samples):
            return Scores(torch.tensor([0.1]), std=torch.tensor([0.5]), parts={"a": torch.tensor([1.5])})

    status, reply = ask(reward_app(Unsure()))
    assert status == 200 and reply["std"] == [0.5] and reply["parts"] == {"a": [1.5]}
    assert torch.tensor(reply["scores"]).item() == torch.tensor(0.1).item()  # no bit of float32 is lost


# ---- who is let in


@pytest.mark.parametrize("path", ["/health", "/score"])
def test_only_who_has_the_token_is_answered(path):
    app, method = reward_app(LENGTH, TOKEN), "GET" if path == "/health" else "POST"
    wrong = (None, bearer(TOKEN[:-1]), bearer(TOKEN + "x"), bearer(""), {"Authorization": TOKEN}, bearer("é" * 26))
    for headers in wrong:
        headers = {name: value.encode() for name, value in (headers or {}).items()}
        status, reply = ask(app, method, path, headers=headers, host="example.org")
        assert status == 401 and "token is missing or wrong" in reply["error"]
        assert "length" not in json.dumps(reply)
    assert ask(app, method, path, headers=bearer(TOKEN), host="example.org")[0] == 200


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(http_server.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    assert ask(reward_app(LENGTH, TOKEN), headers=bearer(TOKEN))[0] == 401
    assert compared == [(TOKEN.encode(), TOKEN.encode())]


def test_without_a_token_only_this_machines_own_names_are_answered():
    """A web page whose name leads to 127.0.0.1 names itself in the request."""
    for name in ("127.0.0.1:8500", "localhost", "[::1]:8500"):
        assert ask(reward_app(LENGTH), host=name)[0] == 200
    for name in ("evil.example", "127.0.0.1.evil.example"):
        status, reply = ask(reward_app(LENGTH), host=name)
        assert status == 403 and "only to the name localhost" in reply["error"]


def test_without_a_token_nobody_else_can_reach_it():
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match=f"{TOKEN_VARIABLE} or give --token-file"):
            listen(host, 0, None, TOKEN_VARIABLE)
    for host in ("127.0.0.1", "localhost"):
        listen(host, 0, None, TOKEN_VARIABLE).close()
    listen("0.0.0.0", 0, TOKEN, TOKEN_VARIABLE).close()


def test_a_port_that_is_taken():
    with listen("127.0.0.1", 0, None, TOKEN_VARIABLE) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened on .* choose another"):
            listen("127.0.0.1", port, None, TOKEN_VARIABLE)


def test_where_the_token_comes_from(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None, TOKEN_VARIABLE) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment")
    assert read_token(None, TOKEN_VARIABLE) == "from-the-environment"
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file, TOKEN_VARIABLE) == TOKEN
    for text, message in (("short", "has 5 characters"), ("", "has 0"), ("with a space in it", "no HTTP header")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message) as found:
            read_token(file, TOKEN_VARIABLE)
        assert not text or text not in str(found.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none", TOKEN_VARIABLE)
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(ConfigError, match=f"{TOKEN_VARIABLE} has 5 characters"):
        read_token(None, TOKEN_VARIABLE)
    with pytest.raises(ConfigError, match="has 5 characters"):
        reward_app(LENGTH, "short")


# ---- what is refused


def changed(**fields):
    return {"protocol": 1, "samples": [SAMPLE | fields]}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 422, "the request is not as docs/rewards.md says: the body: Invalid JSON"),
        (b"[" * 100_000, 422, "Invalid JSON"),
        ([], 422, "the body"),
        ({"samples": [SAMPLE]}, 422, "protocol: Field required"),
        (REQUEST | {"protocol": 2}, 422, "in version 2 of the protocol; this server speaks 1"),
        ({"protocol": 1, "samples": []}, 422, "samples: "),
        (changed(response=None), 422, "samples.0.response: Input should be a valid string"),
        (changed(id="7"), 422, "samples.0.id: "),
        (changed(finished=1), 422, "samples.0.finished: "),
        (changed(weight=2), 422, "samples.0.weight: Extra inputs are not permitted"),
        (changed(prompt={"id": "p", "messages": []}), 422, "samples.0.prompt.messages: "),
        ({"protocol": 1, "samples": [SAMPLE] * 4}, 413, "has 4 samples; send at most 3"),
        (changed(response="x" * 101), 413, r"samples\[0\] has 101 characters; at most 100"),
        (changed(prompt=SAMPLE["prompt"] | {"messages": [LONG, LONG]}), 413, "has 120"),
        (changed(prompt=SAMPLE["prompt"] | {"tags": {"x": "x" * 5000}}), 413, "longer than 5000 bytes"),
    ],
)  # fmt: skip
def test_a_request_that_is_none_or_too_large(body, status, message):
    app = reward_app(
        LENGTH, limits=Limits(body_bytes=200_000 if body == b"[" * 100_000 else 5000, samples=3, characters=100)
    )
    got, reply = ask(app, body=body)
    assert got == status and list(reply) == ["error"]
    assert re.search(message, reply["error"]), reply


def test_what_is_no_json_and_what_is_no_page():
    app = reward_app(LENGTH)
    assert ask(app, headers={"Content-Type": "text/plain"})[0] == 415  # what a form of a web page may send
    for method, path, status in (("GET", "/score", 405), ("GET", "/", 404), ("GET", "/docs", 404)):
        got, reply = ask(app, method, path)
        assert got == status and list(reply) == ["error"]


def test_a_body_that_never_ends_is_not_read_to_its_end():
    sent = []

    def endless():
        while len(sent) < 10_000:
            sent.append(1)
            yield b" " * 10_000

    with served(LENGTH, limits=Limits(body_bytes=50_000)) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        with contextlib.suppress(OSError):  # it hangs up
            connection.request("POST", "/score", endless(), {"Content-Type": "application/json"}, encode_chunked=True)
        connection.close()
    assert len(sent) < 10_000


def test_a_body_that_comes_too_slowly(monkeypatch):
    monkeypatch.setattr(http_server, "BODY_SECONDS", 0.05)
    with served(LENGTH) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        connection.putrequest("POST", "/score")
        for name, value in (("Content-Type", "application/json"), ("Content-Length", "100")):
            connection.putheader(name, value)
        connection.endheaders(b"{")
        reply = connection.getresponse()
        assert reply.status == 408 and b"took longer than 0.05 seconds" in reply.read()
        connection.close()


@pytest.mark.parametrize(
    ("scores", "status", "message"),
    [
        (lambda samples: 1 / 0, 500, "reward bad failed for 'Hello'"),
        (lambda samples: [float("nan")], 500, "gave nan to 'Hello'"),
        (lambda samples: [1.0, 2.0], 500, "gave 2 scores for 1"),
    ],
)
def test_a_reward_that_fails(scores, status, message):
    got, reply = ask(reward_app(VerifierReward(scores, "bad")))
    assert got == status and message in reply["error"]


def failing(error):
    class Failing:
        name = "failing"

        def score(self, samples):
            raise error

    return Failing()


def test_whose_fault_it_is():
    got, reply = ask(reward_app(failing(DataError("a row of 101 tokens exceeds the context of 64; shorten it"))))
    assert (got, reply["error"]) == (422, "a row of 101 tokens exceeds the context of 64; shorten it")
    got, reply = ask(reward_app(failing(ZeroDivisionError("secret path"))))
    assert got == 500 and "failed (ZeroDivisionError)" in reply["error"] and "secret" not in reply["error"]


def test_scores_of_single_tokens_do_not_travel():
    class Dense:
        name = "dense"

        def score(self, samples):
            return Scores(torch.zeros(1), per_token=torch.ones(1, 3))

    got, reply = ask(reward_app(Dense()))
    assert got == 500 and "single tokens" in reply["error"]


def test_one_request_is_scored_at_a_time():
    inside, most = [], []

    def watch(samples):
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.02)
        inside.pop()
        return [0.0]

    app = reward_app(VerifierReward(watch, "watch"))

    async def several():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await asyncio.gather(*(client.post("/score", json=REQUEST) for _ in range(5)))

    assert {reply.status_code for reply in asyncio.run(several())} == {200}
    assert most == [1] * 5


def test_who_waits_when_the_server_is_stopped_is_told_to_come_back():
    begun, end = threading.Event(), threading.Event()
    app = reward_app(VerifierReward(lambda samples: begun.set() or end.wait() and [0.0], "slow"))

    async def stopped():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            waiting = asyncio.ensure_future(client.post("/score", json=REQUEST))
            await asyncio.to_thread(begun.wait)
            waiting.cancel()
            return await waiting

    try:
        reply = asyncio.run(stopped())
    finally:
        end.set()
    assert reply.status_code == 503 and reply.json() == {"error": "the server is stopping"}


# ---- the command


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return saved(
        reward_model_from(tiny_model("llama"), seed=1), tiny_tokenizer(), tmp_path_factory.mktemp("m") / "judge"
    )


def command(*arguments, **environment):
    code = "from loopwright.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "serve-reward", *map(str, arguments)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("classifier", [False, True])
def test_the_command_serves_what_the_folder_holds(model_folder, classifier, monkeypatch, capsys):
    apps = []
    monkeypatch.setattr(http_server, "serve", lambda app, listening: apps.append(app))
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    options = ["--classifier", "sign=-1", "--classifier", "label=0"] if classifier else []
    status, out, err = call(monkeypatch, capsys, "serve-reward", str(model_folder), "--port", "0", *options)
    assert status == 0 and out == "" and TOKEN not in err
    assert "judge is served on http://127.0.0.1:" in err and "to who has the token" in err
    reward = Classifier(model_folder, sign=-1) if classifier else RewardModel(model_folder)
    sample = server._sample(server.TextSample.model_validate(SAMPLE | {"prompt": Prompt(**SAMPLE["prompt"])}))
    code, reply = ask(apps[0], headers=bearer(TOKEN))
    assert code == 200 and reply["model"]["name"] == "judge" and len(reply["model"]["hash"]) == 64
    assert reply["scores"] == reward.score([sample]).total.tolist()


@pytest.mark.slow
def test_the_command_says_no_secret_and_ends_with_ctrl_c(model_folder):
    process = command(model_folder, "--port", "0", **{TOKEN_VARIABLE: TOKEN})
    said = process.stderr.readline()
    assert "judge is served on http://127.0.0.1:" in said and "to who has the token" in said
    url = said.split(" on ")[1].split(",")[0]
    reply = httpx.post(f"{url}/score", json=REQUEST, headers=bearer(TOKEN), timeout=60)
    assert reply.status_code == 200 and reply.json()["model"]["name"] == "judge"
    assert len(reply.json()["model"]["hash"]) == 64
    assert httpx.get(f"{url}/health").status_code == 401
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert TOKEN not in said + out + err and "Traceback" not in err
    assert process.returncode == 130


def test_the_hash_is_of_files_and_settings(model_folder, tmp_path):
    first = content_hash(model_folder, None)
    assert content_hash(model_folder, {"label": 0}) not in (first, content_hash(model_folder, {"label": 1}))
    copy = tmp_path / "copy"
    saved(reward_model_from(tiny_model("llama"), seed=2), tiny_tokenizer(), copy)
    assert content_hash(copy, None) != first
    for file in model_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert content_hash(copy, None) == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "without a token anybody would be answered"),
        (["--token-file", "missing"], "missing: the token cannot be read"),
        (["--classifier", "label"], "--classifier label: write each setting once, as KEY=VALUE"),
        (["--classifier", "sing=-1"], "unknown key sing; did you mean sign"),
    ],
)
def test_a_command_that_cannot_serve(model_folder, arguments, message, monkeypatch, capsys):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    status, out, err = call(monkeypatch, capsys, "serve-reward", str(model_folder), "--port", "0", *arguments)
    assert status == 1 and out == "" and message in err and "Traceback" not in err


def test_without_the_extra_the_command_says_what_to_install(model_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "loopwright.rewards.server")
    monkeypatch.delitem(sys.modules, "loopwright.serving.server")
    status, _, err = call(monkeypatch, capsys, "serve-reward", str(model_folder))
    assert status == 1 and 'needs fastapi: pip install "loopwright[serve]"' in err
