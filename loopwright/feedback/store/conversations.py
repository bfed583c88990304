"""Conversations with a model. Each of its answers becomes an item in the hands of who got it, to be judged like others.

What was said before an answer is the item's prompt, so a judgement of the tenth answer is a record like that of the
first.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select

from loopwright.errors import StoreError
from loopwright.feedback.store.items import queue_ends
from loopwright.feedback.store.labels import current_labels
from loopwright.feedback.store.projects import Project, get_project, member_role, new_id, newest_guideline
from loopwright.feedback.store.tables import accounts, assignments, conversations, items, turns
from loopwright.schemas import Message, Reply

MOST_TURNS = 200
DAYS_TO_JUDGE = 30.0
LONGEST_NAME = 100  # of a policy; a server of other people's models may give any


class Turn(NamedTuple):
    """One message; an answer that can be judged has a ticket, one that was judged has what was said."""

    number: int
    role: str
    content: str
    ticket: str | None
    label: str | None
    answer: dict[str, object] | None


class Conversation(NamedTuple):
    id: str
    project: Project
    account: str
    turns: list[Turn]

    @property
    def messages(self) -> list[Message]:
        return [Message.model_validate({"role": turn.role, "content": turn.content}) for turn in self.turns]


def start(connection: Connection, project: Project, account: str, *, now: float) -> str:
    """A new conversation's id. Raises StoreError where the project has none, or is not open."""
    if project.config.responder is None:
        raise StoreError(f"project {project.name} asks for a {project.config.kind}; there is nobody to talk to")
    _open(project)
    id = new_id()
    row = {"project": project.id, "account": account, "responder": project.config.responder, "created": now}
    connection.execute(insert(conversations).values(id=id, **row))
    return id


def get(connection: Connection, id: str, account: str) -> Conversation:
    """Raises StoreError where the account has no such conversation, or may not work in its project any more."""
    mine = (conversations.c.id == id) & (conversations.c.account == account)
    row = connection.execute(select(conversations).where(mine)).first()
    if row is None or not _may_talk(connection, row.project, account):
        raise StoreError("there is no such conversation of yours")
    query = (
        select(turns, assignments.c.ticket, current_labels.c.uid, current_labels.c.answer)
        .outerjoin(assignments, (assignments.c.item == turns.c.item) & (assignments.c.account == account))
        .outerjoin(current_labels, (current_labels.c.item == turns.c.item) & (current_labels.c.account == account))
        .where(turns.c.conversation == id)
        .order_by(turns.c.number)
    )
    found = [Turn(t.number, t.role, t.content, t.ticket, t.uid, t.answer) for t in connection.execute(query)]
    return Conversation(id, get_project(connection, row.project), account, found)


def recent(connection: Connection, project: str, account: str, *, last: int = 20) -> list[tuple[str, str]]:
    """(id, first message) of a labeler's newest conversations that have one, newest first."""
    query = (
        select(conversations.c.id, turns.c.content)
        .join(turns, (turns.c.conversation == conversations.c.id) & (turns.c.number == 0))
        .where(conversations.c.project == project, conversations.c.account == account)
        .order_by(conversations.c.created.desc())
        .limit(last)
    )
    return [(id, content) for id, content in connection.execute(query)]


def ask(connection: Connection, conversation: Conversation, content: str, *, now: float) -> None:
    """Add what the labeler says. Said again before the answer came, it is the same question, or takes its place.

    Raises:
        StoreError: the conversation is as long as it may be, or its project is not open.
    """
    _open(conversation.project)
    last = conversation.turns[-1] if conversation.turns else None
    if last is not None and last.role == "user":
        mine = (turns.c.conversation == conversation.id) & (turns.c.number == last.number)
        connection.execute(turns.update().where(mine).values(content=content, at=now))
        return
    if len(conversation.turns) >= MOST_TURNS:
        raise StoreError(f"a conversation has at most {MOST_TURNS} messages; begin another")
    _add(connection, conversation.id, "user", content, now=now)


def answer(
    connection: Connection, conversation: Conversation, asked: Sequence[Message], reply: Reply, *, now: float
) -> str:
    """Add what the model said to the messages, as an item in the labeler's hands: its ticket.

    Raises:
        StoreError: the question has changed since, in another window.
    """
    current = get(connection, conversation.id, conversation.account)
    if current.messages != list(asked):
        raise StoreError("this conversation went on in another window; reload the page")
    project, number = current.project, len(current.turns)
    _, last = queue_ends(connection, project)
    policy = (reply.policy or reply.model)[:LONGEST_NAME]
    done = connection.execute(
        insert(items).values(
            project=project.id,
            key=f"{conversation.id}/{number}",
            prompt=[message.model_dump() for message in asked],
            responses=[reply.text],
            tags={"truncated": True} if not reply.finished else {},
            policy=policy,
            batch=policy,  # so runs ask how far the answers of a policy are
            arm="random",
            overlap=1,
            leases=1,
            state="own",
            place=last + 1,
            created=now,
        )
    )
    assert done.inserted_primary_key is not None
    item, ticket, guideline = done.inserted_primary_key[0], new_id(), newest_guideline(connection, project.id)
    connection.execute(
        insert(assignments).values(
            item=item,
            account=conversation.account,
            project=project.id,
            ticket=ticket,
            state="leased",
            order_shown=[0],
            guideline=None if guideline is None else guideline.version,
            opened=now,
            until=now + DAYS_TO_JUDGE * 86_400.0,
        )
    )
    _add(connection, conversation.id, "assistant", reply.text, policy=policy, item=item, now=now)
    return ticket


def _open(project: Project) -> None:
    if project.state != "open":
        raise StoreError(f"project {project.name} is {project.state}; nothing more is asked")


def _may_talk(connection: Connection, project: str, account: str) -> bool:
    """Members may, and administrators everywhere."""
    admin = select(accounts.c.id).where(accounts.c.id == account, accounts.c.role == "admin")
    return member_role(connection, project, account) is not None or connection.execute(admin).first() is not None


def _add(connection: Connection, conversation: str, role: str, content: str, *, now: float, **more: object) -> None:
    last = connection.execute(select(func.max(turns.c.number)).where(turns.c.conversation == conversation)).scalar()
    number = 0 if last is None else last + 1
    row = {"conversation": conversation, "number": number, "role": role, "content": content, "at": now}
    connection.execute(insert(turns).values(**row, **more))
