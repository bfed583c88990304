"""A served store with a project of each kind and people who label, for tests of the labeling screen."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr
from sqlalchemy import delete, select

from loopwright.feedback.projects import HHH, INSTRUCTGPT_CHECKS, ProjectConfig
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.items import Item, Score, publish
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.store.people import create_account, find_account, start_session
from loopwright.feedback.store.projects import Project, add_guideline, add_member, create_project, find_project
from loopwright.feedback.store.tables import events, members
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.settings import ServerConfig
from loopwright.schemas import Responder
from tests.feedback.web.serving import served

CRITERIA = tuple({"name": name, "definition": definition} for name, definition in HHH)
SPAN_LABELS = ("irrelevant", "wrong fact", "unverifiable", "repeats")
KINDS: dict[str, dict[str, Any]] = {
    "comparison": {"kind": "comparison"},
    "safety": {
        "kind": "comparison",
        "safety": True,
        "criteria": CRITERIA,
        "reason_when_significant": True,
        "reasons": ("wrong fact", "too long", "rude"),
    },
    "margins by criteria": {"kind": "comparison", "criteria": CRITERIA, "criteria_strengths": True},
    "ranking": {"kind": "ranking"},
    "ranking by criteria": {"kind": "ranking", "criteria": CRITERIA},
    "rating": {"kind": "rating", "criteria": CRITERIA},
    "likert": {"kind": "rating", "scale": (1, 7), "checks": INSTRUCTGPT_CHECKS},
    "thumb": {"kind": "thumb"},
    "blurred": {"kind": "thumb", "blur": True},
    "demonstration": {"kind": "demonstration"},
    "correction": {"kind": "correction"},
    "spans": {"kind": "spans", "span_labels": SPAN_LABELS},
}
CONVERSATIONS: dict[str, dict[str, Any]] = {  # with the model "bird" of the server
    "chat": {"kind": "chat", "responder": "bird"},
    "red team": {"kind": "red_team", "responder": "bird"},
}
RESPONSES = {"comparison": 2, "ranking": 4, "rating": 1, "thumb": 1, "demonstration": 0, "correction": 2, "spans": 1}

QUESTION = "My sourdough never rises in winter. What can I change without buying anything?"
ANSWERS = (
    "Keep the dough **warm**: an oven with only its light on stays near 25 °C.\n\n1. Feed the starter twice the day "
    "before.\n2. Use water of about 30 °C.\n3. Wait for the dough to double, however long that takes.",
    "Sourdough rises because of yeast. Yeast is alive. You should buy a proofing box, which keeps the dough at the "
    "right temperature, and use more salt so that it rises faster.",
    "Give it more time. In a cold kitchen a rise takes twice as long; overnight is normal.",
    "I do not know your kitchen, but warmth helps: try a cupboard above the fridge 🍞.",
)


def item(key: str, count: int, *, responses: tuple[str, ...] = ANSWERS, **more: Any) -> Item:
    """An item that a policy wrote and a reward model scored: labelers must not learn of either."""
    written = responses[:count]
    more.setdefault("prompt", ({"role": "user", "content": QUESTION},))
    return Item(
        key=key,
        responses=written,
        policy="policy-that-nobody-sees",
        reward_model="reward-model-that-nobody-sees",
        scores=tuple(Score(mean=0.123454321 + place) for place in range(len(written))) or None,
        tags={"tag-that-nobody-sees": 1},
        **more,
    )


@dataclass
class Ground:
    """A store, and who may do what in it."""

    database: Database
    url: str
    app: Any
    cookies: dict[str, str] = field(default_factory=dict)  # name -> the session's
    accounts: dict[str, str] = field(default_factory=dict)  # name -> id
    projects: dict[str, Project] = field(default_factory=dict)

    def person(self, name: str, **more: Any) -> str:
        """An account that is a member of every project; its cookie."""

        def job(connection: Any) -> tuple[str, str]:
            account = create_account(connection, name, now=time.time(), **more)
            for project in self.projects.values():
                add_member(connection, project.id, account.id)
            return account.id, start_session(connection, account.id, now=time.time())

        self.accounts[name], self.cookies[name] = self.database.write(job)
        return self.cookies[name]

    def join(self, name: str) -> None:
        """Who came by invitation is a member of every project."""

        def job(connection: Any) -> None:
            account = find_account(connection, name)
            for project in self.projects.values():
                add_member(connection, project.id, account.id)

        self.database.write(job)

    def project(self, name: str, *, items: list[Item] | None = None, guideline: str = "", **settings: Any) -> Project:
        config = ProjectConfig.model_validate({**KINDS.get(name, {}), **CONVERSATIONS.get(name, {}), **settings})
        if items is None and name not in CONVERSATIONS:
            items = [item(f"{name}-{number}", RESPONSES[config.kind]) for number in range(3)]

        def job(connection: Any) -> Project:
            project = create_project(connection, name, config, guideline=guideline, now=time.time())
            if items:
                publish(connection, project, items, now=time.time())
            for account in self.accounts.values():
                add_member(connection, project.id, account)
            return find_project(connection, name)

        self.projects[name] = self.database.write(job)
        return self.projects[name]

    def guideline(self, project: Project, text: str) -> None:
        self.database.write(lambda connection: add_guideline(connection, project.id, text, now=time.time()))

    def leave(self, project: Project, name: str) -> None:
        """This person is no member of the project any more."""
        mine = (members.c.project == project.id) & (members.c.account == self.accounts[name])
        self.database.write(lambda connection: connection.execute(delete(members).where(mine)))

    def events(self) -> list[Any]:
        """Everything that was said, oldest first."""
        return self.database.read(lambda connection: connection.execute(select(events).order_by(events.c.id)).all())

    def open(self, page: Any, name: str, project: str) -> Any:
        """The labeling screen of a project, for this person, with a task on it or none left."""
        page.context.add_cookies([{"name": "session", "value": self.cookies[name], "url": self.url}])
        page.goto(f"{self.url}/projects/{self.projects[project].id}/work")
        page.wait_for_selector("#task:visible, #empty:visible, dialog:visible")
        return page


@contextmanager
def labeling_ground(folder: Any, responders: Mapping[str, Responder] | None = None, **config: Any) -> Iterator[Ground]:
    """An empty store, served; with models to talk to."""
    url = f"sqlite:///{folder / 'feedback.db'}"
    migrate(url)
    app: Any = None

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)  # which needs to know its address first

    with open_store(url) as database, served(serve) as address:
        settings = ServerConfig(url=address, key=SecretStr("0123456789abcdefghijklmnopqrstuvwxyz"), **config)
        app = create_app(database, settings, responders)
        yield Ground(database, address, app)
