"""An annotation server on a real socket, with a project and people in it: for tests of what programs do over HTTP."""

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from loopwright.feedback.annotators import team
from loopwright.feedback.client import FeedbackClient
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.simulation import Labeler
from loopwright.feedback.store import people, projects
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.settings import ServerConfig
from tests.feedback.web.serving import served

SCOPES = ("read", "publish", "manage", "admin")


class Office:
    """A store's server, which can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.store = f"sqlite:///{folder / 'feedback.db'}"
        migrate(self.store)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        with open_store(self.store) as database:
            self.token = database.write(self._hire_admin)
        self._open = ExitStack()

    def start(self) -> "Office":
        database = self._open.enter_context(open_store(self.store))
        config = ServerConfig(url=self.url, key=SecretStr("0123456789abcdefghijklmnopqrstuvwxyz"))
        listening = socket.create_server(("127.0.0.1", self.port))
        self._open.enter_context(served(create_app(database, config), listening))
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
        config = ProjectConfig(**{"kind": "comparison", "gold_share": 0.0, **settings})
        with open_store(self.store) as database:
            project = database.write(lambda c: projects.create_project(c, name, config, now=time.time()))

            def hire(connection: Any, annotator: Any) -> Labeler:
                account = people.create_account(connection, f"{name} {annotator.id}", role="simulated", now=time.time())
                projects.add_member(connection, project.id, account.id)
                token = people.create_token(connection, account.id, "test", ["label"], now=time.time())
                return Labeler(annotator, token)

            hired = [database.write(lambda c, one=one: hire(c, one)) for one in team(labelers, seed=0)]
        return project.id, hired

    def _hire_admin(self, connection: Any) -> str:
        account = people.create_account(connection, "admin", role="admin", now=time.time())
        return people.create_token(connection, account.id, "test", list(SCOPES), now=time.time())
