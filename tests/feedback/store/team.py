"""People at work in a store: the shortest way to say in a test who does what, and when."""

import itertools
from typing import Any

from sqlalchemy import insert, select

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import conversations, items, labels, projects, queue
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.tables import accounts, events
from loopwright.feedback.store.tables import items as item_rows
from loopwright.schemas import Reply

LEFT = {"choice": 0, "strength": "better"}
RIGHT = {"choice": 1, "strength": "better"}


class Team:
    """A project and its members. Time stands still unless `now` is moved."""

    def __init__(self, store: Database, **settings: Any) -> None:
        self.store = store
        self.now = 1_000_000.0
        self.uids = (f"uid-{number:06}" for number in itertools.count())
        given = {"kind": "comparison", "gold_share": 0.0, "seed": 0, **settings}
        config = ProjectConfig(**{name: value for name, value in given.items() if value is not None})
        self.project = self.write(projects.create_project, f"team {projects.new_id()}", config, now=self.now)
        self.id = self.project.id

    def write(self, work: Any, *arguments: Any, **more: Any) -> Any:
        return self.store.write(lambda connection: work(connection, *arguments, **more))

    def read(self, work: Any, *arguments: Any, **more: Any) -> Any:
        return self.store.read(lambda connection: work(connection, *arguments, **more))

    def join(self, *names: str, skills: tuple[str, ...] = ()) -> None:
        for name in names:
            row = {"id": name, "name": name, "role": "annotator", "skills": list(skills), "created": self.now}
            self.write(lambda connection, row=row: connection.execute(insert(accounts).values(**row)))
            self.write(projects.add_member, self.id, name)

    def publish(self, *keys: Any, responses: tuple[str, ...] = ("one", "another"), **more: Any) -> items.Published:
        batch = more.pop("batch", None)
        overlap = more.pop("overlap", None)
        prompt = [{"role": "user", "content": "Why?"}]
        new = [items.Item(key=str(key), prompt=prompt, responses=responses, **more) for key in keys]
        project = self.read(projects.get_project, self.id)
        return self.write(items.publish, project, new, now=self.now, batch=batch, overlap=overlap)

    def claim(self, who: str, tasks: int = 1) -> list[queue.Task]:
        return self.write(queue.claim, self.id, who, now=self.now, tasks=tasks)

    def task(self, who: str) -> queue.Task:
        (found,) = self.claim(who)
        return found

    def submit(self, who: str, task: queue.Task, answer: Any = LEFT, *, uid: str | None = None, seconds: Any = 3):
        uid = uid or next(self.uids)
        return self.write(
            labels.submit, task.ticket, who, uid=uid, answer=answer, seconds=seconds, now=self.now
        )  # fmt: skip

    def label(self, who: str, answer: Any = LEFT) -> labels.Label:
        return self.submit(who, self.task(who), answer)

    def undo(self, who: str, label: str) -> str:
        return self.write(labels.undo, label, who, uid=next(self.uids), now=self.now)

    def skip(self, who: str, task: queue.Task, reason: str = "broken_text") -> None:
        self.write(labels.skip, task.ticket, who, uid=next(self.uids), reason=reason, note=None, now=self.now)

    def undo_skip(self, who: str, task: queue.Task) -> None:
        self.write(labels.undo_skip, task.ticket, who, uid=next(self.uids), now=self.now)

    def talk(self, who: str, question: str, reply: Reply) -> str:
        """A conversation with one answer: its ticket."""

        def job(connection: Any) -> str:
            id = conversations.start(connection, self.project, who, now=self.now)
            conversations.ask(connection, conversations.get(connection, id, who), question, now=self.now)
            asked = conversations.get(connection, id, who)
            return conversations.answer(connection, asked, asked.messages, reply, now=self.now)

        return self.store.write(job)

    def records(self, **more: Any) -> list[Any]:
        return [record for *_, record in self.read(lambda c: list(labels.records(c, self.project, **more)))]

    def item(self, key: str) -> Any:
        query = select(item_rows).where(item_rows.c.project == self.id, item_rows.c.key == key)
        return self.read(lambda connection: connection.execute(query).one())

    def event_types(self) -> list[str]:
        query = select(events.c.type).where(events.c.project == self.id).order_by(events.c.id)
        return self.read(lambda connection: list(connection.execute(query).scalars()))

    def keys_done_by(self, who: str) -> list[str]:
        """What this person is given and answers, until there is nothing left."""
        done = []
        while held := self.claim(who):
            query = select(item_rows.c.key).where(item_rows.c.id == held[0].item)
            done.append(self.read(lambda connection, query=query: connection.execute(query).scalar_one()))
            self.submit(who, held[0])
        return done
