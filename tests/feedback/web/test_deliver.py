"""Webhooks tell what the store holds: each event, in order, again until it arrived, signed."""

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from standardwebhooks import Webhook

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import labels as store_labels
from loopwright.feedback.store import people, queue
from loopwright.feedback.store.items import Item, publish
from loopwright.feedback.store.projects import add_member, create_project
from loopwright.feedback.web import deliver
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.deliver import deliver_due
from loopwright.feedback.web.settings import ServerConfig
from loopwright.feedback.webhooks import ATTEMPTS, Sender

KEY = SecretStr("0123456789abcdefghijklmnopqrstuvwxyz")
SENDER = Sender(allow_loopback=True)


class Receiver:
    """Another server: keeps what it is sent, and answers with `status`."""

    def __init__(self):
        self.status = 200
        self.got = []
        self.news = threading.Semaphore(0)
        self.holds = None  # an Event: answers wait for it
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802 -- http.server's name
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((dict(self.headers.items()), body))
                receiver.news.release()
                if receiver.holds is not None:
                    receiver.holds.wait(60)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *about):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def database(sqlite_store):
    return sqlite_store


@pytest.fixture
def config():
    return ServerConfig(key=KEY, webhooks_to_this_machine=True)


@pytest.fixture
def setup(database, config, receiver):
    """A project with three items, a manager's client, and the webhook it has set up."""

    def job(connection):
        project = create_project(connection, "p", ProjectConfig(kind="thumb"), now=1.0)
        account = people.create_account(connection, "ann", now=1.0)
        add_member(connection, project.id, account.id, "manager")
        publish(connection, project, [Item(key=f"item-{n}", responses=(f"answer {n}",)) for n in range(3)], now=1.0)
        return project, account, people.create_token(connection, account.id, "test", ["manage"], now=1.0)

    project, account, token = database.write(job)
    app = create_app(database, config)
    client = TestClient(app, base_url=config.url, headers={"Authorization": f"Bearer {token}"})
    added = client.post(f"/api/v1/projects/{project.id}/webhooks", json={"url": receiver.url})
    assert added.status_code == 200, added.text
    return project, account.id, client, added.json()


def say(database, project, account, number):
    def job(connection):
        (task,) = queue.claim(connection, project.id, account, now=2.0)
        uid = f"uid-{number:05}"
        store_labels.submit(connection, task.ticket, account, uid=uid, answer={"good": True}, seconds=1.0, now=3.0)

    database.write(job)


def told(receiver):
    return [[event["uid"] for event in json.loads(body)["events"]] for _, body in receiver.got]


def test_each_event_is_told_once_in_order_and_its_signature_verifies(database, config, setup, receiver):
    project, account, _, added = setup
    say(database, project, account, 1)
    say(database, project, account, 2)
    assert deliver_due(database, config, SENDER, now=10.0) == 1
    assert deliver_due(database, config, SENDER, now=11.0) == 0
    say(database, project, account, 3)
    assert deliver_due(database, config, SENDER, now=12.0) == 1
    assert told(receiver) == [["uid-00001", "uid-00002"], ["uid-00003"]]
    headers, body = receiver.got[0]
    message = Webhook(added["secret"]).verify(body, {name.lower(): value for name, value in headers.items()})
    assert message["type"] == "feedback.events" and message["project"] == project.id
    assert {event["item"] for event in message["events"]} < {"item-0", "item-1", "item-2"}


def test_what_was_said_before_is_not_told(database, config, setup, receiver):
    project, account, client, _ = setup
    say(database, project, account, 1)
    deliver_due(database, config, SENDER, now=10.0)
    client.post(f"/api/v1/projects/{project.id}/webhooks", json={"url": receiver.url + "/second"})
    assert deliver_due(database, config, SENDER, now=11.0) == 0


def test_a_receiver_that_is_away_is_told_later_under_the_same_id(database, config, setup, receiver):
    project, account, client, _ = setup
    receiver.status = 503
    say(database, project, account, 1)
    deliver_due(database, config, SENDER, now=10.0)
    assert deliver_due(database, config, SENDER, now=10.1) == 0  # it is given time
    (shown,) = client.get(f"/api/v1/projects/{project.id}/webhooks").json()["webhooks"]
    assert "503" in shown["problem"] and not shown["disabled"]
    receiver.status = 200
    assert deliver_due(database, config, SENDER, now=1e12) == 1
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert len(ids) == 2 and len(set(ids)) == 1
    (shown,) = client.get(f"/api/v1/projects/{project.id}/webhooks").json()["webhooks"]
    assert shown["problem"] is None


def test_it_is_given_up_after_so_many_attempts_and_at_once_where_nothing_may_pass(database, config, setup, receiver):
    project, account, client, _ = setup
    say(database, project, account, 1)
    receiver.status = 503
    for _ in range(ATTEMPTS + 3):
        deliver_due(database, config, SENDER, now=1e12)
    assert len(receiver.got) == ATTEMPTS
    assert client.get(f"/api/v1/projects/{project.id}/webhooks").json()["webhooks"][0]["disabled"]
    client.post(f"/api/v1/projects/{project.id}/webhooks", json={"url": receiver.url})
    receiver.status = 404
    say(database, project, account, 2)
    for _ in range(3):
        deliver_due(database, config, SENDER, now=1e12)
    assert len(receiver.got) == ATTEMPTS + 1


def test_one_that_fails_does_not_hold_up_the_others(database, config, setup, receiver):
    project, account, client, _ = setup
    client.post(f"/api/v1/projects/{project.id}/webhooks", json={"url": "http://127.0.0.1:9/closed"})
    say(database, project, account, 1)
    assert deliver_due(database, config, SENDER, now=10.0) == 2
    assert told(receiver) == [["uid-00001"]]


def test_a_removed_webhook_is_told_nothing(database, config, setup, receiver):
    project, account, client, added = setup
    path = f"/api/v1/projects/{project.id}/webhooks/{added['webhook']}"
    assert client.delete(path).status_code == 200
    assert client.delete(path).status_code == 409
    say(database, project, account, 1)
    assert deliver_due(database, config, SENDER, now=10.0) == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/x", "http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"]
)
def test_an_address_that_may_not_be_asked_is_refused(database, setup, url):
    project, _, client, _ = setup
    client.app.state.config = ServerConfig(key=KEY)
    reply = client.post(f"/api/v1/projects/{project.id}/webhooks", json={"url": url})
    assert reply.status_code == 409 and "https" in reply.json()["error"]


def test_no_secret_is_stored(database, setup, tmp_path):
    _, _, _, added = setup
    database.write(lambda c: None)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("feedback.db*"))
    assert added["secret"].removeprefix("whsec_").encode() not in stored


def test_a_slow_receiver_holds_up_nobody_else(database, config, setup, receiver, monkeypatch):
    project, account, client, _ = setup
    slow, hold = Receiver(), threading.Event()
    slow.holds = hold
    monkeypatch.setattr(deliver, "Sender", partial(Sender, timeout_seconds=60))
    monkeypatch.setattr(deliver, "LOOK_EVERY_SECONDS", 0.01)
    client.post(f"/api/v1/projects/{project.id}/webhooks", json={"url": slow.url})
    try:
        with deliver.delivering(database, config):
            for number in (1, 2):
                say(database, project, account, number)
                assert receiver.news.acquire(timeout=20) and (number > 1 or slow.news.acquire(timeout=20))
            hold.set()
            assert slow.news.acquire(timeout=20)
    finally:
        hold.set()
        slow.close()
    assert told(receiver) == told(slow) == [["uid-00001"], ["uid-00002"]]
