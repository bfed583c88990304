"""How a run asks: what it publishes, how it waits, when it gives up."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter

from loopwright.errors import ConfigError, StoreError
from loopwright.feedback import asking
from loopwright.feedback.asking import (
    SOURCE,
    Question,
    Source,
    Wait,
    ask,
    items_to_judge,
    key_of,
    projects_for,
    read_sources,
    write_sources,
)
from loopwright.feedback.client import Batch, Line, Project, Published
from loopwright.feedback.connection import Unreachable
from loopwright.feedback.kinds import FORMS
from loopwright.schemas import Message, Thumb

QUESTION = (Message(role="user", content="When?"),)


def asked(kind, *responses, off_topic=()):
    found = items_to_judge(kind, QUESTION, responses, policy="p", tags={"prompt": "7"}, off_topic=off_topic)
    return [(item.responses, item.tags.get("off_topic")) for item in found]


def test_each_kind_asks_about_answers_in_its_way():
    assert asked("comparison", "a", "b", "c") == [(("a", "b"), None), (("a", "c"), None), (("b", "c"), None)]
    assert asked("ranking", "a", "b", "c") == [(("a", "b", "c"), None)]
    assert asked("thumb", "a", "b") == [(("a",), None), (("b",), None)]
    assert asked("correction", "a", "b") == [(("a", "b"), None)]
    assert asked("demonstration") == [((), None)]


def test_equal_answers_are_asked_about_once():
    assert asked("comparison", "a", "a", "b") == [(("a", "b"), None)]
    assert asked("comparison", "a", "a") == []
    assert asked("ranking", "a", "a", "a") == []
    assert asked("thumb", "a", "a") == [(("a",), None)]


def test_off_topic_answers_are_known_by_their_place_in_the_item():
    assert asked("comparison", "a", "b", "c", off_topic=[2]) == [
        (("a", "b"), None), (("a", "c"), [1]), (("b", "c"), [1]),
    ]  # fmt: skip
    assert asked("thumb", "a", "b", off_topic=[1]) == [(("a",), None), (("b",), [0])]


def test_a_key_is_of_policy_prompt_and_answers():
    same = key_of("p", QUESTION, ["a", "b"])
    assert same == key_of("p", QUESTION, ("a", "b"))
    others = [key_of("q", QUESTION, ["a", "b"]), key_of("p", QUESTION, ["b", "a"]), key_of("p", (), ["a", "b"])]
    assert len({same, *others}) == 4
    assert len(same) <= 100


class Server:
    """A client of a server where each look finds the next state; an exception stands for a look that fails."""

    url = "http://there"

    def __init__(self, *states, labels=3):
        self.states, self.published, self.labels_there = list(states), 0, labels

    def publish(self, project, items, *, batch):
        self.published += 1
        return Published(new=len(items), known=0)

    def batch(self, project, batch):
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        labels, wanted = state
        return Batch(items=wanted, labels=labels, wanted=wanted)

    def labels(self, project, *, batch):
        for number in range(self.labels_there):
            thumb = Thumb(id=f"uid-{number}", prompt=QUESTION, responses=("a",), good=True)
            yield Line(number, f"uid-{number}", "thumbs", thumb)
        self.labels_there += 1  # by the next look


class Watch:
    def __init__(self):
        self.said, self.moved = [], []

    @contextmanager
    def progress(self, description, total, start=0):
        self.total = total

        def advance(n=1, **shown):
            self.moved.append(n)
            self.shown = shown

        yield SimpleNamespace(advance=advance)

    def log(self, message):
        self.said.append(message)


PROJECT = Project(id="id", name="desk", state="open", config={"kind": "thumb"})


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    found = []
    monkeypatch.setattr(asking, "time", SimpleNamespace(sleep=found.append))
    return found


def wait(server, wanted=3):
    watch = Watch()
    (lines,) = ask(server, [Question(PROJECT, [], wanted)], batch="b", watch=watch)
    return [line.label for line in lines], watch


def test_it_waits_until_so_many_labels_count(slept):
    server = Server((0, 5), (2, 5), (2, 5), (3, 5))
    labels, watch = wait(server)
    assert labels == ["uid-0", "uid-1", "uid-2"]
    assert slept == [asking.POLL_SECONDS] * 3
    assert watch.moved == [0, 2, 0, 1]


def test_a_label_that_is_taken_back_in_the_last_moment_is_waited_for():
    server = Server((3, 5), (3, 5), labels=2)
    labels, _ = wait(server)
    assert len(labels) == 3
    assert server.states == []


def test_a_server_that_is_away_is_waited_for_and_said_once():
    away = Unreachable("http://there: no answer")
    labels, watch = wait(Server((0, 5), away, away, (3, 5)))
    assert len(labels) == 3
    assert [sentence for sentence in watch.said if "answer" in sentence] == [
        "http://there does not answer; waiting for it (Ctrl-C loses nothing)", "http://there answers again",
    ]  # fmt: skip


def test_what_cannot_come_is_not_waited_for():
    with pytest.raises(StoreError, match="can bring 2 labels that count of these 2 items, not 3"):
        wait(Server((0, 2)))
    with pytest.raises(StoreError, match="refused"):
        wait(Server(StoreError("refused")))


@pytest.mark.parametrize(
    ("kind", "wait", "message"),
    [
        ("ranking", {"comparisons": 5}, "a ranking project such as desk makes rankings, not comparisons"),
        ("comparison", {"corrections": 5}, "makes comparisons, not corrections"),
        ("chat", {"attacks": 5}, "a chat project such as desk makes thumbs, not attacks"),
        ("red_team", {"thumbs": 5}, "makes attacks, not thumbs"),
        ("dance\x1b[2J", {"thumbs": 5}, r"of a kind that this program does not know \(dance\[2J\)"),
    ],
)
def test_a_kind_that_the_project_cannot_make_is_refused(kind, wait, message):
    project = PROJECT.model_copy(update={"config": {"kind": kind}})
    client = SimpleNamespace(project=lambda name: project)
    with pytest.raises(ConfigError, match=message):
        projects_for(client, "desk", wait, "feedback")


@pytest.mark.parametrize("kind", FORMS)
def test_a_run_can_wait_for_every_kind(kind):
    project = PROJECT.model_copy(update={"config": {"kind": kind}})
    client = SimpleNamespace(project=lambda name: project)
    wait = TypeAdapter(Wait).validate_python({FORMS[kind].makes[0]: 5})
    assert projects_for(client, "desk", wait, "feedback") == [project]


def talking(*states):
    """A server whose people talk with a model, and what is asked about it."""
    server = Server()
    server.states = [
        Batch(items=items, labels=labels, wanted=items, answering=answering) for items, labels, answering in states
    ]
    server.batch = lambda project, batch: server.states.pop(0)
    config = {"kind": "chat", "responder": "front\x1b[2J\n"}
    return server, Question(Project(id="id", name="talk", state="open", config=config), [], 3)


def test_where_people_write_the_prompts_nothing_is_asked_about_and_more_may_come():
    assert asked("chat", "a", "b") == asked("red_team", "a") == []
    server, question = talking((1, 0, "v2"), (2, 2, "v2"), (9, 3, "v2"))  # fewer answers than labels are wanted
    watch = Watch()
    (lines,) = ask(server, [question], batch="v2", watch=watch)
    assert len(lines) == 3 and watch.shown == {"thumbs": 3} and watch.moved == [0, 2, 1]
    assert watch.said == ["talk at http://there has people talk with a model, and waits for 3 labels"]


def test_who_talks_with_another_policy_is_said_once_and_to_whom_to_talk():
    """Else people would work for days, and nothing would count."""
    nobody, another = (0, 0, None), (0, 0, "v1\x1b[2J")
    server, question = talking(nobody, nobody, another, another, (3, 3, "v2"))
    watch = Watch()
    ask(server, [question], batch="v2", watch=watch)
    _, first, second = watch.said
    assert "labels count of what v2 answers, but nobody has talked with it yet; serve it" in first
    assert "but people talk with v1[2J; serve it" in second
    assert second.endswith("as the model that the annotation server calls front[2J")


def test_several_kinds_are_waited_for_together_and_each_is_shown():
    """Enough of one kind is not enough: the other's labels are still to come."""
    ratings = Project(id="other", name="ratings", state="open", config={"kind": "rating"})
    server, watch = Server((3, 5), (0, 2), (4, 5), (2, 2), labels=5), Watch()
    thumbs, rated = ask(server, [Question(PROJECT, [], 3), Question(ratings, [], 2)], batch="b", watch=watch)
    assert (len(thumbs), len(rated), server.published) == (5, 6, 2)
    assert (watch.total, watch.moved, watch.shown) == (5, [3, 2], {"thumbs": 4, "ratings": 2})
    with pytest.raises(StoreError, match="project ratings can bring 1 labels"):
        ask(Server((3, 5), (0, 1)), [Question(PROJECT, [], 3), Question(ratings, [], 2)], batch="b", watch=Watch())


def test_each_kind_has_its_project():
    kinds = {"a": "comparison", "b": "rating", "c": "rating"}
    made = {name: Project(id=name, name=name, state="open", config={"kind": kind}) for name, kind in kinds.items()}
    client = SimpleNamespace(project=made.__getitem__)
    wait = {"ratings": 5, "comparisons": 9}
    assert [one.name for one in projects_for(client, ("a", "b"), wait, "feedback")] == ["b", "a"]
    with pytest.raises(ConfigError, match="none of the projects makes comparisons"):
        projects_for(client, "b", wait, "feedback")
    with pytest.raises(ConfigError, match="b and c both make ratings"):
        projects_for(client, ("a", "b", "c"), wait, "feedback")


def test_the_sources_of_labels_are_read_as_they_were_written(tmp_path):
    assert read_sources(tmp_path) == ()
    both = tuple(
        Source(store="http://there", project=name, project_id=name, policy="p", labels=("1", "2")) for name in "ab"
    )
    write_sources(tmp_path, both)
    assert read_sources(tmp_path) == both
    (tmp_path / SOURCE).write_text(both[0].model_dump_json())  # as runs of one project had it
    assert read_sources(tmp_path) == both[:1]
