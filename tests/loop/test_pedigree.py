"""Stores hear of what was made of their labels; they never stop a run, and hear at the next what they missed."""

from dataclasses import replace

import pytest

from loopwright.feedback.asking import SOURCE, Source
from loopwright.feedback.items import Item
from loopwright.loop import config_from, run
from loopwright.loop import pedigree as pedigree_module
from loopwright.runtime.display import Quiet
from loopwright.schemas import Message
from loopwright.stages.base import StageOutput
from loopwright.tracking.artifacts import current_artifacts
from tests.feedback.web.people import Office
from tests.loop.toys import TOYS, no_report


class Said(Quiet):
    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)


@pytest.fixture
def office(tmp_path, monkeypatch):
    monkeypatch.setattr("loopwright.feedback.connection.FIRST_WAIT_SECONDS", 0.01)
    with Office(tmp_path) as office:
        monkeypatch.setenv("LOOPWRIGHT_FEEDBACK_TOKEN", office.token)
        yield office


@pytest.fixture
def stages(office):
    """Toy stages, the first of which is made from one label of the store."""
    project, (person, *_) = office.open_project("desk", labelers=1, kind="thumb")
    with office.client() as client, office.client(person.token) as labeler:
        client.publish(project, [Item(key="k", prompt=(Message(role="user", content="?"),), responses=("a",))])
        (task,) = labeler.tasks(project).tasks
        label = labeler.label(task.ticket, {"good": True})
    source = Source(store=office.url, project="desk", project_id=project, policy="elsewhere", labels=(label,))

    def ask(config, inputs, runtime):
        (runtime.output / SOURCE).write_text(source.model_dump_json())
        (runtime.output / "model").mkdir()
        (runtime.output / "model" / "w.safetensors").write_bytes(b"")
        return StageOutput({})

    ask.__module__ = __name__  # the loop reads the source of where a stage is defined
    return project, label, {"seeds": replace(TOYS["seeds"], run=ask), "first": replace(TOYS["first"], run=train)}


def train(config, inputs, runtime):
    assert inputs.start.is_dir()
    return StageOutput({})


CONFIG = {"name": "toy", "seeds": {}, "first": {}, "tensorboard": False}


def made(out, stages):
    said = Said()
    config = config_from(dict(CONFIG), "test", stages=stages)
    run(config, out, stages=stages, display=said, render=no_report)
    return said.lines


def told(office, project):
    with office.client() as client:
        return {one.id: (one.kind, one.parents, one.labels) for one in client.artifacts(project)}


def test_artifacts_are_told_with_their_parents_and_labels(tmp_path, office, stages):
    project, label, table = stages
    made(tmp_path / "run", table)
    current = current_artifacts(tmp_path / "run")
    seeds, first = current["seeds"].id, current["first"].id
    assert told(office, project) == {
        seeds: ("seeds", {"policy": "elsewhere"}, 1),
        first: ("first", {"model": seeds}, 0),
    }
    made(tmp_path / "run", table)  # twice is once
    assert len(told(office, project)) == 2


def test_a_store_that_is_away_warns_once_and_hears_at_the_next_run(tmp_path, office, stages):
    project, _, table = stages
    office.stop()
    lines = made(tmp_path / "run", table)
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "the next run tells the store" in warnings[0]
    assert set(current_artifacts(tmp_path / "run")) == {"seeds", "first"}
    office.start()
    assert told(office, project) == {}
    made(tmp_path / "run", table)
    assert len(told(office, project)) == 2


def test_without_a_token_the_run_goes_on(tmp_path, office, stages, monkeypatch):
    monkeypatch.delenv("LOOPWRIGHT_FEEDBACK_TOKEN")
    lines = made(tmp_path / "run", stages[2])
    assert len([line for line in lines if "LOOPWRIGHT_FEEDBACK_TOKEN" in line]) == 1


def test_no_server_is_asked_where_no_label_of_a_store_is(tmp_path, monkeypatch):
    monkeypatch.setattr(pedigree_module, "FeedbackClient", None)
    lines = made(tmp_path / "run", {name: TOYS[name] for name in ("seeds", "first")})  # asking would call None
    assert not [line for line in lines if "store" in line]
