"""Rows that are almost right: whatever stands where, the answer is records, a skip or a reason."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loopwright.data.importers import IMPORTERS
from loopwright.data.importers.base import Notes, Row, Settings, Unreadable
from loopwright.schemas import Comparison, Ranking
from tests.data.test_importers import FLAT, annotation, battle, completion, ranks, reply, said, task, tree, work

TEXTS = {"prompt": "Q", "response_a": "A", "response_b": "B"}
ROWS = {
    "alpaca-eval": [{"instruction": "Q", "output_1": "A", "output_2": "B", "preference": 1.2, "annotator": "j"}],
    "arena": [battle("model_a")],
    "argilla": [
        FLAT
        | {
            "ranking.responses": [ranks(1, 2)],
            "ranking.responses.users": ["u"],
            "ranking.responses.status": ["submitted"],
        },
        {
            "id": "3",
            "fields": FLAT | {"response": "AB"},
            "responses": {
                "q": [{"value": 3, "user_id": "u", "status": "submitted"}],
                "marks": [{"value": [{"label": "x", "start": 0, "end": 1}]}],
            },
        },
    ],
    "columns": [TEXTS | {"choice": "a", "margin": "1"}, {"prompt": "Q", "response": "A", "good": True}],
    "fine-grained": [
        {
            "question": "Q",
            "passages": [["P"]],
            "responses": ["a", "b", "c", "d"],
            "preference": [0] * 6,
            "errors": [{"error type": "x", "start": 0, "end": 1}],
            "correction": "e",
            "gold": "g",
        }
    ],
    "ground-truth": [
        {"source": json.dumps(TEXTS), "job": {"annotationsFromAllWorkers": [work({"choice": "A"})]}, "job-metadata": {}}
    ],
    "helpsteer": [
        {"prompt": "Q", "response": "A", "helpfulness": 1, "correctness": 1, "coherence": 1},
        {"prompt": "Q", "response_1": "A", "response_2": "B", "preference_strength": 1},
    ],
    "hh-rlhf": [
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
        {
            "transcript": "\n\nHuman: Q\n\nAssistant: A",
            "rating": 3.0,
            "num_params": 1,
            "model_type": "m",
            "tags": ["x"],
        },
    ],
    "label-studio": [task(annotation("left", completed_by={"id": 1}))],
    "loopwright": [
        Comparison(id="1", responses=("a", "b"), choice=0).model_dump(mode="json"),
        Ranking(id="1", responses=("a", "b"), ranks=(1, 2)).model_dump(mode="json"),
    ],
    "open-assistant": [tree(reply("m1", "A", 0), reply("m2", "B", 1))],
    "summarize-from-feedback": [
        {
            "info": {"post": "P", "title": "T", "subreddit": "x"},
            "summaries": [{"text": "a", "policy": "p"}, {"text": "b", "policy": "p"}],
            "choice": 1,
            "worker": "w",
        },
        {"info": {"article": "A"}, "summary": {"text": "a", "policy": "p", "axes": {"overall": 3}}},
    ],
    "trl": [
        {
            "prompt": said("user", "Q"),
            "chosen": said("assistant", "A"),
            "rejected": said("assistant", "B"),
            "margin": 1.0,
        },
        {"prompt": "Q", "completion": "A", "label": True},
    ],
    "ultrafeedback": [{"instruction": "Q", "completions": [completion(7, 4.0), completion(8, 4.5)]}],
    "ultrafeedback-binarized": [
        {
            "prompt": "Q",
            "prompt_id": "p",
            "chosen": said("user", "Q") + said("assistant", "A"),
            "rejected": said("user", "Q") + said("assistant", "B"),
            "score_chosen": 2,
            "score_rejected": 1,
        }
    ],
}

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([10**400, float("inf"), float("nan"), 1e308, -0.5]),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], [None], [{}], {"": None}, [{"rank": 1}], [{"label": 3}], "{", "\0"]),
)


def places(value, path=()):
    """Every place in a row that can hold something else."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        yield from places(below, (*path, key))


def test_every_format_is_here():
    assert ROWS.keys() == IMPORTERS.keys()


@pytest.mark.parametrize("format", sorted(ROWS))
@settings(max_examples=60)
@given(data=st.data())
def test_a_row_with_junk_in_it(format, data):
    row = copy.deepcopy(data.draw(st.sampled_from(ROWS[format])))
    for _ in range(data.draw(st.integers(0, 2))):
        where = data.draw(st.sampled_from(sorted(places(row), key=repr)))
        inside = row
        for key in where[:-1]:
            inside = inside[key]
        if data.draw(st.booleans()):
            inside[where[-1]] = copy.deepcopy(data.draw(JUNK))  # hypothesis gives out its own lists
        elif isinstance(inside, dict):
            del inside[where[-1]]
    importer, notes = IMPORTERS[format], Notes()
    given_row = Row(row, "file:1", "file.jsonl:1")
    try:
        records = list(importer.convert(given_row, notes, Settings(dict(importer.columns))))
    except (Unreadable, ValidationError) as reason:
        assert str(reason)
    else:
        assert records or notes.skipped
        notes.leave(given_row)
