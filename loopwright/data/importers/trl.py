"""TRL's data set types: preference, unpaired preference, prompt-completion and prompt-only, as texts or messages."""

from collections.abc import Iterator, Sequence

from loopwright.data.importers.base import (
    Importer,
    Notes,
    Row,
    Settings,
    Unreadable,
    comparison_of_two,
    shared_turns,
    user,
)
from loopwright.schemas import Comparison, Demonstration, Message, Prompt, Record, Thumb


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """The type of a row is told by its columns."""
    if row.has("chosen") or row.has("rejected"):
        yield _preference(row, notes)
    elif row.has("completions"):
        raise Unreadable('"completions" with "labels" is stepwise supervision, which has no record here')
    elif not row.has("completion"):
        prompt = _conversation(row, "prompt")
        if not prompt:
            raise row.wrong("prompt", "a text or messages")
        yield Prompt(id=row.name, messages=prompt)
    else:
        prompt, response = _conversation(row, "prompt"), _answer(row, "completion")
        if row.has("label"):
            yield Thumb(id=row.name, prompt=prompt, responses=(response,), good=row.flag("label"))
        else:
            yield Demonstration(id=row.name, prompt=prompt, response=response)


def _preference(row: Row, notes: Notes) -> Comparison:
    prompt, chosen, rejected = explicit(row, notes)
    margin = row.number("margin")
    return comparison_of_two(chosen, rejected, notes, id=row.name, prompt=prompt, margin=margin)


def explicit(row: Row, notes: Notes) -> tuple[tuple[Message, ...], str, str]:
    """(prompt, chosen, rejected), wherever the prompt stands: in a column, before both answers, or in both places.

    Raises:
        Unreadable: a column has another type, or the answers are not one message each.
    """
    prompt = _conversation(row, "prompt") if row.has("prompt") else ()
    if isinstance(row.values.get("chosen"), str) or isinstance(row.values.get("rejected"), str):
        # Texts that hold the prompt do not say where it ends, so they stay whole: the prompt is empty then.
        return prompt, row.text("chosen"), row.text("rejected")
    chosen, rejected = (row.messages(key) for key in ("chosen", "rejected"))
    shared = min(shared_turns(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    if shared > 0:
        inside = chosen[:shared]
        if prompt and inside != prompt:
            raise Unreadable('"chosen" and "rejected" begin with another conversation than "prompt"')
        if prompt:
            notes.warn("the prompt is repeated inside chosen and rejected; read once")
        prompt, chosen, rejected = inside, chosen[shared:], rejected[shared:]
    return prompt, _only(chosen, "chosen"), _only(rejected, "rejected")


def _conversation(row: Row, key: str) -> tuple[Message, ...]:
    value = row.get(key)
    if value is None:
        raise row.wrong(key, "a text or messages")
    return user(value) if isinstance(value, str) else row.messages(key)


def _answer(row: Row, key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else _only(row.messages(key), key)


def _only(turns: Sequence[Message], key: str) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        roles = ", ".join(turn.role for turn in turns[:6]) or "nothing"
        raise Unreadable(f'"{key}" holds {roles} after the prompt, not one assistant message')
    return turns[0].content


TRL = Importer(convert, 'rows {"prompt", "chosen", "rejected"}, {"prompt", "completion", "label"} or {"prompt"}')
