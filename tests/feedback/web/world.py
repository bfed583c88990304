"""Two projects and everybody who may ask something of the app: what the tests of permissions start from."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from argon2 import PasswordHasher
from fastapi.routing import iter_route_contexts
from sqlalchemy import make_url, select
from starlette.testclient import TestClient

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import administration, conversations, labels, people, queue, reports, webhooks
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.items import Item
from loopwright.feedback.store.migrate import migrate
from loopwright.feedback.store.people import SCOPES
from loopwright.feedback.store.tables import metadata
from loopwright.feedback.web.app import background_figures, create_app
from loopwright.feedback.web.settings import ServerConfig
from loopwright.schemas import Message, Reply
from tests.feedback import services

KEY = "0123456789-a-key-of-the-tests-0123456789"
URL = "http://labels.test"
PASSWORD = "correct horse battery"
FROM_HERE = {"Sec-Fetch-Site": "same-origin"}
ANSWER = {"choice": 0, "strength": "better"}

_hash = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)  # quick to check


class World(NamedTuple):
    """Names of what is there; cookies and tokens by who has them."""

    url: str
    project: str
    other: str
    chat: str  # a project of the same people as the first
    conversation: str  # of its annotator
    webhook: str
    item: int  # that the spare judged
    ids: dict[str, str]  # account by name
    cookies: dict[str, str]
    tokens: dict[str, str]  # "manager+read": a token of the manager's with this scope alone
    token_ids: dict[str, str]
    tickets: dict[str, str]
    invitation: str
    open_invitations: dict[str, str]  # id by role

    def headers(self, caller: str) -> dict[str, str]:
        if caller in self.tokens:
            return {"Authorization": f"Bearer {self.tokens[caller]}"}
        return {**FROM_HERE, **({"Cookie": f"session={self.cookies[caller]}"} if caller in self.cookies else {})}


def item(key: str, **more) -> Item:
    prompt = (Message(role="user", content=f"What about {key}?"),)
    return Item(key=key, prompt=prompt, responses=("One thing.", "Quite another thing."), **more)


def make_world(url: str) -> World:
    """Two comparison projects A and B, with one manager and one annotator each; an administrator; items; a label."""
    migrate(url)
    now = time.time()
    with Database(url) as database:
        write = database.write
        ids, cookies, tokens, tickets = {}, {}, {}, {}
        for name in ("admin", "manager", "annotator", "manager B", "annotator B", "spare"):
            role = "admin" if name == "admin" else "annotator"
            made = write(lambda c, n=name, r=role: people.create_account(c, n, role=r, password_hash=_hash, now=now))
            ids[name] = made.id
            cookies[name] = write(lambda c, id=made.id: people.start_session(c, id, now=now))
        config = ProjectConfig(kind="comparison", overlap=2, gold_share=0.0)
        by = ids["admin"]
        project = write(lambda c: administration.make_project(c, by, "A", config, guideline="Be fair.", now=now))
        other = write(lambda c: administration.make_project(c, by, "B", config, now=now))
        for there, suffix in ((project, ""), (other, " B")):
            for role in ("manager", "annotator"):
                write(
                    lambda c, p=there.id, a=ids[role + suffix], r=role: administration.set_member(
                        c, by, p, a, r, now=now
                    )
                )
            write(
                lambda c, p=there: administration.publish(
                    c, by, p, [item(f"q{n}") for n in range(4)], batch="first", now=now
                )
            )
        write(lambda c: administration.set_member(c, by, project.id, ids["spare"], "annotator", now=now))
        for name in ("annotator", "spare"):
            task = write(lambda c, a=ids[name]: queue.claim(c, project.id, a, now=now))[0]
            tickets[name], judged = task.ticket, task.item  # the spare's
        write(
            lambda c: labels.submit(
                c, tickets["spare"], ids["spare"], uid="label-0001", answer=ANSWER, seconds=12.0, now=now
            )
        )
        what = {"day": "2020-02-29"}
        write(lambda c: administration.exclude(c, by, project.id, what, uid="exclusion-1", now=now))
        for name in ("manager", "admin"):
            for scope in SCOPES:
                tokens[f"{name}+{scope}"] = write(
                    lambda c, a=ids[name], s=scope: people.create_token(c, a, s, [s], now=now)
                )
        listed = database.read(lambda c: people.list_tokens(c))
        names = {id: name for name, id in ids.items()}
        token_ids = {f"{names[one.account]}+{one.name}": one.id for one in listed}
        config = ProjectConfig(kind="chat", responder="parrot")
        chat = write(lambda c: administration.make_project(c, by, "Talk", config, now=now))
        for name in ("manager", "annotator"):
            write(lambda c, a=ids[name], r=name: administration.set_member(c, by, chat.id, a, r, now=now))
        conversation = write(lambda c: conversations.start(c, chat, ids["annotator"], now=now))
        webhook = write(lambda c: webhooks.add_webhook(c, project.id, "http://127.0.0.1:9/hook", now=now))
        invitation = write(
            lambda c: people.invite(c, by=ids["manager"], project=project.id, expires=now + 9e4, now=now)
        )
        write(lambda c: people.invite(c, by=by, project=None, role="admin", expires=now + 9e4, now=now))
        open_invitations = {
            role: database.read(lambda c, p=there: reports.open_invitations(c, p, now=now))[0].id
            for role, there in (("annotator", project.id), ("admin", None))
        }
    return World(
        url, project.id, other.id, chat.id, conversation, webhook, judged, ids, cookies, tokens, token_ids, tickets,
        invitation, open_invitations,
    )  # fmt: skip


@contextmanager
def opened(app, url: str) -> Iterator[None]:
    """The app on this database, whichever it was on before."""
    with Database(url) as database:
        app.state.database = database
        app.state.figures = background_figures(database)
        try:
            yield
        finally:
            app.state.figures.close()


def make_app(**settings):
    """The app without a database: see `opened`."""
    config = ServerConfig(url=URL, key=KEY, webhooks_to_this_machine=True, **settings)
    return create_app(None, config, {"parrot": Parrot()})


class Parrot:
    """A model that says what was said to it."""

    name = "parrot"

    def reply(self, messages, settings):
        yield Reply(text=messages[-1].content, finished=True, model="parrot", policy="ppo-1")


def client_of(app) -> TestClient:
    """Keeps no cookies and follows nothing: each request is what it says."""
    return TestClient(app, base_url=URL, follow_redirects=False, raise_server_exceptions=False)


@contextmanager
def fresh_copy(world: World, folder: Path) -> Iterator[str]:
    """The URL of a database that is the test's own."""
    made = make_url(world.url)
    if made.get_backend_name() == "postgresql":
        with services.fresh_database(Path(str(made.query["host"])), template=made.database) as url:
            yield url
        return
    copy = folder / "copy.db"
    shutil.copyfile(made.database, copy)
    yield f"sqlite:///{copy}"
    for file in folder.glob("copy.db*"):
        file.unlink()


def dump(url: str, *, without: tuple[str, ...] = ()) -> dict[str, list]:
    """All rows of all tables, in an order of their own, but for when sessions were last used."""
    with Database(url) as database:
        rows = {
            name: database.read(lambda c, t=table: [dict(row) for row in c.execute(select(t)).mappings()])
            for name, table in metadata.tables.items()
            if name not in without
        }
    for session in rows.get("sessions", ()):
        del session["seen"]
    return {name: sorted(of_table, key=_place) for name, of_table in rows.items()}  # PostgreSQL moves what it changes


def _place(row: dict) -> str:
    return f"{row.get('id', '')!s:0>20} {row}"


def text_of(rows: dict[str, list]) -> str:
    return json.dumps(rows, default=str)


def routes(app) -> list[tuple[str, str]]:
    """(method, path) of everything that answers, but for static files."""
    found = []
    for route in iter_route_contexts(app.routes):
        methods = getattr(route, "methods", None)
        if methods:
            found += [(method, route.path) for method in methods if method not in ("HEAD", "OPTIONS")]
    return sorted(found)
