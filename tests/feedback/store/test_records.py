"""Labels become records that say the same of the texts, whatever the order in which these were shown."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.feedback.forms import Asked
from loopwright.feedback.kinds import FORMS, read_answer, to_records
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import labels, queue
from loopwright.schemas import Message, Reply
from tests.feedback.store.team import LEFT, RIGHT, Team

PROMPT = (Message(role="user", content="Why?"),)
TEXTS = ("alpha", "beta!", "gamma")
CRITERIA = [{"name": "helpful", "definition": "It helps."}, {"name": "honest", "definition": "It is true."}]
AN_ANSWER = {  # to TEXTS[:2] or TEXTS[:1], of each kind
    "comparison": {"choice": 1, "strength": "slightly"},
    "ranking": {"ranks": [2, 1]},
    "rating": {"scores": {"overall": 2}},
    "thumb": {"good": True},
    "demonstration": {"response": "So."},
    "correction": {"chosen": 1, "edited": "beta."},
    "spans": {"spans": [{"start": 1, "end": 3, "label": "wrong"}]},
    "chat": {"good": False},
    "red_team": {"broke": True, "harm": 2},
}
NEEDED = {
    "spans": {"span_labels": ("wrong",)},
    "chat": {"responder": "echo"},
    "red_team": {"responder": "echo"},
}


def records_of(kind, answer, texts, order, **settings):
    project = ProjectConfig(kind=kind, **NEEDED.get(kind, {}), **settings)
    asked = Asked(PROMPT, tuple(texts), tuple(order), project)
    return to_records(kind, read_answer(kind, answer, asked), asked, id="u", annotator="ann", created=None)


def test_short_reasons_are_those_of_the_project_and_go_into_the_record():
    offered = {"reasons": ("rude", "wrong"), "reason_when_significant": True}
    answer = {"choice": 0, "strength": "significantly", "reasons": ["wrong"]}
    (made,) = records_of("comparison", answer, TEXTS[:2], (0, 1), **offered)
    assert (made.reasons, made.rationale) == (("wrong",), None)
    for reasons, why in ((["odd"], "'odd' is not one of rude, wrong"), (["rude", "rude"], "twice"), ([], "say why")):
        with pytest.raises(ValueError, match=why):
            records_of("comparison", {**answer, "reasons": reasons}, TEXTS[:2], (0, 1), **offered)


def test_how_much_better_by_a_criterion_is_asked_where_the_project_says_so():
    answer = {"choice": 0, "strength": "better", "criteria": {"helpful": 1, "honest": None}}
    (made,) = records_of("comparison", answer, TEXTS[:2], (0, 1), criteria=CRITERIA)
    assert made.strengths == {}
    with pytest.raises(ValueError, match="a choice by helpful comes with its strength"):
        records_of("comparison", answer, TEXTS[:2], (0, 1), criteria=CRITERIA, criteria_strengths=True)
    full = {**answer, "strengths": {"helpful": "slightly"}}
    (made,) = records_of("comparison", full, TEXTS[:2], (0, 1), criteria=CRITERIA, criteria_strengths=True)
    assert made.strengths == {"helpful": "slightly"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"kind": "comparison", "criteria_strengths": True}, "criteria_strengths has no effect without criteria"),
        ({"kind": "rating", "criteria_strengths": True}, "criteria_strengths has no effect on a rating project"),
        ({"kind": "chat", "responder": "x", "blur": True}, "blur has no effect on a chat project"),
        ({"kind": "demonstration", "reasons": ("rude",)}, "reasons has no effect on a demonstration project"),
        ({"kind": "thumb", "reasons": ("rude", "rude")}, "two of the reasons are the same"),
        ({"kind": "thumb", "reasons": ("",)}, "at least 1 character"),
        (
            {"kind": "ranking", "criteria": [{**CRITERIA[0], "higher_is_better": False}]},
            "higher_is_better of a criterion has no effect on a ranking project",
        ),
    ],
)
def test_reasons_and_blur_are_for_who_judges(settings, why):
    with pytest.raises(ValueError, match=why):
        ProjectConfig(**settings)


@given(
    order=st.permutations([0, 1]),
    winner=st.sampled_from([0, 1, None]),
    helpful=st.sampled_from([0, 1, None]),
    safe=st.tuples(st.booleans(), st.booleans()),
    improved=st.booleans(),
)
def test_a_comparison_says_the_same_whatever_order_was_shown(order, winner, helpful, safe, improved):
    shown = [None if place is None else order.index(place) for place in (winner, helpful)]
    answer = {
        "choice": shown[0],
        "strength": None if winner is None else "better",
        "criteria": {"helpful": shown[1]},
        "safe": [safe[place] for place in order],
        "improved": "gamma" if improved and winner is not None else None,
    }
    made = records_of("comparison", answer, TEXTS[:2], order, criteria=CRITERIA, safety=True)
    comparison = made[0]
    assert comparison.responses == TEXTS[:2]
    assert (comparison.choice, comparison.criteria, comparison.safe) == (winner, {"helpful": helpful}, safe)
    assert comparison.order_shown == tuple(order)
    if answer["improved"]:
        assert (made[1].chosen, made[1].edited) == (winner, "gamma")
        assert made[1].id != comparison.id
    assert len(made) == 1 + bool(answer["improved"])


@given(order=st.permutations(range(3)), overall=st.lists(st.integers(1, 3), min_size=3, max_size=3))
def test_a_ranking_says_the_same_whatever_order_was_shown(order, overall):
    honest = [4 - rank for rank in overall]
    answer = {
        "ranks": [overall[place] for place in order],
        "criteria": {"honest": [honest[place] for place in order]},
    }
    first, second = records_of("ranking", answer, TEXTS, order, criteria=CRITERIA)
    assert (first.criterion, list(first.ranks), first.id) == (None, overall, "u")
    assert (second.criterion, list(second.ranks), second.id) == ("honest", honest, "u.honest")


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_correction_is_of_the_text_that_was_edited(order):
    for shown, place in enumerate(order):
        (record,) = records_of("correction", {"chosen": shown, "edited": "new"}, TEXTS, order)
        assert record.responses[record.chosen] == TEXTS[place]


def test_criteria_alone_make_a_ranking_and_all_of_them_are_needed_then():
    both = {"helpful": [1, 2], "honest": [2, 1]}
    made = records_of("ranking", {"criteria": both}, TEXTS[:2], (1, 0), criteria=CRITERIA)
    assert [(one.criterion, one.ranks) for one in made] == [("helpful", (2, 1)), ("honest", (1, 2))]
    for answer, why in (({"criteria": {"helpful": [1, 2]}}, "honest"), ({}, "rank the answers")):
        with pytest.raises(ValueError, match=why):
            records_of("ranking", answer, TEXTS[:2], (0, 1), criteria=CRITERIA)
    with pytest.raises(ValueError, match="rank the answers"):
        records_of("ranking", {}, TEXTS[:2], (0, 1))


def test_the_vote_of_a_rating_is_on_the_projects_first_criterion():
    project = ProjectConfig(kind="rating", criteria=CRITERIA)
    asked = Asked(PROMPT, TEXTS[:1], (0,), project)
    given = read_answer("rating", {"scores": {"honest": 1, "helpful": 3}}, asked)
    assert given.vote(asked) == 3


def test_there_is_an_example_of_each_kind():
    assert set(AN_ANSWER) == set(FORMS)


@pytest.mark.parametrize("kind", FORMS)
def test_each_kind_goes_through_the_store(store, kind):
    """From the form to the record that training reads, and which file it belongs in."""
    team = Team(store, kind=kind, **NEEDED.get(kind, {}), **({"gold_share": None} if FORMS[kind].written else {}))
    team.join("ann")
    responses = TEXTS[: min(FORMS[kind].responses[1], 2)]
    policy = None if kind == "demonstration" else "policy/1"
    if FORMS[kind].written:
        reply = Reply(text=responses[0], finished=True, model="a model", policy=policy)
        task = team.read(queue.get_task, team.talk("ann", "Why?", reply), "ann")
    else:
        team.publish("x", responses=responses, policy=policy)
        task = team.task("ann")
    label = team.submit("ann", task, AN_ANSWER[kind], seconds=12)
    ((*_, file, record),) = team.read(lambda connection: list(labels.records(connection, team.project)))
    assert file == FORMS[kind].makes[0]
    (expected,) = records_of(kind, AN_ANSWER[kind], responses, task.asked.order)
    same = {"id", "created", "seconds", "policy", "selection_probability"}
    assert record.model_dump(exclude=same) == expected.model_dump(exclude=same)
    assert record.id == label.uid
    assert record.created == "1970-01-12T13:46:40.000+00:00"  # a million seconds
    if kind != "demonstration":
        assert (record.seconds, record.policy, record.selection_probability) == (12.0, "policy/1", 1.0)


def test_an_improved_answer_makes_two_records_for_two_files(sqlite_store):
    team = Team(sqlite_store)
    team.join("ann")
    team.publish("x", responses=TEXTS[:2])
    task = team.task("ann")
    label = team.submit("ann", task, {**LEFT, "improved": "better still"})
    found = team.read(lambda connection: list(labels.records(connection, team.project)))
    assert [(uid, file, record.id) for _, uid, file, record in found] == [
        (label.uid, "comparisons", label.uid), (label.uid, "corrections", f"{label.uid}.improved"),
    ]  # fmt: skip
    assert found[1][-1].chosen == found[0][-1].choice == task.asked.order[0]


def test_an_answer_is_not_improved_to_nothing():
    asked = Asked(PROMPT, TEXTS[:2], (0, 1), ProjectConfig(kind="comparison"))
    with pytest.raises(ValueError, match="improved"):
        read_answer("comparison", {**LEFT, "improved": ""}, asked)


def test_each_record_names_its_label_even_where_none_has_its_name(sqlite_store):
    """A ranking on criteria alone: no record is of the label as a whole."""
    team = Team(sqlite_store, kind="ranking", criteria=CRITERIA)
    team.join("ann")
    team.publish("x", responses=TEXTS[:2])
    label = team.submit("ann", team.task("ann"), {"criteria": {"helpful": (1, 2), "honest": (2, 1)}})
    found = team.read(lambda connection: list(labels.records(connection, team.project)))
    assert [(uid, record.id) for _, uid, _, record in found] == [
        (label.uid, f"{label.uid}.helpful"), (label.uid, f"{label.uid}.honest"),
    ]  # fmt: skip


def test_records_of_a_batch_and_of_what_is_new(team):
    team.join("ann")
    team.publish("x", "y", batch="round-1")
    team.publish("z", batch="round-2")
    for _ in range(3):
        team.label("ann", RIGHT)
    assert [len(team.records(batch=name)) for name in ("round-1", "round-2", "round-3")] == [2, 1, 0]
    ids = [id for id, *_ in team.read(lambda connection: list(labels.records(connection, team.project)))]
    assert ids == sorted(ids)
    assert len(team.records(after=ids[0])) == 2
