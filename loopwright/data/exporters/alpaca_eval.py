"""Verdicts of a judge model in the style of AlpacaEval."""

from collections.abc import Iterator

from loopwright.data.exporters.base import Account, Exporter, Row, text_of
from loopwright.schemas import Comparison, Record, is_ai


def rows(record: Record, account: Account, kept: frozenset[str]) -> Iterator[Row]:
    """`preference` is 1 + the probability that output_2 is better."""
    assert isinstance(record, Comparison)
    instruction = text_of(record.prompt, account)
    if instruction is None:
        return
    if record.probability is None or not is_ai(record.annotator):
        account.leave("a comparison that is no model's verdict with a probability")
        return
    yield {
        "instruction": instruction,
        "output_1": record.responses[0],
        "output_2": record.responses[1],
        "preference": 2 - record.probability,
        "annotator": record.annotator,
    }


ALPACA_EVAL = Exporter(
    rows,
    {Comparison: frozenset({"prompt", "responses", "choice", "probability", "annotator"})},
    '{"instruction", "output_1", "output_2", "preference", "annotator"}',
)
