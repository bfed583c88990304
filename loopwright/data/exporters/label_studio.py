"""Label Studio's Pairwise project: one JSON array of tasks, each with one annotation."""

from collections.abc import Iterator
from typing import Any

from loopwright.data.exporters.base import Account, Exporter, Row, as_shown, text_of
from loopwright.schemas import Comparison, Record


def rows(record: Record, account: Account, kept: frozenset[str]) -> Iterator[Row]:
    """A task with the names of Label Studio's own labeling config; what was shown first stands left."""
    assert isinstance(record, Comparison)
    prompt = text_of(record.prompt, account)
    if prompt is None:
        return
    if record.choice is None:
        account.leave("a tie")
        return
    left, right = as_shown(record, account)
    selected = {"selected": "left" if record.choice == left else "right"}
    annotation: dict[str, Any] = {
        "was_cancelled": False,
        "lead_time": record.seconds,
        "created_at": record.created,
        "result": [{"from_name": "comparison", "to_name": "comparison", "type": "pairwise", "value": selected}],
    }
    if record.annotator is not None:  # else it is whoever imports the file there
        annotation["completed_by"] = _account(record.annotator)
    yield {
        "data": {"prompt": prompt, "answer1": record.responses[left], "answer2": record.responses[right]},
        "annotations": [annotation],
    }


def _account(annotator: str) -> int | dict[str, str]:
    """Label Studio knows people by a number or by their e-mail address, and refuses others than its members."""
    number = annotator.isascii() and annotator.isdecimal() and annotator == str(int(annotator[:18]))
    return int(annotator) if number else {"email": annotator}


LABEL_STUDIO = Exporter(
    rows,
    {Comparison: frozenset({"prompt", "responses", "choice", "order_shown", "annotator", "seconds", "created"})},
    "one JSON array of tasks with a pairwise result",
    container="json",
)
