"""UltraFeedback: ratings of an answer on up to four aspects, each answer in a row of its own."""

from collections.abc import Iterator

from loopwright.data.exporters.base import Account, Exporter, Row, on_scale, text_of
from loopwright.data.importers.ultrafeedback import ASPECTS, SCALE
from loopwright.schemas import Rating, Record


def rows(record: Record, account: Account, kept: frozenset[str]) -> Iterator[Row]:
    """Without an overall score: nobody gave one, and rankings would be made of it."""
    assert isinstance(record, Rating)
    instruction = text_of(record.prompt, account)
    if instruction is None:
        return
    if not (record.scores and on_scale(record, SCALE, ASPECTS)):
        account.leave(f"a rating other than of {', '.join(ASPECTS)}, higher better, {SCALE[0]} to {SCALE[1]}")
        return
    completion = {
        "model": record.policy,
        "response": record.responses[0],
        "annotations": {aspect: {"Rating": str(score)} for aspect, score in record.scores.items()},
    }
    yield {"instruction": instruction, "models": [record.policy], "completions": [completion]}


ULTRAFEEDBACK = Exporter(
    rows,
    {Rating: frozenset({"prompt", "responses", "scores", "scale_low", "scale_high", "higher_is_better", "policy"})},
    '{"instruction", "completions": [{"response", "annotations"}]}',
)
