"""What is published: an item says which of its answers were written to another prompt, and a wrong one is refused."""

import pytest
from pydantic import ValidationError

from loopwright.feedback.items import Item, Score
from loopwright.feedback.store.migrate import migrate, open_store
from tests.feedback.store.team import Team

ASKED = {"key": "k", "prompt": [{"role": "user", "content": "Why?"}], "responses": ["one", "another"]}


@pytest.mark.parametrize("tag", [[2], [-1], ["0"], [True], "0", 0, None, {"0": 1}])
def test_a_tag_that_names_no_answer_is_refused(tag):
    with pytest.raises(ValidationError, match="its tag off_topic lists no places of its 2 responses"):
        Item.model_validate(ASKED | {"tags": {"off_topic": tag}})


def test_an_item_has_a_score_for_each_answer_and_something_to_ask():
    with pytest.raises(ValidationError, match="has 2 responses, but 1 scores"):
        Item.model_validate(ASKED | {"scores": [Score(mean=1.0).model_dump()]})
    with pytest.raises(ValidationError, match="neither a prompt nor responses"):
        Item(key="k")


@pytest.mark.parametrize("kind", ["comparison", "ranking"])
def test_records_say_which_answers_are_off_topic(tmp_path, kind):
    url = f"sqlite:///{tmp_path / 'feedback.db'}"
    migrate(url)
    with open_store(url) as store:
        team = Team(store, kind=kind)
        team.join("ann")
        team.publish("own")
        team.publish("mixed", tags={"off_topic": [1]})
        for _ in range(2):
            team.label("ann", {"choice": 0, "strength": "better"} if kind == "comparison" else {"ranks": [1, 2]})
        assert sorted(record.off_topic for record in team.records()) == [(), (1,)]


def nested(depth):
    return {"deeper": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"half": "\ud800"}, "half of a character"), ({"\ud800": 1}, "half of a character"),
        ({"nan": [float("nan")]}, "cannot be sent as JSON"), ({"inf": float("inf")}, "cannot be sent as JSON"),
        (nested(33), "nested more than 32 deep"), (nested(400), "nested"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["tags", "gold"])
def test_what_could_never_be_sent_on_is_refused(name, value, problem):
    """One such item, and no list that it is in could be read any more."""
    with pytest.raises(ValidationError, match=problem):
        Item.model_validate(ASKED | {name: value})


def test_what_is_nested_as_deep_as_allowed_is_taken():
    assert Item.model_validate(ASKED | {"tags": nested(32)}).tags == nested(32)
