"""An annotation server on a real socket, with a project and people in it: for tests of what programs do over HTTP."""

import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from loopwright.feedback.annotators import team
from loopwright.feedback.client import FeedbackClient
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.simulation import Labeler
from loopwright.feedback.store import people, projects
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.settings import ServerConfig
from loopwright.schemas import Reply
from tests.feedback.web.serving import served

SCOPES = ("read", "publish", "manage", "admin")


class Echo:
    """A model that says what it hears, twice; of what policy, tests say."""

    name = "echo"
    policy = "nobody"

    def reply(self, messages: Any, settings: Any) -> Any:
        text = f"{messages[-1].content} {messages[-1].content}"
        yield text
        yield Reply(text=text, finished=True, model=self.name, policy=self.policy)


class Office:
    """A store's server, which can be stopped and started again on the same port. Projects know its model as front."""

    def __init__(self, folder: Path) -> None:
        self.store = f"sqlite:///{folder / 'feedback.db'}"
        migrate(self.store)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        with open_store(self.store) as database:
            self.token = database.write(self._hire_admin)
        self.model = Echo()
        self._open = ExitStack()

    def start(self) -> "Office":
        database = self._open.enter_context(open_store(self.store))
        config = ServerConfig(url=self.url, key=SecretStr("0123456789abcdefghijklmnopqrstuvwxyz"))
        listening = socket.create_server(("127.0.0.1", self.port))
        self._open.enter_context(served(create_app(database, config, {"front": self.model}), listening))
        return self

    def stop(self) -> None:
        self._open.close()

    def __enter__(self) -> "Office":
        return self.start()

    def __exit__(self, *about: Any) -> None:
        self.stop()

    def client(self, token: str | None = None, **settings: Any) -> FeedbackClient:
        """As the administrator, or with another token."""
        return FeedbackClient(self.url, token=token or self.token, **settings)

    def open_project(self, name: str, labelers: int = 0, **settings: Any) -> tuple[str, list[Labeler]]:
        """The project's id, and simulated annotators who are its members."""
        given = {"kind": "comparison", "gold_share": 0.0, **settings}
        config = ProjectConfig(**{setting: value for setting, value in given.items() if value is not None})
        with open_store(self.store) as database:
            project = database.write(lambda c: projects.create_project(c, name, config, now=time.time()))

            def hire(connection: Any, annotator: Any) -> Labeler:
                account = people.create_account(connection, f"{name} {annotator.id}", role="simulated", now=time.time())
                projects.add_member(connection, project.id, account.id)
                token = people.create_token(connection, account.id, "test", ["label"], now=time.time())
                return Labeler(annotator, token)

            hired = [database.write(lambda c, one=one: hire(c, one)) for one in team(labelers, seed=0)]
        return project.id, hired

    def open_conversations(self, name: str, kind: str) -> tuple[str, Labeler]:
        """The id of a project whose people talk with the model, and one of them."""
        project, (labeler,) = self.open_project(name, labelers=1, kind=kind, responder="front", gold_share=None)
        return project, labeler

    def talk(self, project: str, labeler: Labeler, *said: str, answer: dict[str, Any] | None = None) -> list[str]:
        """One conversation, in which each answer of the model is judged so, if at all: the tickets of the answers."""
        headers = {"Authorization": f"Bearer {labeler.token}"}
        with httpx.Client(base_url=f"{self.url}/api/v1", headers=headers) as http, self.client(labeler.token) as client:
            id = http.post(f"/projects/{project}/conversations").raise_for_status().json()["conversation"]
            tickets = []
            for content in said:
                reply = http.post(f"/conversations/{id}/messages", json={"content": content}).raise_for_status()
                tickets.append(json.loads(reply.text.rstrip("\n").split("\n")[-1])["ticket"])
                if answer is not None:
                    client.label(tickets[-1], answer)
        return tickets

    def _hire_admin(self, connection: Any) -> str:
        account = people.create_account(connection, "admin", role="admin", now=time.time())
        return people.create_token(connection, account.id, "test", list(SCOPES), now=time.time())
