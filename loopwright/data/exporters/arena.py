"""Battles of a chat arena, as FastChat cleans them."""

from collections.abc import Iterator
from datetime import UTC, datetime

from loopwright.data.exporters.base import Account, Exporter, Row, answer, as_shown, turns, writers
from loopwright.data.importers.arena import BOTH_BAD, LATEST
from loopwright.schemas import Comparison, Record


def rows(record: Record, account: Account, kept: frozenset[str]) -> Iterator[Row]:
    """A battle, of which model A's answer stood left."""
    assert isinstance(record, Comparison)
    if not record.prompt:
        account.leave("a record without a prompt")
        return
    left, right = as_shown(record, account)
    who, prompt = writers(record, account), turns(record.prompt)
    winner = "model_a" if record.choice == left else "model_b"
    if record.choice is None:
        winner = BOTH_BAD if record.both_bad else "tie"
    yield {
        "question_id": record.id,
        "model_a": who[left],
        "model_b": who[right],
        "winner": winner,
        "judge": record.annotator,
        "conversation_a": prompt + answer(record.responses[left]),
        "conversation_b": prompt + answer(record.responses[right]),
        "turn": sum(message.role == "user" for message in record.prompt),
        "tstamp": _seconds(record.created, account),
    }


def _seconds(created: str | None, account: Account) -> float | None:
    """Since 1970; a time without a zone is read as UTC."""
    if created is None:
        return None
    try:
        when = datetime.fromisoformat(created)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = None
    if seconds is None or not 0 <= seconds < LATEST:
        account.change("a time that is none, or not of these days, is left out")
        return None
    return seconds


ARENA = Exporter(
    rows,
    {
        Comparison: frozenset(
            {"id", "prompt", "responses", "choice", "both_bad", "order_shown", "annotator", "policy", "policies"}
            | {"created"}
        )
    },
    '{"model_a", "model_b", "winner", "conversation_a", "conversation_b"}',
)
