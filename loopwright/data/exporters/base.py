"""What an exporter is, and the account of what its format cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from loopwright.schemas import Comparison, Correction, Judgement, Message, Ranking, Rating, Record

Row = dict[str, Any]


@dataclass
class Account:
    """What is exported, and what stays behind."""

    records: int = 0
    rows: int = 0
    lost: dict[str, int] = field(default_factory=dict)  # field that the format has no place for -> records with a value
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> what the format cannot say at all
    changed: dict[str, int] = field(default_factory=dict)  # reason -> cells that are not as they were

    def leave(self, reason: str, count: int = 1) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + count

    def change(self, reason: str) -> None:
        self.changed[reason] = self.changed.get(reason, 0) + 1

    def count(self, record: Record, keeps: frozenset[str]) -> None:
        """Note the fields of a record that hold something and are not kept."""
        self.records += 1
        for name, about in type(record).model_fields.items():
            if name not in keeps and (about.is_required() or getattr(record, name) != about.default):
                self.lost[name] = self.lost.get(name, 0) + 1


@dataclass(frozen=True)
class Exporter:
    """One format.

    Args:
        rows: the rows that a record becomes; none, with a reason in the account, where the format cannot say it.
        keeps: kind -> the fields that the format has a place for. Other kinds are refused.
        where_all: fields kept only when all records have them, because a column with holes breaks the reader.
        container: how the rows are stored.
    """

    rows: Callable[[Record, Account, frozenset[str]], Iterator[Row]]
    keeps: dict[type[Record], frozenset[str]]
    writes: str
    where_all: frozenset[str] = frozenset()
    container: Literal["jsonl", "json", "csv", "parquet"] = "jsonl"


PAIRS: dict[type[Record], frozenset[str]] = {
    Comparison: frozenset({"prompt", "responses", "choice"}),
    Ranking: frozenset({"prompt", "responses", "ranks"}),
    Correction: frozenset({"prompt", "responses", "chosen", "edited"}),
}


def pairs(record: Record, account: Account) -> Iterator[tuple[str, str]]:
    """(better, worse) texts of what a record orders strictly; the format cannot say that two are equal."""
    if isinstance(record, Comparison):
        if record.choice is None:
            account.leave("a tie")
            return
        yield record.responses[record.choice], record.responses[1 - record.choice]
    elif isinstance(record, Ranking):
        for i, first in enumerate(record.responses):
            for j, second in enumerate(record.responses[:i]):
                if record.ranks[i] == record.ranks[j]:
                    account.leave("a tie")
                else:
                    yield (first, second) if record.ranks[i] < record.ranks[j] else (second, first)
    elif isinstance(record, Correction):
        edited_from = record.responses[record.chosen]
        yield record.edited, edited_from
        for i, other in enumerate(record.responses):
            if i != record.chosen:
                yield edited_from, other


def text_of(prompt: tuple[Message, ...], account: Account) -> str | None:
    """The one text of a prompt, for formats without conversations; None, and counted, where it is no such prompt."""
    if not prompt:
        return ""
    if len(prompt) == 1 and prompt[0].role == "user" and prompt[0].content:
        return prompt[0].content
    account.leave("a prompt that is not one text of a user")
    return None


def as_shown(record: Comparison, account: Account) -> tuple[int, int]:
    """Which response stood left, and which right."""
    if record.order_shown is None:
        account.change("nobody knows which answer was shown first; it is read back as the one that is stored first")
        return 0, 1
    return record.order_shown[0], record.order_shown[1]


def writers(record: Judgement, account: Account) -> tuple[str | None, ...]:
    """Who wrote each response."""
    if record.policies and record.policy:
        account.change("which of several policies is the newest is not told")
    return record.policies or (record.policy,) * len(record.responses)


def on_scale(record: Rating, scale: tuple[int, int], criteria: Collection[str] | None = None) -> bool:
    """Whether a format of this scale, on which more is better, and of these criteria has a place for a rating."""
    known = criteria is None or record.scores.keys() <= set(criteria)
    high = all(record.is_high_good(name) for name in record.scores) if record.scores else record.higher_is_better
    return known and high and (record.scale_low, record.scale_high) == scale


def turns(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
