"""Records of other tools become what a form would have sent, and say the same afterwards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.feedback.imported import (
    Given,
    Row,
    account_name,
    answer_to,
    items_about,
    labels_among,
    lost,
    said_at,
)
from loopwright.feedback.kinds import to_records
from loopwright.feedback.projects import ProjectConfig
from loopwright.schemas import Comparison, Correction, Demonstration, Message, Ranking, Rating, SpanFeedback, Thumb

PAIR = ("a", "b")
PROMPT = (Message(role="user", content="Why?"),)
CRITERIA = ({"name": "helpful", "definition": "It helps."}, {"name": "honest", "definition": "It is true."})
RUDE = (CRITERIA[0], {"name": "rude", "definition": "It insults.", "higher_is_better": False})
LOW_IS_KIND = {"directions": {"rude": False}}
ABOUT = {"id": "1", "prompt": PROMPT, "annotator": "ann", "rationale": "So."}
CASES = [  # a record, the kind of project, what it needs
    (
        Comparison(responses=("b", "a"), choice=0, safe=(True, False), criteria={"helpful": 1, "honest": 0},
               strengths={"honest": "slightly"}, **ABOUT),
        {"kind": "comparison", "safety": True, "criteria": CRITERIA},
    ),
    (Comparison(responses=("a", "b"), choice=None, both_bad=True, **ABOUT), {"kind": "comparison"}),
    (Comparison(responses=("b", "a"), choice=1, strength="slightly", **ABOUT), {"kind": "comparison"}),
    (Ranking(responses=("c", "a", "b"), ranks=(1, 3, 1), **ABOUT), {"kind": "ranking"}),
    (Rating(responses=("a",), scores={"overall": 4}, scale_low=0, scale_high=4, higher_is_better=True, **ABOUT),
     {"kind": "rating", "scale": (0, 4)}),
    (Rating(responses=("a",), scores={"helpful": 1, "rude": 3}, higher_is_better=True, **LOW_IS_KIND, **ABOUT),
     {"kind": "rating", "criteria": RUDE}),
    (Thumb(responses=("a",), good=False, **ABOUT), {"kind": "thumb"}),
    (Correction(responses=("c", "a", "b"), chosen=2, edited="b!", **ABOUT), {"kind": "correction"}),
    (SpanFeedback(responses=("abc",), spans=({"start": 1, "end": 2, "label": "wrong"},), **ABOUT),
     {"kind": "spans", "span_labels": ("wrong",)}),
    (Demonstration(id="1", prompt=PROMPT, response="a", annotator="ann"), {"kind": "demonstration"}),
]  # fmt: skip


def labels(config, *records):
    refused = []
    rows = [Row(f"file:{number}", record) for number, record in enumerate(records, 1)]
    found = list(labels_among(rows, config, lambda row, why: refused.append((row.where, why))))
    return found, refused


def texts(record):
    """What a record says, whatever the order in which its responses are stored."""
    match record:
        case Comparison():
            first, second = record.responses
            return record if first <= second else record.swap()
        case Ranking():
            levels = sorted(set(record.ranks))
            return sorted((levels.index(rank), text) for text, rank in zip(record.responses, record.ranks, strict=True))
        case Correction():
            return sorted(record.responses), record.responses[record.chosen], record.edited
    return record


@pytest.mark.parametrize(("record", "settings"), CASES, ids=lambda case: type(case).__name__)
@given(data=st.data())
def test_a_label_says_what_the_record_said(record, settings, data):
    """In whatever order an item's responses are stored, and those of the record were shown."""
    config = ProjectConfig(**settings)
    responses = () if isinstance(record, Demonstration) else record.responses
    if len(responses) > 1:
        order = data.draw(st.none() | st.permutations(range(len(responses))))
        record = record.model_copy(update={"order_shown": order and tuple(order)})
    (found,), refused = labels(config, record)
    assert not refused and found.annotator == "ann"
    stored = data.draw(st.permutations(found.item.responses))
    answer, seen, ordered = answer_to(found, stored, config)
    assert ordered == (len(responses) < 2 or record.order_shown is not None)
    if ordered and responses:
        assert [stored[place] for place in seen.order] == [
            record.responses[place] for place in record.order_shown or (0,)
        ]
    (made,) = to_records(config.kind, answer, seen, id="1", annotator="ann", created=None)
    assert texts(made.model_copy(update={"order_shown": None} if responses else {})) == texts(
        record.model_copy(update={"order_shown": None} if responses else {})
    )


def test_a_question_is_one_item_in_whatever_order_its_answers_stand():
    one, other = (
        Ranking(responses=("a", "b"), ranks=(1, 2), **ABOUT),
        Ranking(responses=("b", "a"), ranks=(1, 2), **ABOUT),
    )
    assert [item.key for item in items_about(one, "ranking")] == [item.key for item in items_about(other, "ranking")]
    (item,) = items_about(one.model_copy(update={"responses": ("b", "a"), "off_topic": (0,)}), "ranking")
    assert (item.responses, item.tags) == (("a", "b"), {"imported": "1", "off_topic": [1]})


def test_rankings_by_criteria_are_one_label_of_their_annotator():
    """In the order of Argilla: question after question, and in each of them person after person."""
    said = [
        Ranking(responses=("a", "b"), ranks=ranks, criterion=criterion, **{**ABOUT, "annotator": who})
        for criterion in (None, "helpful")
        for who, ranks in (("ann", (1, 2)), ("bob", (2, 1)))
    ]
    config = ProjectConfig(kind="ranking", criteria=CRITERIA)
    found, refused = labels(config, *said)
    assert not refused and [(one.annotator, len(one.rows)) for one in found] == [("ann", 2), ("bob", 2)]
    answer, *_ = answer_to(found[1], ("a", "b"), config)
    assert (answer.ranks, answer.criteria) == ((2, 1), {"helpful": (2, 1)})
    found, refused = labels(config, said[0], said[0])
    assert len(found) == 1 and refused == [("file:2", "whoever said this judged the same answers in an earlier row")]


@pytest.mark.parametrize(
    ("record", "settings", "why"),
    [
        (Comparison(responses=("a", "a"), choice=0, **ABOUT), {"kind": "comparison"}, "the same text"),
        (Comparison(responses=PAIR, choice=0, safe=(True, True), **ABOUT), {"kind": "comparison"}, "which answers"),
        (Comparison(responses=PAIR, choice=0, **{**ABOUT, "annotator": "ai:x"}), {"kind": "comparison"}, "a model"),
        (Comparison(responses=PAIR, choice=0, policy="p" * 101, **ABOUT), {"kind": "comparison"}, "policy: String"),
        (Ranking(responses=tuple("abcdefghij"), ranks=(1,) * 10, **ABOUT), {"kind": "ranking"}, "10 responses"),
        (Ranking(responses=PAIR, ranks=(1, 2), criterion="wit", **ABOUT), {"kind": "ranking"}, "'wit' is not"),
        (Rating(responses=("a",), scores={"overall": 1}, higher_is_better=False, **ABOUT), {"kind": "rating"}, "scale"),
        (
            Rating(responses=("a",), scores={"helpful": 1, "rude": 3}, higher_is_better=True, **ABOUT),
            {"kind": "rating", "criteria": RUDE},
            "is on the scale 1 to 3, the highest best by rude; the project's is 1 to 3, the lowest best by rude",
        ),
        (Demonstration(id="1", prompt=PROMPT, response="a" * 20_001), {"kind": "demonstration"}, "response: String"),
    ],
)  # fmt: skip
def test_what_is_no_label_of_the_project_is_refused_with_its_place(record, settings, why):
    found, refused = labels(ProjectConfig(**settings), record)
    assert not found and refused[0][0] == "file:1" and why in refused[0][1]


def test_records_of_other_kinds_bring_no_labels():
    assert labels(ProjectConfig(kind="thumb"), CASES[0][0]) == ([], [])
    assert len(list(items_about(CASES[0][0], "thumb"))) == 2


def test_nobody_here_is_called_as_somebody_there():
    assert account_name("argilla", "ann") == "imported:argilla/ann"
    assert account_name("trl", None) == "imported:trl"
    assert account_name("loopwright", "imported:argilla/ann") == "imported:argilla/ann"
    odd = {account_name("trl", name) for name in ("x" * 100, "x" * 101, "a\x1b", "a\x00")}
    assert len(odd) == 4
    assert all(len(name) <= 80 and name.isprintable() and name.startswith("imported:trl/") for name in odd)


@pytest.mark.parametrize(
    ("created", "at"),
    [
        ("1970-01-01T00:01:00Z", 60.0), ("1970-01-01T00:01:00", 60.0), ("1970-01-01T01:01:00+01:00", 60.0),
        (None, 5e8), ("yesterday", 5e8), ("1969-01-01", 5e8), ("2026-01-01", 5e8), ("0001-01-01", 5e8),
    ],
)  # fmt: skip
def test_when_it_was_said(created, at):
    assert said_at(Thumb(responses=("a",), good=True, created=created, id="1"), 5e8) == at


def test_what_a_label_has_no_place_for_is_named():
    record = Comparison(responses=("a", "b"), choice=0, margin=1.0, weight=2.0, guideline="3", **ABOUT)
    assert list(lost(record)) == ["margin", "weight", "guideline"]
    assert list(lost(CASES[0][0])) == [] == list(lost(CASES[-1][0]))


def test_a_label_of_nobody_known_is_the_tools():
    (found,), _ = labels(ProjectConfig(kind="thumb"), Thumb(responses=("a",), good=True, id="1"))
    assert isinstance(found, Given) and found.annotator is None
