"""`loopwright feedback project | token | invite | stats | agree | simulate`, and import and export of a project."""

import json
import stat
import time
from pathlib import Path

import pytest

from loopwright.data.readers import write_records
from loopwright.feedback.client import FeedbackClient
from loopwright.feedback.store import reports
from loopwright.feedback.store.migrate import open_store
from loopwright.feedback.store.people import accept, open_invitation
from loopwright.schemas import Prompt
from loopwright.worlds import WORLDS
from tests.cli.test_cli import call
from tests.feedback.web.people import Office

ROWS = [{"prompt": f"Q{number}", "chosen": "A", "rejected": "B"} for number in range(3)]


@pytest.fixture
def office(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Office(tmp_path) as office:
        yield office


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*arguments):
        status, out, err = call(monkeypatch, capsys, "feedback", *arguments)
        assert status == 0, err
        return out

    return run


@pytest.fixture
def refused(monkeypatch, capsys):
    def run(*arguments):
        status, out, err = call(monkeypatch, capsys, "feedback", *arguments)
        assert (status, out) == (1, "")
        return err

    return run


def test_a_team_starts_from_the_command_line(office, cli, refused):
    Path("settings.yaml").write_text("overlap: 2\ngold_share: 0\n")
    Path("guide.md").write_text("Be fair.")
    said = cli(
        "project", "create", "desk", "--kind", "comparison", "--settings", "settings.yaml", "--guideline", "guide.md"
    )
    assert said == "project desk asks for a comparison, of 2 people an item\n"
    assert "there is a project desk already" in refused("project", "create", "desk", "--kind", "thumb")
    assert "unknown key overlpa" in _with("overlpa: 2\n", refused)

    cli("token", "create", "runs", "--project", "desk", "--out", "token")
    assert stat.S_IMODE(Path("token").stat().st_mode) == 0o600
    token = Path("token").read_text().strip()
    with FeedbackClient(office.url, token=token) as client:
        assert [project.name for project in client.projects()] == ["desk"]
    shown = cli("token", "create", "runs", "--scope", "label").strip()
    assert shown.startswith("lwf_") and shown != token
    assert "no administrator" in refused("token", "create", "runs", "--scope", "admin")

    links = cli("invite", "--project", "desk", "--count", "2", "--url", office.url).splitlines()
    with open_store(office.store) as database:
        for link in links:
            secret = link.removeprefix(f"{office.url}/invitation/")
            assert database.read(lambda c, s=secret: open_invitation(c, s, now=0.0)).role == "annotator"
    assert "there is no project nowhere" in refused("invite", "--project", "nowhere")


def _with(settings, refused):
    Path("wrong.yaml").write_text(settings)
    return refused("project", "create", "other", "--kind", "comparison", "--settings", "wrong.yaml")


def test_records_go_into_a_project_and_what_people_said_comes_out(office, cli, refused):
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    project, (one, two) = office.open_project("desk", labelers=2, overlap=2)
    assert "say where it goes" in refused("import", "trl", "rows.jsonl")
    assert "say where it goes" in refused("import", "trl", "rows.jsonl", "--project", "desk", "--out", "x")
    afresh = ("import", "trl", "rows.jsonl", "--project", "desk", "--without-labels")
    assert cli(*afresh).splitlines() == ["comparisons.jsonl: 3", "project desk: 3 new items, 0 were there"]
    assert json.loads(cli(*afresh, "--json"))["known"] == 3

    assert "there are no comparisons yet" in refused(
        "export", "trl-preference", "--project", "desk", "--out", "x.jsonl"
    )
    for person, better in ((one, "A"), (two, "A")):
        with office.client(person.token) as labeler:
            while tasks := labeler.tasks(project).tasks:
                choice = tasks[0].answers.index(better)
                labeler.label(tasks[0].ticket, {"choice": choice, "strength": "better"}, seconds=5)
    cli("export", "trl-preference", "--project", "desk", "--out", "said.jsonl")
    rows = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert "A" in str(rows[0]["chosen"]) and "B" in str(rows[0]["rejected"])
    assert "makes comparisons and corrections" in refused(
        "export", "trl-preference", "--project", "desk", "--kind", "ratings", "--out", "y.jsonl"
    )
    assert "--kind comparisons has no effect on a file" in refused(
        "export", "trl-preference", "rows.jsonl", "--kind", "comparisons", "--out", "y.jsonl"
    )

    assert "desk: 6 of 6 labels of 3 items, 0 flagged" in cli("stats", "--project", "desk")
    figures = json.loads(cli("stats", "--project", "desk", "--json"))
    assert (figures["progress"]["labels"], figures["labels"]) == (6, 6)
    agreement = json.loads(cli("agree", "--project", "desk", "--json"))
    assert agreement["percent"]["value"] == 1.0
    assert cli("agree", "--project", "desk").startswith("percent agreement: 1.000 [")


def test_what_the_store_makes_no_effect_on_is_refused(office, refused):
    assert "--store has no effect without --project" in refused(
        "import", "trl", "rows.jsonl", "--out", "x", "--store", office.store
    )
    assert "--without-labels has no effect" in refused("import", "trl", "rows.jsonl", "--out", "x", "--without-labels")


def test_power_safe_is_told_to_the_store(refused, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("init")
    assert "--power-safe is SQLite's" in refused("serve", "--store", "postgresql:///x", "--port", "0", "--power-safe")


def test_labels_of_another_tool_come_with_their_annotators(office, cli, refused):
    """Two people of Label Studio agree on one answer and not on another; one of their annotations is of no use."""

    def task(id, *said):
        results = [[{"type": "pairwise", "value": {"selected": selected}}] for _, selected in said]
        notes = [
            {
                "id": number,
                "completed_by": who,
                "lead_time": 9.0,
                "created_at": "2023-04-17T21:54:20Z",
                "result": result,
            }
            for number, ((who, _), result) in enumerate(zip(said, results, strict=True))
        ]
        return {"id": id, "data": {"prompt": f"Q{id}", "answer1": "Yes.", "answer2": "No."}, "annotations": notes}

    tasks = [task(1, ("ann", "left"), ("bob", "left")), task(2, ("ann", "left"), ("bob", "right"), ("ann", "right"))]
    Path("tasks.json").write_text(json.dumps(tasks))
    project, people = office.open_project("desk", labelers=1, overlap=2)
    there = ("import", "label-studio", "tasks.json", "--project", "desk", "--max-bad-share", "0.5")
    assert cli(*there).splitlines() == [
        "comparisons.jsonl: 5",
        "project desk: 2 new items, 0 were there",
        "project desk: 4 new labels, imported; 0 were there",
        "1 records bring nothing, listed in tasks.json.bad_labels.jsonl",
    ]
    (bad,) = [json.loads(line) for line in Path("tasks.json.bad_labels.jsonl").read_text().splitlines()]
    assert (bad["path"], bad["line"]) == ("tasks.json", 2) and "in an earlier row" in bad["reason"]
    again = json.loads(cli(*there, "--json"))
    assert (again["new"], again["known"], again["labels"], again["labels_known"]) == (0, 2, 0, 4)

    cli("export", "loopwright", "--project", "desk", "--out", "said.jsonl")
    said = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    names = {f"imported:label-studio/{who}" for who in ("ann", "bob")}
    assert {one["annotator"] for one in said} == names
    assert {one["created"] for one in said} == {"2023-04-17T21:54:20.000+00:00"} and said[0]["seconds"] == 9.0
    assert [one["responses"][one["choice"]] for one in said] == ["Yes.", "Yes.", "Yes.", "No."]
    assert "desk: 4 of 4 labels of 2 items, 0 flagged, 4 imported" in cli("stats", "--project", "desk")
    assert json.loads(cli("agree", "--project", "desk", "--json"))["percent"]["value"] == 0.5
    with office.client(people[0].token) as labeler:
        assert labeler.tasks(project).tasks == ()  # each item has the two labels it needs
    assert "nobody can work as them" in refused("token", "create", "imported:label-studio/ann", "--project", "desk")


def test_an_import_that_is_mostly_bad_changes_nothing(office, cli, refused):
    Path("rows.jsonl").write_text("".join(json.dumps({**row, "annotator": "ai:judge"}) + "\n" for row in ROWS))
    office.open_project("desk")
    there = ("import", "columns", "rows.jsonl", "--project", "desk")
    error = refused(*there)
    assert "rows.jsonl:1: a model said it, which counts as no person; 3 of 3 rows are bad" in error
    assert "0 items" in cli("stats", "--project", "desk")


def test_simulated_annotators_label_at_the_server(office, cli, refused):
    prompts = list(WORLDS["front_desk"].prompts("train", 0, 4))
    write_records(Path("prompts.jsonl"), prompts)
    rows = [{"prompt": one.messages[-1].content, "chosen": "At noon.", "rejected": "I do not know."} for one in prompts]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    office.open_project("desk", overlap=2)
    cli("import", "trl", "rows.jsonl", "--project", "desk", "--without-labels")
    there = ("--project", "desk", "--prompts", "prompts.jsonl", "--url", office.url)
    assert cli("simulate", *there, "--annotators", "3") == "8 labels of 3 simulated annotators\n"
    assert cli("simulate", *there, "--annotators", "3") == "0 labels of 3 simulated annotators\n"  # the same people
    assert "--world nowhere: unknown" in refused("simulate", *there, "--world", "nowhere")
    assert Prompt.model_validate(prompts[0]).tags


def test_init_invites_an_administrator_only_where_there_is_none(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    at = ("--store", f"sqlite:///{tmp_path}/new.db")
    secret = cli("init", *at).strip().rsplit("/", 1)[1]
    with open_store(at[1]) as database:
        database.write(lambda c: accept(c, secret, "boss", "a hash", now=time.time()))
        (noted,) = database.read(lambda c: reports.list_audits(c))
        assert (noted.name, noted.action, noted.about["role"]) == (None, "invited", "admin")
    assert "invitation" not in cli("init", *at)
    assert "/invitation/" in cli("init", *at, "--invite")
    with open_store(at[1]) as database:
        assert len(database.read(lambda c: reports.open_invitations(c, None, now=time.time()))) == 1
