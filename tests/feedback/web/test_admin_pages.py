"""Managers' pages: what they show of what people wrote, what forms say, what the policy of the page forbids."""

import re
from pathlib import Path

import pytest

from loopwright.feedback.kinds import FORMS
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import administration, labels, people
from loopwright.feedback.web import project_form
from loopwright.feedback.web.rendering import HERE
from tests.feedback.web.table_of_routes import PAGE, ROUTES
from tests.feedback.web.world import PASSWORD, item

HOSTILE = "<script>window.__xss = 1</script><img src=x onerror=alert(1)>\"'"


@pytest.fixture
def ask(client, world):
    def ask(method, path, caller="manager", **more):
        path = path.format(project=world.project, item=world.item)
        return client.request(method, path, headers=world.headers(caller), **more)

    return ask


def test_what_others_wrote_is_text_on_every_page(client, world, ask, database):
    """Names, keys, prompts, answers, notes, tags, batches, guidelines, artifacts, searches."""
    by, project = world.ids["admin"], world.project

    def job(connection):
        account = people.create_account(connection, HOSTILE, now=1.0)
        administration.set_member(connection, by, project, account.id, "annotator", now=1.0)
        found = administration.projects.get_project(connection, project)
        new = item(HOSTILE, tags={HOSTILE: HOSTILE}, policy=HOSTILE, reward_model=HOSTILE)
        administration.publish(connection, by, found, [new], batch=HOSTILE, now=1.0)
        administration.write_guideline(connection, by, project, HOSTILE, now=1.0)
        administration.register_artifact(
            connection, account.id, project, HOSTILE, HOSTILE[:40], parents={HOSTILE: HOSTILE},
            made_from=["label-0001"], where=HOSTILE, now=1.0,
        )  # fmt: skip
        labels.flag(
            connection, world.tickets["annotator"], world.ids["annotator"], uid="flag-0001", note=HOSTILE, now=1.0
        )
        return administration._items(connection, found, [HOSTILE])[HOSTILE]

    new = database.write(job)
    pages = [
        route[1] for route, row in ROUTES.items() if route[0] == "GET" and row.status == PAGE and "admin" in route[1]
    ]
    texts = [ask("GET", path, "admin").text for path in [*pages, f"/admin/projects/{{project}}/items/{new}"]]
    texts.append(ask("GET", "/admin/projects/{project}/items", params={"text": HOSTILE, "batch": HOSTILE}).text)
    assert sum("&lt;script&gt;" in text for text in texts) >= 7
    for text in texts:
        assert "<script>" not in text and "onerror=alert(1)>" not in re.sub(r"&\w+;", "", text).replace("&lt;", "")
        assert "<img" not in text


def test_pages_have_no_script_or_style_in_them():
    """The policy of the page would stop it: it would do nothing."""
    for file in Path(HERE, "templates").glob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:|\|\s*safe\b", text), file.name
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text) if "application/json" not in tag), (
            file.name
        )
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text), file.name


def test_a_form_says_what_is_wrong_beside_the_field_and_keeps_the_rest(ask):
    form = {"name": "New", "overlap": "two", "criteria": "honest", "gold_share": "1.5", "question": "Which?"}
    reply = ask("POST", "/admin/new", "admin", params={"kind": "comparison"}, data=form)
    assert reply.status_code == 422
    assert "“two” is no whole number" in reply.text and "lacks its definition" in reply.text
    assert 'value="Which?"' in reply.text and 'aria-errormessage="e-overlap"' in reply.text
    form |= {"overlap": "2", "criteria": ""}
    reply = ask("POST", "/admin/new", "admin", params={"kind": "comparison"}, data=form)
    assert "less than or equal to 1" in reply.text and 'aria-errormessage="e-gold_share"' in reply.text
    taken = ask("POST", "/admin/new", "admin", params={"kind": "comparison"}, data={"name": "B"})
    assert taken.status_code == 422 and "choose another name" in taken.text
    responder = ask("POST", "/admin/new", "admin", params={"kind": "chat"}, data={"name": "C"})
    assert "name its responder" in responder.text


@pytest.mark.parametrize("kind", FORMS)
def test_what_a_form_shows_is_what_it_reads(kind):
    first = project_form.first_values(kind) | ({"responder": "r"} if kind in ("chat", "red_team") else {})
    if kind == "spans":
        first["span_labels"] = "wrong\nrude"
    config, errors = project_form.read(kind, first)
    assert not errors
    assert project_form.values_of(config) == first
    assert project_form.read(kind, project_form.values_of(config))[0] == config


def test_every_setting_has_its_field():
    assert {field.name for field in project_form.FIELDS} == set(ProjectConfig.model_fields) - {"kind"}


def test_a_form_s_settings_by_hand():
    form = {
        "scale": "1 to 7", "criteria": "Honest: True.\nkind to all: Gentle: always.", "checks": " Rude \n\n",
        "overlap": "3", "higher_is_better": "yes", "label_cost": "0.25", "not_asked": "x",
    }  # fmt: skip
    config, errors = project_form.read("rating", form)
    assert not errors and config.scale == (1, 7) and config.checks == ("Rude",) and config.label_cost == 0.25
    assert [(one.name, one.definition) for one in config.criteria] == [
        ("honest", "True."),
        ("kind_to_all", "Gentle: always."),
    ]
    lines = "honest: True.\nrude (low is good): It insults.\nkind (high is good): Gentle: always."
    config, errors = project_form.read("rating", {"criteria": lines})
    assert not errors and [one.higher_is_better for one in config.criteria] == [None, False, True]
    assert project_form.values_of(config)["criteria"] == lines
    assert project_form.read("rating", {})[0].higher_is_better is False  # a box that is not ticked sends nothing
    assert "no scale" in project_form.read("rating", {"scale": "seven"})[1]["scale"]


def test_settings_that_would_change_what_labels_mean_are_refused_in_words(ask):
    fine = ask("POST", "/admin/projects/{project}/settings", data={"overlap": "4", "question": "Which?"})
    assert fine.status_code == 303
    shown = ask("GET", "/admin/projects/{project}/settings").text
    assert 'value="4"' in shown and 'value="Which?"' in shown
    wrong = ask("POST", "/admin/projects/{project}/state", data={"state": "broken"})
    assert wrong.status_code == 422 and "open, paused, closed" in wrong.text


def test_a_link_cannot_put_words_into_our_mouth(ask):
    assert "Saved." in ask("GET", "/admin?said=saved").text
    assert "you were robbed" not in ask("GET", "/admin?said=you+were+robbed").text


def test_what_is_shown_once_is_shown_once(ask, world):
    token = ask("POST", "/account/tokens", data={"name": "t", "scope_read": "yes"}).text
    secret = re.search(r"lwf_[\w-]+", token).group()
    assert secret not in ask("GET", "/account").text
    invitation = ask("POST", "/admin/projects/{project}/people/invite", data={"role": "annotator"}).text
    link = re.search(r"http://labels\.test/invitation/[\w-]+", invitation).group()
    assert link not in ask("GET", "/admin/projects/{project}/people").text


def test_accounts_are_changed_by_form_and_only_who_may_less_is_logged_out(ask, client, world):
    path = f"/admin/people/{world.ids['annotator']}"
    form = {"role": "annotator", "skills": "law, medicine, law", "hourly_rate": "21.5"}
    assert ask("POST", path, "admin", data=form).status_code == 303
    shown = ask("GET", "/admin/people", "admin").text
    assert 'value="law, medicine"' in shown and 'value="21.5"' in shown
    assert ask("GET", "/account", "annotator").status_code == 200  # still in
    assert ask("POST", path, "admin", data={**form, "disabled": "yes"}).status_code == 303
    assert ask("GET", "/account", "annotator").status_code == 303
    for wrong, told in ({"hourly_rate": "much"}, "number"), ({"skills": "<b>"}, "pattern"):
        reply = ask("POST", path, "admin", data={**form, **wrong})
        assert reply.status_code == 422 and told in reply.text


def test_gold_is_set_in_the_form_s_words_or_refused_in_ours(ask):
    path = "/admin/projects/{project}/items/{item}/gold"
    for wrong in ("[1]", "{", '{"choice": 7}', "[" * 5_000):
        reply = ask("POST", path, data={"gold": wrong})
        assert reply.status_code == 422 and 'class="problem"' in reply.text
    assert ask("POST", path, data={"gold": '{"choice": 0, "strength": "better"}'}).status_code == 303
    assert "It is no gold item" in ask("GET", "/admin/projects/{project}/items/{item}").text
    assert ask("POST", path, data={"gold": ""}).status_code == 303


def test_an_item_shows_who_said_what_in_the_words_of_their_screen(ask, world, database):
    (said,) = database.read(
        lambda c: labels.history(c, administration.projects.get_project(c, world.project), world.ids["spare"])
    )
    page = ask("GET", f"/admin/projects/{{project}}/items/{said.item}").text
    ordinal = ("first", "second")[said.asked.order[0]]
    assert f"A, the {ordinal} answer" in page and "spare" in page and "12 s" in page


def test_an_upload_without_a_file_is_told_so(ask, world):
    reply = ask("POST", f"/uploads/{world.project}/items", files={"other": ("x", b"")})
    assert reply.status_code == 422 and "Choose a file" in reply.text


def test_a_page_that_is_not_there_is_no_dead_end(ask):
    for path in ("/admin/projects/none", "/admin/projects/{project}/items/999999", "/nowhere"):
        reply = ask("GET", path)
        assert reply.status_code == 404 and 'href="/"' in reply.text


def test_who_comes_without_a_session_is_led_to_the_log_in_and_in(client, world):
    assert client.get("/admin").headers["location"] == "/login"
    reply = client.post(
        "/login", data={"name": "manager", "password": PASSWORD}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert reply.headers["location"] == "/"


def test_a_conversations_project_has_no_items_to_get_through(client, world):
    """Its labels come as people talk: there is no share of them that is done."""
    for path in ("/admin", f"/admin/projects/{world.chat}"):
        text = client.get(path, headers=world.headers("admin")).text
        assert "People talk with parrot, and judge its answers" in text and "0 of 0 labels" not in text
