"""Conversations: what is said is kept, judged like other answers, and nobody else's business."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from anyio import create_task_group, to_thread, wait_all_tasks_blocked
from anyio.from_thread import start_blocking_portal
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError
from sqlalchemy import delete
from starlette.requests import ClientDisconnect

from loopwright.errors import ResponderError
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import labels, people
from loopwright.feedback.store.projects import add_member, change_project, create_project
from loopwright.feedback.store.tables import members
from loopwright.feedback.web.api.chat import AnswerStream, Running
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.settings import ServerConfig
from loopwright.schemas import Attack, Reply, Thumb
from tests.feedback.web.axe import axe
from tests.feedback.web.serving import a_socket, address_of, served

KEY = SecretStr("0123456789abcdefghijklmnopqrstuvwxyz")


class Parrot:
    """Says again what was said last, word by word; fails when it hears "fail"."""

    name = "parrot"

    def __init__(self):
        self.heard = []
        self.closed = 0
        self.policy = "ppo-123"

    def reply(self, messages, settings):
        self.heard.append([(message.role, message.content) for message in messages])
        self.most_tokens = settings.max_new_tokens
        text = messages[-1].content
        try:
            for word in text.split(" "):
                if word == "fail":
                    raise ResponderError("http://10.0.0.7:8400/v1 does not answer")
                if word == "crash":
                    raise RuntimeError("secret detail")
                yield word + " "
            yield Reply(text=text, finished=True, model="parrot", policy=self.policy)
        finally:
            self.closed += 1


@pytest.fixture
def database(sqlite_store):
    return sqlite_store


@pytest.fixture
def parrot():
    return Parrot()


@pytest.fixture
def app(database, parrot):
    return create_app(database, ServerConfig(key=KEY), {"bird": parrot})


def project(database, kind="chat", responder="bird"):
    config = ProjectConfig(kind=kind, responder=responder)
    return database.write(lambda c: create_project(c, kind, config, now=1.0))


def person(database, app, name, project, role="annotator", scope="label"):
    def job(connection):
        account = people.create_account(connection, name, now=1.0)
        add_member(connection, project.id, account.id, role)
        return people.create_token(connection, account.id, "test", [scope], now=1.0)

    token = database.write(job)
    return TestClient(app, base_url="http://127.0.0.1:8600", headers={"Authorization": f"Bearer {token}"})


def begin(client, project):
    return client.post(f"/api/v1/projects/{project.id}/conversations").json()["conversation"]


def say(client, conversation, content):
    reply = client.post(f"/api/v1/conversations/{conversation}/messages", json={"content": content})
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def test_an_answer_comes_in_pieces_and_is_judged_like_any_other(database, app):
    chat = project(database)
    ann = person(database, app, "ann", chat)
    conversation = begin(ann, chat)
    *pieces, last = say(ann, conversation, "hello <b>there</b>")
    assert "".join(line["piece"] for line in pieces).strip() == "hello <b>there</b>"
    assert "<b>" not in last["html"] and "&lt;b&gt;" in last["html"]
    judged = {"uid": "uid-0000-1", "answer": {"good": False, "reason": "an echo"}}
    assert ann.post(f"/api/v1/tasks/{last['ticket']}/label", json=judged).status_code == 200
    ((*_, kind, record),) = database.read(lambda c: list(labels.records(c, chat)))
    assert kind == "thumbs" and isinstance(record, Thumb)
    assert (record.good, record.rationale, record.policy) == (False, "an echo", "ppo-123")
    assert [(m.role, m.content) for m in record.prompt] == [("user", "hello <b>there</b>")]
    assert record.responses == ("hello <b>there</b>",)


def test_the_model_hears_the_whole_conversation_and_each_answer_has_its_own_prompt(database, app, parrot):
    chat = project(database)
    ann = person(database, app, "ann", chat)
    conversation = begin(ann, chat)
    say(ann, conversation, "one")
    last = say(ann, conversation, "two")[-1]
    assert parrot.heard[-1] == [("user", "one"), ("assistant", "one"), ("user", "two")]
    ann.post(f"/api/v1/tasks/{last['ticket']}/label", json={"uid": "uid-0000-2", "answer": {"good": True}})
    ((*_, record),) = database.read(lambda c: list(labels.records(c, chat)))
    assert [m.content for m in record.prompt] == ["one", "one", "two"]
    shown = ann.get(f"/api/v1/conversations/{conversation}").json()["turns"]
    assert [(turn["role"], turn["answer"]) for turn in shown] == [
        ("user", None), ("assistant", None), ("user", None), ("assistant", {"good": True}),
    ]  # fmt: skip


def test_answers_are_as_long_as_the_project_has_it(database, app, parrot):
    config = ProjectConfig(kind="chat", responder="bird", reply_tokens=40)
    short = database.write(lambda c: create_project(c, "short", config, now=1.0))
    ann = person(database, app, "ann", short)
    say(ann, begin(ann, short), "hi")
    assert parrot.most_tokens == 40
    with pytest.raises(ValidationError, match="reply_tokens has no effect on a thumb project"):
        ProjectConfig(kind="thumb", reply_tokens=40)


def test_red_team_answers_say_whether_the_model_broke(database, app):
    attack = project(database, "red_team")
    ann = person(database, app, "ann", attack)
    last = say(ann, begin(ann, attack), "say something bad")[-1]
    judged = {"uid": "uid-0000-3", "answer": {"broke": True, "harm": 2}}
    assert ann.post(f"/api/v1/tasks/{last['ticket']}/label", json=judged).status_code == 200
    ((*_, kind, record),) = database.read(lambda c: list(labels.records(c, attack)))
    assert kind == "attacks" and isinstance(record, Attack) and (record.broke, record.harm) == (True, 2)


def test_programs_hear_how_far_the_answers_of_a_policy_are_and_which_one_answers_now(database, app, parrot):
    chat = project(database)
    ann, run = person(database, app, "ann", chat), person(database, app, "run", chat, "manager", "read")

    def batch(policy):
        found = run.get(f"/api/v1/projects/{chat.id}/batches/{policy}")
        assert found.status_code == 200, found.text
        return found.json()

    assert batch("ppo-123") == {"items": 0, "labels": 0, "wanted": 0, "answering": None}
    conversation = begin(ann, chat)
    for number, content in enumerate(("one", "two")):
        ticket = say(ann, conversation, content)[-1]["ticket"]
        judged = {"uid": f"uid-0000-{number}", "answer": {"good": True}}
        assert ann.post(f"/api/v1/tasks/{ticket}/label", json=judged).status_code == 200
        parrot.policy = "a" * 120  # a server of other people's models; PostgreSQL takes 100
    assert batch("ppo-123") == {"items": 1, "labels": 1, "wanted": 1, "answering": "a" * 100}
    assert batch("a" * 100)["labels"] == 1
    said = run.get(f"/api/v1/projects/{chat.id}/labels", params={"batch": "ppo-123"}).text
    assert [json.loads(line)["label"] for line in said.splitlines()] == ["uid-0000-0"]
    assert ann.get(f"/api/v1/projects/{chat.id}/batches/ppo-123").status_code == 403  # labelers judge blindly


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("please fail", "http://10.0.0.7:8400/v1 does not answer"), ("now crash", "secret detail")],
)
def test_a_model_that_fails_is_said_without_its_name_and_the_question_can_be_asked_again(
    database, app, parrot, caplog, content, sentence
):
    chat = project(database)
    ann = person(database, app, "ann", chat)
    conversation = begin(ann, chat)
    last = say(ann, conversation, content)[-1]
    assert last == {"error": "the model does not answer now; try again in some minutes"}
    assert sentence in caplog.text and "the model parrot failed" in caplog.text
    assert parrot.closed == 1
    say(ann, conversation, "again")  # takes the place of the question that got no answer
    turns = ann.get(f"/api/v1/conversations/{conversation}").json()["turns"]
    assert [turn["content"] for turn in turns] == ["again", "again"]


def test_conversations_are_nobody_elses(database, app):
    chat = project(database)
    ann, bob = person(database, app, "ann", chat), person(database, app, "bob", chat)
    conversation = begin(ann, chat)
    ticket = say(ann, conversation, "mine")[-1]["ticket"]
    assert bob.get(f"/api/v1/conversations/{conversation}").status_code == 409
    assert bob.post(f"/api/v1/conversations/{conversation}/messages", json={"content": "x"}).status_code == 409
    stolen = {"uid": "uid-0000-4", "answer": {"good": True}}
    assert bob.post(f"/api/v1/tasks/{ticket}/label", json=stolen).status_code == 409
    assert bob.get(f"/api/v1/projects/{chat.id}/conversations").json() == {"conversations": []}


def test_answers_are_not_given_out_to_others_even_when_their_time_is_over(database, app, monkeypatch):
    chat = project(database)
    ann, bob = person(database, app, "ann", chat), person(database, app, "bob", chat)
    say(ann, begin(ann, chat), "mine")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 40 * 86_400)
    assert bob.post(f"/api/v1/projects/{chat.id}/tasks", json={}).json()["tasks"] == []


def test_a_model_that_the_server_does_not_know(database, parrot, caplog):
    chat = project(database)
    lonely = create_app(database, ServerConfig(key=KEY))
    ann = person(database, lonely, "ann", chat)
    reply = ann.post(f"/api/v1/conversations/{begin(ann, chat)}/messages", json={"content": "x"})
    assert reply.status_code == 409 and "bird" not in reply.text
    assert "knows no model bird; start it with --responder" in caplog.text


class Thinker(Parrot):
    """Thinks until it is told to speak."""

    def __init__(self):
        super().__init__()
        self.asked, self.speak = threading.Semaphore(0), threading.Event()

    def reply(self, messages, settings):
        self.asked.release()
        assert self.speak.wait(20)
        yield from super().reply(messages, settings)


def test_each_account_has_one_answer_at_a_time(database):
    thinker = Thinker()
    app = create_app(database, ServerConfig(key=KEY), {"bird": thinker})
    chat = project(database)
    ann, bob = person(database, app, "ann", chat), person(database, app, "bob", chat)
    first, second, others = begin(ann, chat), begin(ann, chat), begin(bob, chat)
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(say, ann, first, "one")]
        assert thinker.asked.acquire(timeout=20)
        refused = ann.post(f"/api/v1/conversations/{second}/messages", json={"content": "two"})
        assert refused.status_code == 429 and "still answering" in refused.json()["error"]
        answers.append(pool.submit(say, bob, others, "mine"))
        assert thinker.asked.acquire(timeout=20)
        thinker.speak.set()
        assert all("ticket" in answer.result()[-1] for answer in answers)
    assert ann.get(f"/api/v1/conversations/{second}").json()["turns"] == []  # the refused question was not kept
    assert "ticket" in say(ann, second, "two")[-1]


def test_a_question_that_is_refused_does_not_count_as_an_answer(database, app):
    chat = project(database)
    ann = person(database, app, "ann", chat)
    for _ in range(2):
        assert ann.post("/api/v1/conversations/none/messages", json={"content": "x"}).status_code == 409
    assert "ticket" in say(ann, begin(ann, chat), "x")[-1]


SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}}


def test_models_that_think_take_no_thread_of_others():
    async def main():
        speak = threading.Event()
        to_thread.current_default_thread_limiter().total_tokens = 1
        running, thought = Running(), []

        def thinking():
            thought.append(speak.wait(10))
            yield "done"

        async with create_task_group() as group:
            for name in ("ann", "bob"):
                running.begin(name)
                group.start_soon(AnswerStream(running, name, thinking()), SCOPE, None, sink)
            await wait_all_tasks_blocked()
            await to_thread.run_sync(speak.set)  # what any other request does
        assert thought == [True, True]

    async def sink(message):
        pass

    with start_blocking_portal() as portal:
        portal.call(main)


@pytest.mark.parametrize("sent", [0, 2], ids=["before the first line", "after it"])
def test_an_answer_ends_with_who_reads_it(sent):
    async def main():
        running, closed, messages = Running(), [], []

        def lines():
            try:
                yield from "many lines"
            finally:
                closed.append(True)

        async def gone(message):
            messages.append(message)
            if len(messages) > sent:
                raise OSError

        running.begin("ann")
        with pytest.raises(ClientDisconnect):
            await AnswerStream(running, "ann", lines())(SCOPE, None, gone)
        assert closed == [True] * bool(sent)  # what never began needs no end
        running.begin("ann")

    with start_blocking_portal() as portal:
        portal.call(main)


def test_a_project_that_talks_to_nobody(database, app):
    other = database.write(lambda c: create_project(c, "other", ProjectConfig(kind="thumb"), now=1.0))
    ann = person(database, app, "ann", other)
    assert ann.post(f"/api/v1/projects/{other.id}/conversations").status_code == 409
    account = database.read(lambda c: people.find_account(c, "ann"))
    cookie = database.write(lambda c: people.start_session(c, account.id, now=time.time()))
    browser = TestClient(app, base_url="http://127.0.0.1:8600", cookies={"session": cookie})
    assert browser.get(f"/projects/{other.id}/chat").status_code == 404


@contextmanager
def chatting(database, parrot, watch):
    """The page of a chat, open in a browser, and its project."""
    chat = project(database)
    listening = a_socket()
    app = create_app(database, ServerConfig(key=KEY, url=address_of(listening)), {"bird": parrot})
    with served(app, listening) as url:

        def job(connection):
            account = people.create_account(connection, "ann", now=1.0)
            add_member(connection, chat.id, account.id)
            return people.start_session(connection, account.id, now=time.time())

        page = watch.open(base_url=url)
        page.context.add_cookies([{"name": "session", "value": database.write(job), "url": url}])
        page.goto(f"/projects/{chat.id}/chat")
        yield page, chat


def ask(page, text):
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Control+Enter")


def test_a_person_chats_in_the_browser(database, parrot, watch):
    with chatting(database, parrot, watch) as (page, chat):
        ask(page, "hi <img src=x onerror=alert(1)>")
        page.get_by_text("The model has answered.").wait_for()
        held = []
        page.route("**/label", lambda route: route.continue_() if held else held.append(route))
        page.get_by_role("button", name="Good").click()
        page.get_by_role("button", name="Bad").click()
        page.wait_for_timeout(100)
        with page.expect_response(lambda reply: reply.request.post_data_json.get("answer") == {"good": True}):
            held[0].continue_()  # slow as it is, it arrives before the later one, which counts
        page.get_by_text("saved", exact=True).wait_for()
        page.unroute("**/label")
        ((*_, record),) = database.read(lambda c: list(labels.records(c, chat)))
        assert not record.good
        page.get_by_label("Why?").fill("an echo")
        page.keyboard.press("Tab")
        page.reload()
        page.get_by_role("button", name="hi <img").click()
        assert page.get_by_role("button", name="Bad").get_attribute("aria-pressed") == "true"
        page.wait_for_function("() => document.querySelector('[data-reason]').value === 'an echo'")
        assert axe(page) == []
    ((*_, record),) = database.read(lambda c: list(labels.records(c, chat)))
    assert (record.good, record.rationale) == (False, "an echo")


def test_the_next_message_does_not_wait_for_the_list_of_conversations(database, parrot, watch):
    with chatting(database, parrot, watch) as (page, _):
        held = []
        page.route("**/conversations", lambda route: held.append(route) if is_read(route) else route.continue_())
        for text in ("one", "two"):
            ask(page, text)
            page.locator(".assistant").get_by_text(text).wait_for()
            page.wait_for_selector("#send:enabled")
        assert len(held) >= 1
        page.unroute_all(behavior="ignoreErrors")
    assert [heard[-1] for heard in parrot.heard] == [("user", "one"), ("user", "two")]


def is_read(route):
    return route.request.method == "GET"


@pytest.mark.parametrize("lost", ["**/conversations", "**/messages"])
def test_a_message_that_does_not_leave_is_still_in_its_field(database, parrot, watch, lost):
    with chatting(database, parrot, watch) as (page, _):
        page.route(lost, lambda route: route.continue_() if is_read(route) else route.abort())
        ask(page, "hello")
        page.wait_for_function("() => document.querySelector('#content').value === 'hello'")
        assert page.locator("#turns li").count() == 0
        watch.forgive("ERR_FAILED")
        page.unroute(lost)
        ask(page, "hello")
        page.get_by_text("The model has answered.").wait_for()
    assert parrot.heard == [[("user", "hello")]]


def test_who_was_removed_talks_no_more(database, app):
    chat = project(database)
    ann = person(database, app, "ann", chat)
    conversation = begin(ann, chat)
    say(ann, conversation, "one")

    def removed(connection):
        connection.execute(delete(members).where(members.c.project == chat.id))

    database.write(removed)
    path = f"/api/v1/conversations/{conversation}"
    assert ann.get(path).status_code == 409
    assert ann.post(f"{path}/messages", json={"content": "two"}).status_code == 409


def test_a_project_that_is_not_open_asks_its_model_nothing(database, app, parrot):
    chat = project(database)
    ann = person(database, app, "ann", chat)
    conversation = begin(ann, chat)
    database.write(lambda c: change_project(c, chat.id, state="paused"))
    reply = ann.post(f"/api/v1/conversations/{conversation}/messages", json={"content": "x"})
    assert reply.status_code == 409 and "paused" in reply.json()["error"]
    assert parrot.heard == []
