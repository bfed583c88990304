"""Comparisons by a judge model in the style of AlpacaEval: {"instruction", "output_2", "preference"}."""

from collections.abc import Iterable, Iterator

from loopwright.data.importers.base import (
    Importer,
    Notes,
    Row,
    Settings,
    Unreadable,
    choice_of,
    note_same,
    user,
)
from loopwright.errors import DataError
from loopwright.schemas import AI, Comparison, is_ai

MAX_REFERENCES = 100_000  # they are kept in memory
MAX_REFERENCE_CHARACTERS = 2**28


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Comparison]:
    """A comparison with a soft label; `preference` is 1 + the probability that output_2 is better."""
    instruction = row.text("instruction")
    preference = row.number("preference")
    if preference is None:
        notes.skip("no verdict of the judge")
        return
    if not 1 <= preference <= 2:
        raise row.wrong("preference", "a number from 1 to 2")
    probability = round(2 - preference, 12)  # 2 - 1.9 is 0.10000000000000009
    responses = (_reference(row, instruction, settings), row.text("output_2"))
    note_same(responses, notes)
    yield Comparison(
        id=row.name,
        prompt=user(instruction),
        responses=responses,
        choice=choice_of(probability),
        probability=probability,
        annotator=judge_of(row),
    )


def judge_of(row: Row) -> str:
    """The annotator, marked as the model that it is: no figure counts such a label as a person's."""
    name = row.name_of("annotator") or "judge"
    return name if is_ai(name) else f"{AI}{name}"


def _reference(row: Row, instruction: str, settings: Settings) -> str:
    if row.has("output_1"):
        return row.text("output_1")
    if instruction not in settings.references:
        if settings.references:
            raise Unreadable('no "output_1", and the reference file has no answer to this instruction')
        raise Unreadable('no "output_1"; name the file of the answers that were compared with: --reference FILE')
    return settings.references[instruction]


def references(rows: Iterable[Row]) -> dict[str, str]:
    """instruction -> reference answer.

    Raises:
        DataError: a row is none, two answers stand to one instruction, or there are too many.
    """
    found: dict[str, str] = {}
    characters = 0
    for row in rows:
        try:
            instruction, output = row.text("instruction"), row.text("output")
        except Unreadable as error:
            raise DataError(f"{row.where}: {error}; a reference file has an instruction and an output a row") from error
        if found.setdefault(instruction, output) != output:
            raise DataError(f"{row.where}: a second reference answer to one instruction; keep one")
        characters += len(instruction) + len(output)
        if len(found) > MAX_REFERENCES or characters > MAX_REFERENCE_CHARACTERS:
            raise DataError(
                f"{row.where}: more than {MAX_REFERENCES:,} reference answers or "
                f"{MAX_REFERENCE_CHARACTERS:,} characters; "
                "is this the right file?"
            )
    return found


ALPACA_EVAL = Importer(
    convert, 'rows {"instruction", "output_1" or --reference, "output_2", "preference"}', takes_references=True
)
