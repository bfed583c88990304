"""The figures of a dashboard, how they are kept, and how they are drawn."""

import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest

from loopwright.feedback.figures import figures
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import administration, labels, people, queue, reports
from loopwright.feedback.store.items import reorder
from loopwright.feedback.store.judged import read_judged
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.web import plots
from loopwright.feedback.web.background import Background
from tests.feedback.web.world import ANSWER, item

NOW = 1_800_000_000.0
HOUR, DAY = 3_600.0, 86_400.0


class Team:
    """A project, and people in it who say what the test tells them to."""

    def __init__(self, database, **settings):
        self.database, self.said = database, 0
        self.by = database.write(lambda c: people.create_account(c, "boss", role="admin", now=0.0)).id
        self.config = ProjectConfig.model_validate({"kind": "comparison", "gold_share": 0.0, **settings})
        self.project = database.write(lambda c: administration.make_project(c, self.by, "P", self.config, now=0.0))
        self.ids = {}

    def publish(self, *new):
        self.database.write(lambda c: administration.publish(c, self.by, self.project, new, now=0.0))

    def join(self, *names):
        for name in names:
            self.ids[name] = self.database.write(lambda c, n=name: people.create_account(c, n, now=0.0)).id
            self.database.write(
                lambda c, n=name: administration.set_member(
                    c, self.by, self.project.id, self.ids[n], "annotator", now=0.0
                )
            )

    def says(self, name, verdicts, *, at=NOW - HOUR, seconds=10.0):
        """`verdicts`: by key of item, the place of the better answer, None for a tie."""

        def job(connection):
            keys = {id: key for key, id in reports.find_items(connection, self.project.id, list(verdicts)).items()}
            while tasks := queue.claim(connection, self.project.id, self.ids[name], now=at):
                task = tasks[0]
                place = verdicts[keys[task.item]]
                choice = None if place is None else task.asked.order.index(place)
                answer = {"choice": choice, **({} if place is None else {"strength": "better"})}
                labels.submit(
                    connection,
                    task.ticket,
                    task.account,
                    uid=f"u-{task.ticket}",
                    answer=answer,
                    seconds=seconds,
                    now=at,
                )

        self.database.write(job)

    def figures(self, now=NOW):
        def job(connection):
            remaining = reports.progress(connection, self.project.id).needed
            return figures(read_judged(connection, self.project), self.config, remaining=remaining, now=now)

        return self.database.read(job)


@pytest.fixture
def database(database_url):
    migrate(database_url)
    with open_store(database_url) as database:
        yield database


def test_figures_of_two_people_by_hand(database):
    team = Team(database, overlap=2)
    team.publish(*(item(f"q{n}") for n in range(4)))
    team.join("ann", "bob")
    team.says("ann", {"q0": 0, "q1": 0, "q2": 1, "q3": 1}, at=NOW - 2.5 * DAY, seconds=10.0)
    team.says("bob", {"q0": 0, "q1": 1, "q2": 1, "q3": 1}, at=NOW - HOUR / 2, seconds=30.0)
    found = team.figures()
    assert found.labels == 8
    assert found.agreement.percent.value == 0.75 and found.agreement.percent.of == 4
    # 8 votes: 3 for the first, 5 for the second; one unit differs. alpha = 1 - (8 - 1) * 2 / (2 * 3 * 5)
    assert found.agreement.nominal.value == pytest.approx(1 - 7 * 2 / 30)
    assert found.agreement.pairs == ()  # of four items kappa is mostly noise
    assert [(one.name, one.labels, one.median_seconds, one.labels_an_hour) for one in found.annotators] == [
        ("ann", 4, 10.0, 360.0), ("bob", 4, 30.0, 120.0),
    ]  # fmt: skip
    assert [(one.votes) for one in found.disputed] == [{"the first is better": 1, "the second is better": 1}]
    assert found.work.a_day == (4, 0, 4) and sum(found.work.an_hour) == 4 and found.work.an_hour[-1] == 4
    assert found.work.hours == pytest.approx(160 / 3600) and found.work.remaining == 0
    assert found.work.days == 0.0
    assert found.position.share.of == 8 and not found.position.enough and found.position.needed == 783
    assert found.selection is None


def test_the_length_meter_by_hand(database):
    """Six decided comparisons of unlike length, of which the longer answer was preferred in four; ties and like lengths
    are left out. It was preferred of three of four items: each counts as one, however many judged it."""
    team = Team(database, overlap=2)
    long, short, alike = "Quite another thing.", "One thing.", "Two things"
    responses = {
        "q0": (short, long),
        "q1": (long, short),
        "q2": (short, long),
        "q3": (short, alike),
        "q4": (long, short),
    }
    team.publish(*(item(key).model_copy(update={"responses": both}) for key, both in responses.items()))
    team.join("ann", "bob")
    team.says("ann", {"q0": 1, "q1": 0, "q2": 0, "q3": 0, "q4": None})
    team.says("bob", {"q0": 1, "q1": 0, "q2": 0, "q3": 1, "q4": None})
    length = team.figures().length
    assert (length.share.value, length.share.of) == (pytest.approx(4 / 6), 6)
    assert not length.enough and not length.seen and length.needed == 783
    assert team.figures().position.share.of == 8  # like lengths say something of the place
    team.publish(*(item(f"more{n}") for n in range(20)))  # whose second answer is the longer one
    team.says("ann", {f"more{n}": 1 for n in range(20)})
    length = team.figures().length
    assert (length.share.value, length.share.of) == (pytest.approx(24 / 26), 26)
    assert length.seen and not length.enough  # so strong a pull is seen before there is data enough for a weak one


def test_what_is_undefined_says_why(database):
    team = Team(database)
    team.publish(item("q0"), item("q1"))
    empty = team.figures()
    assert empty.agreement.nominal.undefined and empty.position.share.undefined == "no comparison was decided yet"
    assert empty.work.cost_undefined == "no label was given yet" and empty.annotators == ()
    assert "whole periods" in empty.work.forecast_undefined
    team.join("ann")
    team.says("ann", {"q0": 0, "q1": 1})
    alone = team.figures()
    assert "two people" in alone.agreement.nominal.undefined
    (ann,) = alone.annotators
    assert ann.reliability.value is None and ann.reliability.undefined and "gold" in ann.gold.undefined
    assert alone.work.cost_undefined == "the hourly rate of ann is not set, and the project has no label_cost"


def test_money_by_the_hour_and_by_the_label(database):
    team = Team(database)
    team.publish(item("q0"), item("q1"))
    team.join("ann")
    team.says("ann", {"q0": 0, "q1": 1}, seconds=90.0)
    database.write(lambda c: administration.change_account(c, team.by, team.ids["ann"], {"hourly_rate": 20.0}, now=NOW))
    by_hour = team.figures().work
    assert (by_hour.cost, by_hour.cost_a_label) == (pytest.approx(1.0), pytest.approx(0.5))
    team.config = team.config.model_copy(update={"label_cost": 0.3})
    by_label = team.figures().work
    assert (by_label.cost, by_label.cost_a_label) == (pytest.approx(0.6), 0.3)


def test_gold_items_measure_people_and_nothing_else(database):
    team = Team(database, gold_share=1.0)
    team.publish(
        item("g0", gold={"choice": 0, "strength": "better"}), item("g1", gold={"choice": 1, "strength": "better"})
    )
    team.publish(item("q0"))
    team.join("ann")
    team.says("ann", {"g0": 0, "g1": 0, "q0": 0})
    found = team.figures()
    assert found.labels == 1 and found.annotators[0].gold.value == 0.5 and found.annotators[0].gold.of == 2


def test_excluded_labels_are_in_no_figure(database):
    team = Team(database, overlap=2)
    team.publish(item("q0"), item("q1"))
    team.join("ann", "bob")
    team.says("ann", {"q0": 0, "q1": 1})
    team.says("bob", {"q0": 1, "q1": 0})
    database.write(
        lambda c: administration.exclude(
            c, team.by, team.project.id, {"annotator": team.ids["bob"]}, uid="x-000001", now=NOW
        )
    )
    found = team.figures()
    assert [one.name for one in found.annotators] == ["ann"] and found.labels == 2 and found.disputed == ()


def test_whether_active_selection_pays(database):
    """The reward model prefers the first answer everywhere; people contradict it on all actively chosen items."""
    team = Team(database)
    scores = ({"mean": 1.0}, {"mean": 0.0})
    keys = [f"q{n}" for n in range(60)]
    team.publish(*(item(key, scores=scores) for key in keys))
    team.join("ann")

    def arms(connection):
        found = reports.find_items(connection, team.project.id, keys)
        rows = [
            {
                "id": id, "arm": "active" if int(key[1:]) < 30 else "random", "selection_probability": 0.5,
                "drawn_from": 60,
            }
            for key, id in found.items()
        ]  # fmt: skip
        reorder(connection, team.project, rows)

    database.write(arms)
    team.says("ann", {key: 1 if int(key[1:]) < 30 else 0 for key in keys})
    found = team.figures().selection
    assert found.verdict == "pays" and found.lift.value == 1.0 and found.lift.low > 0.7
    assert (found.active.of, found.random.of) == (30, 30)


def test_a_kind_without_votes_says_so(database):
    team = Team(database, kind="ranking")
    assert "ranking has no single verdict" in team.figures().agreement.nominal.undefined
    assert team.figures().position is None


# -- beside the requests -----------------------------------------------------------------------------------------------


def test_a_request_waits_no_longer_than_it_says_and_finds_the_figures_later():
    go_on, computed = threading.Event(), threading.Event()

    def compute(key):
        go_on.wait(60)
        computed.set()
        return f"of {key}"

    background = Background(compute)
    try:
        assert background.get("a", 1) is None
        assert background.get("a", 1) is None  # and is not computed twice
        assert background.get("a", 1, wait_seconds=3_600) is None  # one waits for it already
        go_on.set()
        assert computed.wait(60)
        background._pool.submit(lambda: None).result()  # behind it
        found = background.get("a", 1)
        assert (found.value, found.version) == ("of a", 1)
    finally:
        go_on.set()
        background.close()


def test_figures_are_computed_anew_only_when_something_changed(monkeypatch):
    calls = []
    background = Background(lambda key: calls.append(key) or len(calls))
    monkeypatch.setattr("loopwright.feedback.web.background.REST", 0)
    try:
        values = [background.get("a", version, wait_seconds=60).value for version in (1, 1, 2, 2)]
        assert values == [1, 1, 2, 2] and background.get("b", 1, wait_seconds=60).value == 3
    finally:
        background.close()


def test_what_took_long_is_not_computed_at_every_change(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("loopwright.feedback.web.background.time.time", lambda: clock[0])

    def compute(key):
        clock[0] += 3.0
        return clock[0]

    background = Background(compute)
    try:
        assert background.get("a", 1, wait_seconds=60).value == 3.0
        clock[0] += 29.0
        old = background.get("a", 2, wait_seconds=60)
        assert (old.value, old.version) == (3.0, 1)
        clock[0] += 2.0
        assert background.get("a", 2, wait_seconds=60).version == 2
    finally:
        background.close()


def test_a_failure_is_logged_and_tried_again(caplog):
    answers = [None, "found"]

    def compute(key):
        answer = answers.pop(0)
        if answer is None:
            raise RuntimeError("no figures today")
        return answer

    background = Background(compute)
    try:
        assert background.get("a", 1, wait_seconds=60) is None
        assert "figures of a cannot be computed" in caplog.text
        assert background.failed("a") and not background.failed("b")
        assert background.get("a", 1, wait_seconds=60).value == "found"
        assert not background.failed("a")
    finally:
        background.close()


def test_the_dashboard_does_not_wait_for_figures(client, world, world_app):
    go_on = threading.Event()
    real, world_app.state.figures = world_app.state.figures, Background(lambda key: go_on.wait(60))
    headers = world.headers("manager")
    try:
        page = client.get(f"/admin/projects/{world.project}", headers=headers).text
        assert "being computed" in page and "1 of 8 labels" in page
        stats = client.get(f"/api/v1/projects/{world.project}/stats", headers=headers).json()
        assert stats == {"computed": None, "seconds": None, "events_since": 0, "figures": None, "failed": False}
        assert client.get(f"/admin/projects/{world.project}/disagreements", headers=headers).status_code == 200
    finally:
        go_on.set()
        world_app.state.figures.close()
        world_app.state.figures = real


def test_a_dashboard_whose_figures_fail_says_so_and_does_not_load_itself_again(client, world, world_app):
    def fail(key):
        raise RuntimeError("no figures today")

    real, world_app.state.figures = world_app.state.figures, Background(fail)
    headers = world.headers("manager")
    try:
        world_app.state.figures.get(world.project, -1, wait_seconds=60)
        page = client.get(f"/admin/projects/{world.project}", headers=headers).text
        assert "cannot be computed" in page and "data-computing" not in page
        assert client.get(f"/api/v1/projects/{world.project}/stats", headers=headers).json()["failed"]
    finally:
        world_app.state.figures.close()
        world_app.state.figures = real


def test_figures_say_when_they_were_computed_and_how_much_came_since(client, world, world_app, database, monkeypatch):
    monkeypatch.setattr("loopwright.feedback.web.background.REST", 1e9)  # old figures stay
    monkeypatch.setattr("loopwright.feedback.web.api.stats.PATIENCE_SECONDS", 60)

    def stats():
        return client.get(f"/api/v1/projects/{world.project}/stats", headers=world.headers("manager")).json()

    first = stats()
    assert first["figures"]["labels"] == 1 and first["events_since"] == 0 and first["computed"] <= time.time()
    flag = {"uid": "a-flag-of-mine", "note": "cut off"}
    ticket = world.tickets["annotator"]
    client.post(f"/api/v1/tasks/{ticket}/flag", json=flag, headers=world.headers("annotator"))
    client.post(
        f"/api/v1/tasks/{ticket}/label",
        json={"uid": "another-uid", "answer": ANSWER},
        headers=world.headers("annotator"),
    )
    second = stats()
    assert second["events_since"] == 2 and second["figures"] == first["figures"]
    assert "2 events ago" in client.get(f"/admin/projects/{world.project}", headers=world.headers("manager")).text


# -- drawings ----------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def parsed(markup):
    return ElementTree.fromstring(str(markup).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_bars_are_as_tall_as_their_values_and_described():
    drawn = parsed(plots.bars([plots.Bar("a", 2, "two"), plots.Bar("", 4, "four")], title="T", description="D"))
    assert drawn.find(f"{SVG}title").text == "T" and drawn.find(f"{SVG}desc").text == "D"
    ids = drawn.attrib["aria-labelledby"].split()
    assert ids == [drawn.find(f"{SVG}title").attrib["id"], drawn.find(f"{SVG}desc").attrib["id"]]
    low, high = (float(bar.attrib["height"]) for bar in drawn.findall(f"{SVG}rect"))
    assert high == pytest.approx(2 * low, rel=0.01)
    assert [bar.find(f"{SVG}title").text for bar in drawn.findall(f"{SVG}rect")] == ["two", "four"]


@pytest.mark.parametrize("data", [[], [plots.Bar("", 0, "none")], [plots.Bar("", 1e7, "many")]])
def test_bars_of_nothing_and_of_much_stay_inside(data):
    drawn = parsed(plots.bars(data, title="T", description="D"))
    height = float(drawn.attrib["viewBox"].split()[3])
    assert all(
        0 <= float(bar.attrib["y"]) <= height and float(bar.attrib["height"]) >= 0 for bar in drawn.iter(f"{SVG}rect")
    )


def test_an_interval_reaches_from_low_to_high_and_what_is_undefined_says_why():
    rows = [plots.Range("ann", 0.5, 0.25, 1.0, "half"), plots.Range("bob", None, None, None, "undefined: no labels")]
    drawn = parsed(plots.intervals(rows, title="T", description="D", mark=0.5))
    (line,) = (one for one in drawn.iter(f"{SVG}line") if one.attrib["class"] == "range")
    (dot,) = drawn.iter(f"{SVG}circle")
    low, value, high = float(line.attrib["x1"]), float(dot.attrib["cx"]), float(line.attrib["x2"])
    assert (value - low) / (high - low) == pytest.approx(1 / 3, rel=0.01)
    assert any(text.text == "undefined: no labels" for text in drawn.iter(f"{SVG}text"))


def test_names_cannot_break_out_of_a_drawing():
    name = "<script>x</script>&\"'"
    drawn = parsed(plots.intervals([plots.Range(name, 0.5, 0.4, 0.6, name)], title=name, description=name))
    assert drawn.find(f"{SVG}title").text == name
    assert not list(drawn.iter(f"{SVG}script"))
    assert "<script" not in str(plots.bars([plots.Bar(name, 1, name)], title=name, description=name))
    assert "<script" not in str(plots.progress(0.5, name))
