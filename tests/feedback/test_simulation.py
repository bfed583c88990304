"""Simulated annotators at a server: what they say there is what they feel, by the place at which answers were shown."""

import random
import threading

import pytest

from loopwright.errors import ConfigError
from loopwright.feedback.annotators import VERDICT_SECONDS, SimulatedAnnotator
from loopwright.feedback.client import Task
from loopwright.feedback.items import Item
from loopwright.feedback.projects import HHH, Criterion, ProjectConfig
from loopwright.feedback.simulation import World, answer, work
from loopwright.schemas import Prompt
from tests.feedback.web.people import Office

PROMPT = Prompt.user("p", "How good?", task="known")
VALUES = {"bad": 0.0, "fair": 0.4, "good": 0.9}
JUDGES = {"quality": lambda prompt, response: VALUES[response] if prompt.tags["task"] == "known" else 0.0}
PERFECT = SimulatedAnnotator(id="perfect", noise=0.0, carelessness=0.0)
QUALITY = (Criterion(name="quality", definition="How good it is."),)


def said(kind, *answers, annotator=PERFECT, **settings):
    task = Task(ticket="t", kind=kind, prompt=PROMPT.messages, answers=answers)
    config = ProjectConfig(kind=kind, **settings)
    return answer(task, config, annotator, PROMPT, JUDGES, random.Random(0))


def test_a_comparison_is_by_the_place_shown_with_its_strength():
    assert (said("comparison", "bad", "good")["choice"], said("comparison", "good", "bad")["choice"]) == (1, 0)
    assert said("comparison", "good", "good") == {"choice": None}
    assert said("comparison", "bad", "good")["strength"] == "significantly"
    assert said("comparison", "fair", "bad")["strength"] == "better"
    by_quality = said("comparison", "bad", "good", criteria=QUALITY)
    assert (by_quality["criteria"], by_quality["strengths"]) == ({"quality": 1}, {"quality": "significantly"})


def test_a_position_bias_is_of_what_is_shown_first():
    biased = PERFECT.model_copy(update={"first_bias": 1.0})
    assert said("comparison", "bad", "good", annotator=biased)["choice"] == 0


def test_ranks_ratings_and_thumbs():
    assert said("ranking", "fair", "good", "bad", "good", criteria=QUALITY) == {
        "ranks": [3, 1, 4, 1], "criteria": {"quality": [3, 1, 4, 1]},
    }  # fmt: skip
    levels = {text: said("rating", text, criteria=QUALITY)["scores"]["quality"] for text in VALUES}
    assert levels == {"bad": 1, "fair": 2, "good": 3}
    assert said("rating", "good", scale=(1, 7), higher_is_better=False)["scores"] == {"overall": 1}
    assert [said("thumb", text)["good"] for text in ("bad", "good")] == [False, True]


def test_marks_go_in_the_direction_of_their_criterion():
    low = (Criterion(name="quality", definition="How bad it is.", higher_is_better=False),)
    assert [said("rating", text, criteria=low)["scores"]["quality"] for text in ("bad", "good")] == [3, 1]


def test_what_takes_a_person_is_refused():
    config = ProjectConfig(kind="demonstration")
    with pytest.raises(ConfigError, match="a demonstration project needs people"):
        work("http://127.0.0.1:1", "p", config, [], World({}, {}))


KINDS = {
    "comparison": ("good", "bad"),
    "ranking": ("good", "bad", "fair"),
    "rating": ("fair",),
    "thumb": ("bad",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_labels_what_there_is_once_over_http(kind, tmp_path):
    settings = {"criteria": [Criterion(name=name, definition=text) for name, text in HHH]} if kind == "rating" else {}
    with Office(tmp_path) as office:
        project, labelers = office.open_project("desk", labelers=3, kind=kind, overlap=2, **settings)
        prompts = [Prompt.user(str(number), f"How good, {number}?", task="known") for number in range(6)]
        with office.client() as client:
            items = [Item(key=one.id, prompt=one.messages, responses=KINDS[kind]) for one in prompts]
            client.publish(project, [*items, Item(key="x", prompt=PROMPT.messages, responses=KINDS[kind])])
            config = ProjectConfig(kind=kind, gold_share=0.0, overlap=2, **settings)
            given = work(office.url, project, config, labelers, World.of(prompts, JUDGES))
            lines = list(client.labels(project))
        assert given == len({line.label for line in lines}) == 6 * 2  # nobody can judge the strange prompt
        assert {line.record.prompt for line in lines} == {one.messages for one in prompts}
        verdicts = len(HHH) if kind == "rating" else 1  # of a few words, so they take longer than reading does
        assert all(0 < line.record.seconds - VERDICT_SECONDS * verdicts < VERDICT_SECONDS for line in lines)


def test_people_who_stay_label_what_comes_later(tmp_path):
    with Office(tmp_path) as office, office.client() as client:
        project, labelers = office.open_project("desk", labelers=1)
        closing = threading.Event()
        world = World.of([PROMPT], JUDGES)
        config = ProjectConfig(kind="comparison", gold_share=0.0)
        given = []
        person = threading.Thread(
            target=lambda: given.append(
                work(office.url, project, config, labelers, world, most=1, stay=lambda: not closing.is_set())
            )
        )
        person.start()
        client.publish(project, [Item(key="late", prompt=PROMPT.messages, responses=("good", "bad"))])
        person.join(30)
        closing.set()
        person.join()
        assert given == [1]
        (line,) = client.labels(project)
        assert line.record.choice == 0
