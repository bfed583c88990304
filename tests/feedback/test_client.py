"""The client against a real server: what comes back, what may be sent twice, what it does when the server is away."""

import json
import threading
import time

import httpx
import pytest

from loopwright.errors import ConfigError, StoreError
from loopwright.feedback import connection
from loopwright.feedback.client import FeedbackClient, checked_url, read_token
from loopwright.feedback.connection import Unreachable
from loopwright.feedback.items import Item
from loopwright.feedback.projects import ProjectConfig
from loopwright.schemas import Comparison, Correction, Demonstration, Message
from tests.feedback.web.people import Office


@pytest.fixture
def office(tmp_path):
    with Office(tmp_path) as office:
        yield office


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT_SECONDS", 0.01)


def item(number, **more):
    prompt = (Message(role="user", content=f"Question {number}?"),)
    return Item(**{"key": f"item-{number}", "prompt": prompt, "responses": ("one", "another"), **more})


def test_the_token_is_read_from_a_file_or_the_environment_and_never_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_FEEDBACK_TOKEN", "from-the-environment\n")
    assert read_token() == "from-the-environment"
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    assert read_token(file) == "from-a-file"
    file.write_text("zwei Wörter")
    with pytest.raises(ConfigError) as error:
        read_token(file)
    assert "zwei" not in str(error.value)
    monkeypatch.delenv("LOOPWRIGHT_FEEDBACK_TOKEN")
    with pytest.raises(ConfigError, match="LOOPWRIGHT_FEEDBACK_TOKEN holds no token"):
        FeedbackClient("http://127.0.0.1:8600")


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8600", "ftp://there", "http://", "http://me:secret@there", "http://there/path", "http://there?a=b"],
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError) as error:
        checked_url(url)
    assert "secret" not in str(error.value)


def test_a_project_is_made_asked_labelled_and_read(office):
    with office.client() as client:
        made = client.create_project("desk", ProjectConfig(kind="comparison", gold_share=0.0), guideline="Be fair.")
        assert client.project("desk") == made
        assert made.kind == "comparison"
        done = client.publish(made.id, [item(1, policy="p1", tags={"off_topic": [1]})], batch="b 1 ü")
        assert (done.new, done.known) == (1, 0)
        project, (labeler, *_) = office.open_project("other", labelers=1)
        assert [one.name for one in client.projects()] == ["desk", "other"]
        client.publish(project, [item(2, policy="p2", tags={"off_topic": [1]})], batch="second")
        with office.client(labeler.token) as person:
            found = person.tasks(project)
            (task,) = found.tasks
            best = task.answers.index("one")
            answer = {"choice": best, "strength": "better", "improved": "the one"}
            label = person.label(task.ticket, answer, seconds=3.0)
            progress = client.batch(project, "second")
            assert (progress.items, progress.labels, progress.wanted) == (1, 1, 1)
            lines = list(client.labels(project, batch="second"))
            assert [(line.kind, line.label) for line in lines] == [("comparisons", label), ("corrections", label)]
            first, second = (line.record for line in lines)
            assert isinstance(first, Comparison) and isinstance(second, Correction)
            assert (first.choice, first.policy, first.off_topic, first.seconds) == (0, "p2", (1,), 3.0)
            assert list(client.labels(project, batch="first")) == []
            assert person.undo(label) == task.ticket
            assert list(client.labels(project)) == []
            person.skip(task.ticket, "cannot_judge")
            person.undo_skip(task.ticket)
            person.skip(task.ticket, "cannot_judge")
            assert person.tasks(project).tasks == ()


def test_every_write_may_be_sent_twice(office):
    project, (labeler, *_) = office.open_project("desk", labelers=1)
    with office.client() as client, office.client(labeler.token) as person:
        items = [item(number) for number in range(3)]
        assert client.publish(project, items).new == 3
        again = client.publish(project, [*items, item(3)])
        assert (again.new, again.known) == (1, 3)
        (task,) = person.tasks(project).tasks
        assert person.tasks(project).tasks == (task,)
        answer = {"choice": None}
        assert person.label(task.ticket, answer, uid="a-uid-of-mine") == "a-uid-of-mine"
        person.label(task.ticket, answer, uid="a-uid-of-mine")
        assert len(list(client.labels(project))) == 1
        for _ in range(2):
            client.register(project, "feedback-1", "feedback", {"policy": "p"}, labels=["a-uid-of-mine"])
            client.register(project, "reward-1", "reward", {"feedback": "feedback-1"})
        assert [(made.id, made.labels, made.stale_labels) for made in client.artifacts(project)] == [
            ("feedback-1", 1, None), ("reward-1", 0, None),
        ]  # fmt: skip
        assert client.made_from(project, "a-uid-of-mine") == ["feedback-1", "reward-1"]
        with pytest.raises(StoreError, match="frozen"):
            person.undo("a-uid-of-mine")
        who = next(one.account for one in client.members(project))
        for _ in range(2):
            client.exclude(project, {"annotator": who}, uid="exclusion-1")
        assert [one.what for one in client.exclusions(project)] == [{"annotator": who}]
        stale = [(made.id, made.stale_labels, made.stale_because_of) for made in client.artifacts(project)]
        assert stale == [("feedback-1", 1, None), ("reward-1", 0, "feedback-1")]


def test_many_items_go_in_portions_that_the_server_takes(office):
    project, _ = office.open_project("desk")
    with office.client() as client:
        long = "word " * 2_000
        done = client.publish(project, [item(number, responses=(long, "b")) for number in range(1_100)], batch="all")
        assert done.new == 1_100
        assert client.batch(project, "all").items == 1_100


def test_what_the_server_refuses_is_said_in_its_words(office):
    project, (labeler, *_) = office.open_project("desk", labelers=1)
    with office.client("lwf_nobodys") as stranger, pytest.raises(StoreError) as error:
        stranger.projects()
    assert "does not know this token" in str(error.value)
    assert "lwf_nobodys" not in str(error.value)
    with office.client() as client:
        with pytest.raises(StoreError, match=r"no project nowhere .* there are: desk"):
            client.project("nowhere")
        with pytest.raises(StoreError, match="a comparison needs 2"):
            client.publish(project, [item(1, responses=("only one",))])
        client.publish(project, [item(2)])
    with office.client(labeler.token) as person:
        (task,) = person.tasks(project).tasks
        with pytest.raises(StoreError, match="a choice comes with its strength"):
            person.label(task.ticket, {"choice": 1})
        with pytest.raises(StoreError, match="this token may not publish"):
            person.publish(project, [item(3)])


def test_a_server_that_is_away_is_asked_again(office, impatient):
    project, _ = office.open_project("desk")
    with office.client(attempts=2) as client:
        client.publish(project, [item(1)], batch="b")
        office.stop()
        with pytest.raises(Unreachable, match="no answer in 2 attempts"):
            client.batch(project, "b")
    back = threading.Timer(0.3, office.start)
    back.start()
    with office.client(attempts=200) as client:
        assert client.batch(project, "b").items == 1
    back.join()


class Breaking:
    """A stream that breaks off after so many lines, each time anew."""

    def __init__(self, rows, at):
        self.rows, self.at, self.attempts, self.asked = rows, at, 5, []

    def lines(self, path, *, after, **query):
        self.asked.append(after)
        for number, line in enumerate(line for event, line in self.rows if event > after):
            if number == self.at:
                raise connection.Passing("broke off")
            yield line

    def wait(self, attempt, reason):
        assert attempt < self.attempts


def test_a_stream_that_breaks_off_in_a_label_gives_every_record_once():
    def row(event, number):
        given = Demonstration(id=f"{event}-{number}", prompt=(Message(role="user", content="Why?"),), response="So.")
        line = {"event": event, "label": f"uid-{event}", "kind": "demonstrations", "record": given.model_dump()}
        return event, json.dumps(line).encode()

    rows = [row(event, number) for event in (3, 5, 9) for number in (1, 2)]
    client = FeedbackClient("http://127.0.0.1:1", token="t")
    client._connection = Breaking(rows, at=3)  # in the middle of the second label, then of the third
    assert [line.record.id for line in client.labels("p")] == ["3-1", "3-2", "5-1", "5-2", "9-1", "9-2"]
    assert client._connection.asked == [0, 3, 5]


@pytest.mark.parametrize("line", [b"no json", b"[]", b'{"event": 1, "label": "u", "kind": "nothing", "record": {}}'])
def test_a_line_that_is_no_label_is_an_error(line):
    client = FeedbackClient("http://127.0.0.1:1", token="t")
    client._connection.lines = lambda path, **query: iter([line])
    with pytest.raises(StoreError, match="its reply cannot be read"):
        list(client.labels("p"))


def test_waiting_ends_and_grows(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    waiting = connection.Connection("http://127.0.0.1:1", "t", timeout_seconds=1, attempts=4)
    for attempt in (1, 2, 3):
        waiting.wait(attempt, connection.Passing("away"))
    with pytest.raises(Unreachable):
        waiting.wait(4, connection.Passing("away"))
    assert all(first < 2.01 * second and second < 4.01 * first for first, second in zip(slept, slept[1:], strict=False))
    assert 0.1 < slept[0] < 0.26


def answering(*replies):
    """A client whose server gives these replies, one after the other, and the requests that it got."""
    got, left = [], list(replies)

    def handler(request):
        got.append(request)
        return left.pop(0)

    client = FeedbackClient("http://127.0.0.1:1", token="t", attempts=3)
    transport = httpx.MockTransport(handler)
    client._connection._http = httpx.Client(transport=transport, base_url="http://127.0.0.1:1/api/v1/")
    return client, got


def test_what_may_pass_is_tried_again_with_the_same_uid(impatient):
    done = httpx.Response(200, json={"label": "u", "late": False})
    client, got = answering(httpx.Response(503), httpx.Response(429), done)
    uid = client.label("ticket", {"good": True})
    assert [json.loads(request.content)["uid"] for request in got] == [uid] * 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (httpx.Response(500, json={"error": "the server failed\x1b[31m"}), r"the server failed\[31m$"),
        (httpx.Response(404, text="<html>"), "status 404; is a feedback server there"),
        (httpx.Response(302, headers={"location": "http://elsewhere"}), "status 302"),
        (httpx.Response(200, text="hello"), "no JSON object"),
        (httpx.Response(200, json=[1]), "no JSON object"),
        (httpx.Response(200, json={"items": "many"}), "its reply cannot be read"),
        (httpx.Response(200, content=b"x" * 100), "longer than 50 bytes"),
    ],
)
def test_what_does_not_pass_is_said_at_once(reply, message, monkeypatch):
    monkeypatch.setattr(connection, "LONGEST_REPLY_BYTES", 50)
    client, got = answering(reply)
    with pytest.raises(StoreError, match=message):
        client.batch("project", "batch")
    assert len(got) == 1


def test_a_line_without_an_end_is_an_error(monkeypatch):
    monkeypatch.setattr(connection, "LONGEST_LINE_BYTES", 50)
    client, _ = answering(httpx.Response(200, content=b"x" * 100))
    with pytest.raises(StoreError, match="a line is longer than 50 bytes"):
        list(client.labels("project"))
