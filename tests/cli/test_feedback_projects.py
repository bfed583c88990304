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
    said = cli("import", "trl", "rows.jsonl", "--project", "desk")
    assert said.splitlines() == ["comparisons.jsonl: 3", "project desk: 3 new items, 0 were there"]
    assert json.loads(cli("import", "trl", "rows.jsonl", "--project", "desk", "--json"))["known"] == 3

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


def test_simulated_annotators_label_at_the_server(office, cli, refused):
    prompts = list(WORLDS["front_desk"].prompts("train", 0, 4))
    write_records(Path("prompts.jsonl"), prompts)
    rows = [{"prompt": one.messages[-1].content, "chosen": "At noon.", "rejected": "I do not know."} for one in prompts]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    office.open_project("desk", overlap=2)
    cli("import", "trl", "rows.jsonl", "--project", "desk")
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
