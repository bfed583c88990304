"""Open-Assistant's message trees (Köpf et al. 2023, arXiv:2304.07327)."""

from collections.abc import Iterator

from loopwright.data.importers.base import Fields, Importer, Notes, Row, Settings, Unreadable
from loopwright.schemas import Demonstration, Message, Prompt, Ranking, Record

READY = "ready_for_export"
MAX_TURNS = 100  # each reply repeats its whole conversation
_ROLES = {"prompter": "user", "assistant": "assistant"}


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """Of a tree: its prompt, a ranking of the replies to each question, and the best human reply as a demonstration.

    Ranks are the team's, merged by Open-Assistant; 0 is the best. Deleted and rejected messages are left out with
    all that follows them.
    """
    if not row.has("message_tree_id") or not row.has("prompt"):
        _other_kind(row, notes)
        return
    row.ignore("message_tree_id")  # that of its prompt
    state = row.text_or_none("tree_state")
    if state not in (READY, None):
        notes.skip(f"tree_state {state}")
        return
    root = row.inside("prompt")
    if not _usable(root, notes):
        return
    if _message(root).role != "user":
        raise Unreadable(f'"{root.path}role" is assistant; a tree starts with a prompter')
    yield Prompt(id=_id(root, row), messages=(_message(root),), tags=_tags(root))
    open_messages: list[tuple[Fields, tuple[Message, ...]]] = [
        (root, (_message(root),))
    ]  # a stack, so that no tree is too deep
    while open_messages:
        parent, path = open_messages.pop()
        if len(path) > MAX_TURNS:
            notes.skip(f"what follows after {MAX_TURNS} turns")
            parent.ignore("replies")
            continue
        replies = [reply for reply in parent.objects("replies") if _usable(reply, notes)]
        turns = [_message(reply) for reply in replies]
        if path[-1].role == "user":
            answers = [pair for pair in zip(replies, turns, strict=True) if pair[1].role == "assistant"]
            yield from _judged(_id(parent, row), path, answers, notes)
        open_messages += [(reply, (*path, turn)) for reply, turn in zip(replies, turns, strict=True)]


def _judged(
    name: str, path: tuple[Message, ...], answers: list[tuple[Fields, Message]], notes: Notes
) -> Iterator[Record]:
    ranked = [(reply, turn, reply.whole("rank", 0, 10_000)) for reply, turn in answers if reply.has("rank")]
    if len(answers) > 1 and len(ranked) < len(answers):
        notes.warn("a reply without a rank is left out of the ranking")
    if len(ranked) > 1:
        yield Ranking(
            id=f"{name}/ranking",
            prompt=path,
            responses=tuple(turn.content for _, turn, _ in ranked),
            ranks=tuple(1 + rank for _, _, rank in ranked),
        )
    if not answers:
        return
    human = [(reply, turn) for reply, turn in answers if not reply.flag("synthetic")]
    known = human if len(human) == 1 else [(reply, turn) for reply, turn in human if reply.has("rank")]
    if not known:
        notes.skip("replies without ranks: which would be a demonstration is unknown" if human else "no human reply")
        return
    best, turn = min(known, key=lambda pair: _rank(pair[0]))
    if not turn.content:
        notes.skip("an empty reply is no demonstration")
    else:
        yield Demonstration(
            id=f"{name}/demonstration",
            prompt=path,
            response=turn.content,
            annotator=best.name_of("user_id"),
            created=best.name_of("created_date"),
        )


def _other_kind(row: Row, notes: Notes) -> None:
    """Exports of single messages and of threads do not say which replies stand beside which."""
    if row.has("thread_id"):
        notes.skip("a thread; import the file of trees")
    elif row.has("message_id"):
        notes.skip("a single message; import the file of trees")
    else:
        raise row.wrong("message_tree_id", "a tree")


def _usable(message: Fields, notes: Notes) -> bool:
    message.ignore("parent_id")  # the tree says it
    if message.flag("deleted"):
        notes.skip("a deleted message, with its replies")
    elif message.get("review_result") is False:
        notes.skip("a message that reviewers rejected, with its replies")
    else:
        return True
    message.ignore()
    return False


def _message(message: Fields) -> Message:
    role = message.text("role")
    if role not in _ROLES:
        raise Unreadable(f'"{message.path}role" is {role[:40]!r}, not prompter or assistant')
    return Message.model_validate({"role": _ROLES[role], "content": message.text("text")})


def _rank(message: Fields) -> int:
    return message.whole("rank", 0, 10_000) if message.has("rank") else 10_001


def _id(message: Fields, row: Row) -> str:
    return message.name_of("message_id") or row.name


def _tags(message: Fields) -> dict[str, str]:
    return {"language": message.text("lang")} if message.has("lang") else {}


OPEN_ASSISTANT = Importer(convert, 'JSON lines of trees {"message_tree_id", "prompt": {"replies": […]}}')
