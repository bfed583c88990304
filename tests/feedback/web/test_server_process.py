"""The server as teams start it: a process of its own, with a model in another one, from the first command to Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

from loopwright.data.chat import ensure_chat_template
from loopwright.feedback.store import chain
from loopwright.feedback.store.migrate import open_store
from loopwright.feedback.store.tables import events
from loopwright.models.loading import save_model
from loopwright.responders.wire import TOKEN_VARIABLE
from tests.feedback.web.serving import a_socket
from tests.tiny import tiny_model, tiny_tokenizer

PASSWORD, MODEL_TOKEN = "a long pass phrase", "the-token-of-the-model-server"
WITHIN_SECONDS = 120


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A command of the package; its output is one file, whoever writes to it."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "loopwright"]
    env = {**os.environ, TOKEN_VARIABLE: MODEL_TOKEN, "OMP_NUM_THREADS": "1"}
    started = []

    def start(*arguments, wait=True):
        if wait:
            return subprocess.run(
                [*command, *arguments], env=env, check=True, capture_output=True, text=True, timeout=WITHIN_SECONDS
            ).stdout
        with (tmp_path / "log").open("a") as log:
            started.append(subprocess.Popen([*command, *arguments], env=env, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def free_port():
    with a_socket() as listening:
        return listening.getsockname()[1]


def until_it_answers(address, process):
    end = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            return httpx.get(address)
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


def test_a_team_talks_to_a_model_and_says_what_it_thinks(run, tmp_path):
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    model = tiny_model("llama")
    model.config.max_position_embeddings = 512  # room for a question and 256 tokens
    save_model(model, tokenizer, tmp_path / "policy")
    ports = [free_port(), free_port()]
    speaker = run("serve-model", "policy", "--port", str(ports[0]), wait=False)
    url = f"http://127.0.0.1:{ports[1]}"
    link = run("feedback", "init", "--url", url).split()[-1]
    (tmp_path / "chat.yaml").write_text("responder: front\n")
    run(
        "feedback", "project", "create", "talk", "--kind", "chat", "--settings", "chat.yaml", "--guideline", "chat.yaml"
    )
    until_it_answers(f"http://127.0.0.1:{ports[0]}/v1/models", speaker)
    named = f"front=http://127.0.0.1:{ports[0]}/v1"
    server = run(
        "feedback", "serve", "--url", url, "--port", str(ports[1]), "--power-safe", "--responder", named, wait=False
    )
    until_it_answers(f"{url}/login", server)

    with httpx.Client(base_url=url, headers={"Origin": url}, timeout=WITHIN_SECONDS) as person:
        entered = person.post(link, data={"name": "Ann", "password": PASSWORD})
        assert entered.status_code == 303 and person.get("/").status_code == 200
        (project,) = person.get("/api/v1/projects").json()["projects"]
        begun = person.post(f"/api/v1/projects/{project['id']}/conversations").json()
        said = person.post(f"/api/v1/conversations/{begun['conversation']}/messages", json={"content": "When?"})
        *pieces, last = [json.loads(line) for line in said.text.splitlines()]
        assert last.get("ticket"), last
        assert all(piece["piece"] for piece in pieces)
        label = {"uid": "one-label-of-ann", "answer": {"good": True}, "seconds": 1.0}
        labelled = person.post(f"/api/v1/tasks/{last['ticket']}/label", json=label)
        assert labelled.status_code == 200, labelled.text
        secrets = [PASSWORD, MODEL_TOKEN, link.rsplit("/", 1)[1], person.cookies["session"], last["ticket"]]

    server.send_signal(signal.SIGTERM)
    assert server.wait(WITHIN_SECONDS) in (0, -signal.SIGTERM)
    log = (tmp_path / "log").read_text()
    assert not [secret for secret in secrets if secret in log] and "Traceback" not in log
    assert re.search(f"{url} answers, from", log)
    with open_store("sqlite:///feedback.db") as store:
        assert "one-label-of-ann" in store.read(lambda c: [row.uid for row in c.execute(events.select())])
        assert store.read(lambda c: chain.verify(c, events)) is None
