"""Battles of a chat arena, as FastChat cleans them: two conversations and the winner."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from loopwright.data.importers.base import (
    Importer,
    Notes,
    Row,
    Settings,
    Unreadable,
    note_same,
    shared_turns,
    written_by,
)
from loopwright.schemas import Comparison

BOTH_BAD = "tie (bothbad)"
LATEST = 4e9  # seconds since 1970
_CHOICES: dict[str, Literal[0, 1] | None] = {"model_a": 0, "model_b": 1, "tie": None, BOTH_BAD: None}


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Comparison]:
    """One comparison of the last answers, where both models answered the same conversation."""
    winner = row.text("winner")
    if winner not in _CHOICES:
        raise Unreadable(f'"winner" is {winner[:40]!r}, not {", ".join(_CHOICES)}')
    first, second = (row.messages(key) for key in ("conversation_a", "conversation_b"))
    for key, turns in (("conversation_a", first), ("conversation_b", second)):
        if not turns or turns[-1].role != "assistant":
            raise Unreadable(f'"{key}" does not end with an answer of the assistant')
    shared = shared_turns(first[:-1], second[:-1])
    if shared == 0:
        raise Unreadable("the conversations do not begin with the same message; which prompt was answered?")
    if shared < max(len(first), len(second)) - 1:
        notes.skip("several turns in which the models answered differently: the vote is about no one answer")
        return
    if row.get("anony") is False:
        notes.warn("the models' names were visible (anony is false)")
    row.ignore("turn")  # how many there are: the conversations say it
    responses = (first[-1].content, second[-1].content)
    note_same(responses, notes)
    yield Comparison(
        id=row.name_of("question_id") or row.name,
        prompt=first[:-1],
        responses=responses,
        choice=_CHOICES[winner],
        both_bad=winner == BOTH_BAD,
        order_shown=(0, 1),  # model A stands left
        annotator=row.name_of("judge"),
        **written_by((row.name_of("model_a"), row.name_of("model_b")), notes),
        created=_time(row),
    )


def _time(row: Row) -> str | None:
    stamp = row.number("tstamp")
    if stamp is None:
        return None
    if not 0 <= stamp < LATEST:
        raise row.wrong("tstamp", "seconds since 1970")
    return datetime.fromtimestamp(stamp, UTC).isoformat()


ARENA = Importer(convert, 'rows {"model_a", "model_b", "winner", "conversation_a", "conversation_b"}')
