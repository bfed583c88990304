"""Figures of many labels come from a process of their own, and are those of this one."""

import threading
import time

import pytest

from loopwright.errors import StoreError
from loopwright.feedback import figuring
from loopwright.feedback.figuring import Figuring, figures_of
from tests.feedback.store.team import RIGHT


@pytest.fixture
def judged(team):
    team.join("ann", "bob", "cid")
    team.publish(*range(6))
    for who in ("ann", "bob", "cid"):
        for number in range(6):
            task = team.task(who)
            team.submit(who, task, **({"answer": RIGHT} if number % 2 and who != "ann" else {}))
    return team


def test_figures_are_the_same_in_a_process_of_their_own(judged, monkeypatch):
    here = Figuring(judged.store)(judged.id)
    monkeypatch.setattr(figuring, "MOST_LABELS_HERE", 17)
    monkeypatch.setattr(figuring, "figures_of", None)  # what is asked of this process fails
    apart = Figuring(judged.store)(judged.id)
    assert apart == here == figures_of(judged.store, judged.id)
    assert here.labels == 18 and here.agreement.nominal.value is not None


def test_a_process_that_fails_says_so(judged, monkeypatch):
    monkeypatch.setattr(figuring, "MOST_LABELS_HERE", -1)
    with pytest.raises(StoreError, match="status 1"):
        Figuring(judged.store)._apart("a project that is not there")


def test_stopping_ends_the_other_process(judged, monkeypatch):
    monkeypatch.setattr(figuring, "MOST_LABELS_HERE", 17)
    figuring_, ended = Figuring(judged.store), []

    def compute():
        with pytest.raises(StoreError):
            figuring_(judged.id)
        ended.append(True)

    thread = threading.Thread(target=compute)
    thread.start()
    while figuring_._child is None:
        time.sleep(0.001)
    figuring_.stop()  # long before it has so much as imported what it needs
    thread.join(60)
    assert ended
    with pytest.raises(StoreError, match="the server stops"):
        figuring_(judged.id)
