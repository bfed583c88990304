"""How long a request may be: bodies are parsed before a route asks who sends them, and nobody is answered meanwhile."""

import time

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.requests import Request

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import people
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.store.projects import add_member, create_project
from loopwright.feedback.web.api.labeling import MOST_VALUES
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.security import SHORT_BODY_BYTES, STRANGERS_BODY_BYTES
from loopwright.feedback.web.settings import ServerConfig
from tests.feedback.web.world import ANSWER, FROM_HERE, item

KEY = SecretStr("0123456789abcdefghijklmnopqrstuvwxyz")
NESTED = b"[[]" + b",[]" * 200_000 + b"]"
JSON = {"Content-Type": "application/json"}


def nested(length):
    """A list of empty lists, of so many bytes."""
    return NESTED[: 3 * (length // 3 - 1) + 2] + b"]"


@pytest.fixture
def parsed(monkeypatch):
    """The lengths of what was parsed as JSON."""
    seen, parse = [], Request.json

    async def noted(request):
        seen.append(len(await request.body()))
        return await parse(request)

    monkeypatch.setattr(Request, "json", noted)
    return seen


@pytest.fixture(params=[True, False], ids=["its length is said", "it comes in pieces"])
def body_of(request):
    return lambda length: nested(length) if request.param else iter([nested(length)])


def test_of_strangers_only_short_bodies_are_parsed(client, world, parsed, body_of):
    tasks = f"/api/v1/projects/{world.project}/tasks"
    length = STRANGERS_BODY_BYTES + 6
    for headers in ({"Authorization": "Bearer lwf_none"}, {**FROM_HERE, "Cookie": "session=none"}, FROM_HERE):
        refused = client.post(tasks, content=body_of(length), headers={**headers, **JSON})
        assert refused.status_code == 401 and "log in" in refused.json()["error"]
    assert parsed == []
    assert client.post(tasks, content=nested(999), headers={**FROM_HERE, **JSON}).status_code == 422
    assert parsed == [999]
    page = client.post("/login", content=body_of(length), headers=FROM_HERE)
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    known = client.post(tasks, content=body_of(length), headers={**world.headers("annotator"), **JSON})
    assert known.status_code == 422


def test_labelers_send_no_long_bodies_wherever_they_send_them(client, world, parsed, body_of):
    headers = {**world.headers("annotator"), **JSON}
    for path in (f"/projects/{world.project}/tasks", f"/tasks/{world.tickets['annotator']}/label"):
        refused = client.post(f"/api/v1{path}", content=body_of(SHORT_BODY_BYTES + 6), headers=headers)
        assert refused.status_code == 413, path
    publish = f"/api/v1/projects/{world.project}/items"
    refused = client.post(publish, content=nested(SHORT_BODY_BYTES + 6), headers=headers)
    assert refused.status_code == 403 and "managers" in refused.json()["error"]
    assert parsed == []


def test_managers_publish_more_at_once(client, world):
    items = [item(f"long {n}", tags={"padding": "x" * 1_000}).model_dump(mode="json") for n in range(500)]
    published = client.post(
        f"/api/v1/projects/{world.project}/items", json={"items": items}, headers=world.headers("manager")
    )
    assert published.status_code == 201 and published.json()["new"] == 500
    text = {"text": "Be fair. " * 20_000}
    written = client.post(
        f"/api/v1/projects/{world.project}/guidelines", json=text, headers=world.headers("manager+manage")
    )
    assert written.status_code == 201


def test_what_is_wrong_is_not_told_for_each_of_very_many_values(client, world):
    headers = world.headers("annotator")
    keys = {str(n): "no key" for n in range(9_000)}
    refused = client.put("/api/v1/preferences", json={"keys": keys}, headers=headers)
    assert refused.status_code == 422 and "actions" in refused.json()["error"]
    path = f"/api/v1/tasks/{world.tickets['annotator']}/label"
    for many in ({str(n): 5 for n in range(9_000)}, [[5]] * 4_500):
        answer = {**ANSWER, "criteria": many}
        refused = client.post(path, json={"uid": "uid-of-this", "answer": answer}, headers=headers)
        assert refused.status_code == 422 and f"at most {MOST_VALUES:,} values" in refused.json()["error"]


def test_who_asks_is_looked_up_in_postgresql_too(postgresql_url):
    """There one thread answers such questions of all requests, in groups."""
    migrate(postgresql_url)
    with open_store(postgresql_url) as database:

        def job(connection):
            account = people.create_account(connection, "ann", now=time.time())
            project = create_project(connection, "p", ProjectConfig(kind="thumb"), now=time.time())
            add_member(connection, project.id, account.id)
            return project.id, people.create_token(connection, account.id, "t", ["label"], now=time.time())

        project, token = database.write(job)
        client = TestClient(create_app(database, ServerConfig(key=KEY)), base_url="http://127.0.0.1:8600")
        asked = {"url": f"/api/v1/projects/{project}/tasks", "json": {"tasks": 1}}
        mine, strange = ({"Authorization": f"Bearer {one}"} for one in (token, "lwf_nobodys"))
        assert client.post(**asked, headers=mine).json() == {"tasks": [], "new_guideline": None}
        assert client.post(**asked, headers=strange).status_code == 401
        elsewhere = asked | {"url": "/api/v1/projects/none/tasks"}
        assert client.post(**elsewhere, headers=mine).status_code == 404
