"""The annotation server from Python: publish what is asked, follow the answers, and label as a person does.

    from loopwright.feedback.client import FeedbackClient
    from loopwright.feedback.items import Item
    from loopwright.schemas import Message

    with FeedbackClient("http://127.0.0.1:8600") as client:  # its token: LOOPWRIGHT_FEEDBACK_TOKEN
        project = client.project("front desk")
        question = (Message(role="user", content="When does the pool close?"),)
        item = Item(key="pool-1", prompt=question, responses=("At ten.", "I do not know."))
        client.publish(project.id, [item], batch="first")
        print(client.batch(project.id, "first").labels, "labels")
        for line in client.labels(project.id, batch="first"):
            print(line.kind, line.record)

What may pass is tried again: a connection that fails, the statuses 429, 502, 503 and 504. That is safe, for every write
does the same when it comes twice: items have keys, labels have uids, artifacts have ids.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from loopwright.errors import StoreError
from loopwright.feedback.connection import TOKEN_VARIABLE, Connection, Passing, checked_url, read_token, shown
from loopwright.feedback.items import Item
from loopwright.feedback.projects import ProjectConfig
from loopwright.schemas import KINDS, Message, Record

__all__ = ["TOKEN_VARIABLE", "FeedbackClient", "checked_url", "new_uid", "read_token"]

ITEMS_AT_ONCE, BYTES_AT_ONCE = 500, 2 * 2**20  # in a request; the server takes 4 MiB
UIDS_AT_ONCE = 20_000

T = TypeVar("T", bound=BaseModel)


class Reply(BaseModel):
    """What the server says; a newer one may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Project(Reply):
    id: str
    name: str
    state: str
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.config.get("kind"))


class Published(Reply):
    new: int
    known: int  # were there before, under the same key


class Batch(Reply):
    """How far the items published under one name are; gold and withdrawn ones left out.

    In a project where people talk with a model, the name is the id of the policy that answered.
    """

    items: int
    labels: int  # that count
    wanted: int  # of all items together
    answering: str | None = None  # where people talk with a model: which policy did last


class Line(NamedTuple):
    """A record of the stream of labels."""

    event: int  # grows from label to label
    label: str  # its uid: several records may be one label's
    kind: str  # the file it belongs in: comparisons, rankings, …
    record: Record


class Exclusion(Reply):
    """Labels that count no more."""

    id: str
    what: dict[str, Any]  # annotator (account id), day (UTC) or guideline (version)


class Member(Reply):
    account: str
    name: str
    role: str


class Made(Reply):
    """An artifact that rests on a project's labels."""

    id: str
    kind: str
    parents: dict[str, str]
    labels: int  # of the project, that it was made from itself
    stale_labels: int | None  # its own that count no more; None: it is not stale
    stale_because_of: str | None  # the artifact it descends from that is stale


class Task(Reply):
    """An item as a labeler sees it, answers in the order shown."""

    ticket: str
    kind: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]


class Tasks(Reply):
    tasks: tuple[Task, ...]
    new_guideline: int | None = None  # a version to acknowledge first


class FeedbackClient:
    """A server of `loopwright feedback serve`. Close it, or use it in a `with`; one thread at a time."""

    def __init__(self, url: str, *, token: str | None = None, timeout_seconds: float = 30.0, attempts: int = 6) -> None:
        """Nothing is asked of the server before the first call.

        Args:
            url: http(s)://host[:port].
            token: None: from the environment variable LOOPWRIGHT_FEEDBACK_TOKEN.
            timeout_seconds: without a sign of the server, until a request counts as failed.
            attempts: requests until one succeeds; 6 take about six seconds of waiting.

        Raises:
            ConfigError: the address is none, or there is no token.
        """
        self._connection = Connection(
            url, read_token() if token is None else token, timeout_seconds=timeout_seconds, attempts=attempts
        )

    @property
    def url(self) -> str:
        return self._connection.url

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- projects ------------------------------------------------------------------------------------------------------

    def projects(self) -> list[Project]:
        """Those that the token's account manages."""
        return self._list(Project, "projects", "projects")

    def project(self, name: str) -> Project:
        """By its name.

        Raises:
            StoreError: there is none, or it is not the account's to manage.
        """
        there = self.projects()
        found = next((one for one in there if one.name == name), None)
        if found is None:
            names = ", ".join(one.name for one in there) or "none"
            raise StoreError(
                f"{self.url}: there is no project {name} that this token may manage; there are: {shown(names)}"
            )
        return found

    def create_project(self, name: str, config: ProjectConfig, *, guideline: str = "") -> Project:
        """Raises StoreError where the name is taken, or the token is no administrator's."""
        body = {"name": name, "config": config.model_dump(mode="json", exclude_unset=True), "guideline": guideline}
        return self._read(Project, self._connection.send("POST", "projects", body))

    def members(self, project: str) -> list[Member]:
        """Who works in a project."""
        return self._list(Member, f"{_at(project)}/members", "members")

    # -- what is asked, and what was said ------------------------------------------------------------------------------

    def publish(
        self, project: str, items: Sequence[Item], *, batch: str | None = None, overlap: int | None = None
    ) -> Published:
        """Put items into a project's queue, in portions. An item whose key is there already is not asked again.

        Args:
            project: its id.
            batch: a name by which to ask how far these are.
            overlap: people who judge an item; None: as the project says.

        Raises:
            StoreError: an item does not fit the project; the portions before it are published.
        """
        new = known = 0
        for portion in _portions(items):
            body = {"items": portion, "batch": batch, "overlap": overlap}
            done = self._read(Published, self._connection.send("POST", f"{_at(project)}/items", body))
            new, known = new + done.new, known + done.known
        return Published(new=new, known=known)

    def batch(self, project: str, batch: str) -> Batch:
        """How far the items published under this name are.

        Raises:
            StoreError: there are none, and the project is none where people talk with a model.
        """
        return self._read(Batch, self._connection.get(f"{_at(project)}/batches/{quote(batch, safe='')}"))

    def labels(self, project: str, *, batch: str | None = None) -> Iterator[Line]:
        """Every label that counts: current, not excluded, not of a gold item; in the order they were given.

        A stream that breaks off goes on behind the last whole label.
        """
        after, attempt = 0, 0
        query = {} if batch is None else {"batch": batch}
        while True:
            of_label: list[Line] = []  # all records of one label, whole once the next begins
            try:
                for row in self._connection.lines(f"{_at(project)}/labels", after=after, **query):
                    line = self._line(row)
                    if of_label and line.event != of_label[0].event:
                        yield from of_label
                        after, attempt, of_label = of_label[0].event, 0, []
                    of_label.append(line)
                yield from of_label
            except Passing as reason:
                attempt += 1
                self._connection.wait(attempt, reason)
            else:
                return

    def exclusions(self, project: str) -> list[Exclusion]:
        """Those in force, oldest first."""
        return self._list(Exclusion, f"{_at(project)}/exclusions", "exclusions")

    def exclude(self, project: str, what: Mapping[str, Any], *, uid: str | None = None) -> None:
        """Leave labels out from now on: {"annotator": account id}, {"day": "2026-01-31"} or {"guideline": 2}."""
        body = {"uid": uid or new_uid(), "exclude": dict(what)}
        self._connection.send("POST", f"{_at(project)}/exclusions", body)

    # -- where it went -------------------------------------------------------------------------------------------------

    def register(  # noqa: PLR0913 -- one argument a field
        self,
        project: str,
        artifact: str,
        kind: str,
        parents: Mapping[str, str],
        *,
        labels: Sequence[str] = (),
        where: str | None = None,
    ) -> None:
        """Note what was made from labels (uids), or from what was made of them. These labels can change no more.

        Args:
            parents: role -> artifact id.
        """
        for start in range(0, max(len(labels), 1), UIDS_AT_ONCE):
            body: dict[str, Any] = {"id": artifact, "kind": kind, "parents": dict(parents), "where": where}
            body["labels"] = list(labels[start : start + UIDS_AT_ONCE])
            self._connection.send("POST", f"{_at(project)}/artifacts", body)

    def artifacts(self, project: str) -> list[Made]:
        """What rests on a project's labels, and what of it is stale."""
        return self._list(Made, f"{_at(project)}/artifacts", "artifacts")

    def made_from(self, project: str, label: str) -> list[str]:
        """The artifacts made from a label, and what descends from them."""
        reply = self._connection.get(f"{_at(project)}/labels/{quote(label, safe='')}/artifacts")
        return [str(one) for one in reply.get("artifacts", [])]

    # -- a labeler's work ----------------------------------------------------------------------------------------------

    def tasks(self, project: str, *, wanted: int = 1) -> Tasks:
        """The account's open tasks; new ones are given out until there are so many (at most two)."""
        return self._read(Tasks, self._connection.send("POST", f"{_at(project)}/tasks", {"tasks": wanted}))

    def label(
        self, ticket: str, answer: Mapping[str, Any], *, seconds: float | None = None, uid: str | None = None
    ) -> str:
        """Answer a task, or change the answer. The label's uid."""
        uid = uid or new_uid()
        body = {"uid": uid, "answer": dict(answer), "seconds": seconds}
        self._connection.send("POST", f"tasks/{quote(ticket, safe='')}/label", body)
        return uid

    def skip(self, ticket: str, reason: str, *, note: str | None = None, uid: str | None = None) -> None:
        """Give a task back: unclear_prompt, needs_expert, broken_text, upsetting or cannot_judge."""
        body = {"uid": uid or new_uid(), "reason": reason, "note": note}
        self._connection.send("POST", f"tasks/{quote(ticket, safe='')}/skip", body)

    def flag(self, ticket: str, note: str, *, uid: str | None = None) -> None:
        """Say that something is the matter with an item."""
        self._connection.send("POST", f"tasks/{quote(ticket, safe='')}/flag", {"uid": uid or new_uid(), "note": note})

    def undo(self, label: str, *, uid: str | None = None) -> str:
        """Take a label of one's own back. The ticket of its task, which is open again."""
        reply = self._connection.send("POST", f"labels/{quote(label, safe='')}/undo", {"uid": uid or new_uid()})
        return str(reply.get("ticket"))

    def undo_skip(self, ticket: str, *, uid: str | None = None) -> None:
        """Have a task that was skipped open again."""
        self._connection.send("POST", f"tasks/{quote(ticket, safe='')}/skip/undo", {"uid": uid or new_uid()})

    def saw_guideline(self, project: str, version: int) -> None:
        """Acknowledge a version of the guideline."""
        self._connection.send("POST", f"{_at(project)}/guideline/seen", {"version": version})

    # -- replies -------------------------------------------------------------------------------------------------------

    def _read(self, kind: type[T], reply: Mapping[str, Any]) -> T:
        try:
            return kind.model_validate(reply)
        except ValidationError as error:
            raise self._strange(error) from None

    def _list(self, kind: type[T], path: str, name: str) -> list[T]:
        found = self._connection.get(path).get(name)
        return [self._read(kind, one) for one in found] if isinstance(found, list) else []

    def _line(self, line: bytes) -> Line:
        try:
            given = json.loads(line)
            kind = str(given["kind"])
            return Line(int(given["event"]), str(given["label"]), kind, KINDS[kind].model_validate(given["record"]))
        except (ValueError, KeyError, TypeError) as error:
            raise self._strange(error) from None

    def _strange(self, error: Exception) -> StoreError:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        return self._connection.strange(f"its reply cannot be read ({shown(why)})")


def new_uid() -> str:
    """A name that no other label has."""
    return secrets.token_urlsafe(18)


def _at(project: str) -> str:
    return f"projects/{quote(project, safe='')}"


def _portions(items: Sequence[Item]) -> Iterator[list[dict[str, Any]]]:
    portion: list[dict[str, Any]] = []
    size = 0
    for item in items:
        given = item.model_dump(mode="json", exclude_defaults=True)
        length = len(json.dumps(given))
        if portion and (len(portion) == ITEMS_AT_ONCE or size + length > BYTES_AT_ONCE):
            yield portion
            portion, size = [], 0
        portion.append(given)
        size += length
    if portion:
        yield portion
