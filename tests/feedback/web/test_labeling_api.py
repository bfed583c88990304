"""The labelers' API: blind, idempotent, and each one's own."""

import time

import pytest
from starlette.testclient import TestClient

from loopwright.feedback.store.labels import submit
from loopwright.feedback.store.lineage import register
from loopwright.feedback.store.queue import claim
from tests.feedback.web.labeling import ANSWERS, KINDS, RESPONSES, item, labeling_ground

UNTOLD = (  # what no reply may hold before a label is given, or after
    "policy-that-nobody-sees", "reward-model-that-nobody-sees", "tag-that-nobody-sees", "0.12345", "1.12345",
    "secret reason", "selection_probability", "gold", "overlap", "seed",
)  # fmt: skip


@pytest.fixture
def ground(tmp_path):
    with labeling_ground(tmp_path) as ground:
        yield ground


class Browser:
    """The requests of one person's browser, and every reply."""

    def __init__(self, ground, name, **account):
        cookies = {"session": ground.cookies.get(name) or ground.person(name, **account)}
        self.client = TestClient(ground.app, base_url=ground.url, cookies=cookies)
        self.client.headers["sec-fetch-site"] = "same-origin"
        self.heard = []

    def ask(self, method, path, body=None, *, status=200):
        reply = self.client.request(method, path, json=body)
        self.heard.append(reply.text)
        assert reply.status_code == status, reply.text
        return reply.json() if "json" in reply.headers["content-type"] else reply.text


def path_of(ground, name):
    return f"/api/v1/projects/{ground.projects[name].id}"


def first_task(ground, browser, name, **wanted):
    return browser.ask("POST", f"{path_of(ground, name)}/tasks", wanted)["tasks"][0]


GIVEN = {
    "comparison": {"choice": 0, "strength": "better"},
    "ranking": {"ranks": [1, 2, 2, 4]},
    "rating": {"scores": {"helpful": 3, "honest": 2, "harmless": 1}},
    "thumb": {"good": True},
    "demonstration": {"response": "Like this."},
    "correction": {"chosen": 0, "edited": "Like this."},
    "spans": {"spans": [{"start": 0, "end": 2, "label": "repeats"}]},
}


@pytest.mark.parametrize("kind", GIVEN)
def test_no_reply_tells_what_a_labeler_must_not_know(ground, kind):
    """Gold answers, scores, who wrote what, and what another labeler said: in no byte of any reply."""
    count = RESPONSES[KINDS[kind]["kind"]]
    if kind in ("demonstration", "correction"):  # of which there are no gold items: two people get the same one
        ground.project(kind, items=[item("known", count)], overlap=2)
    else:
        gold = {**GIVEN[kind], "reason": "secret reason"}
        ground.project(kind, items=[item("known", count, gold=gold)], gold_share=1.0)
    other, ada = Browser(ground, "other"), Browser(ground, "ada")
    theirs = first_task(ground, other, kind)
    said = {"uid": "u-of-other-1", "answer": {**GIVEN[kind], "reason": "secret reason"}, "seconds": 3}
    other.ask("POST", f"/api/v1/tasks/{theirs['ticket']}/label", said)
    task = first_task(ground, ada, kind, html=True, tasks=2)
    ticket = f"/api/v1/tasks/{task['ticket']}"
    ada.ask("GET", f"/projects/{ground.projects[kind].id}/work")
    ada.ask("GET", ticket)
    if len(task["answers"]) > 1:
        ada.ask("GET", f"{ticket}/difference")
    ada.ask("PUT", f"{ticket}/draft", {"draft": {"reason": "mine"}})
    for what in ("history", "guideline", "progress?since=0"):
        ada.ask("GET", f"{path_of(ground, kind)}/{what}")
    ada.ask("POST", f"{ticket}/label", {"uid": "u-of-ada-01", "answer": GIVEN[kind]})
    ada.ask("GET", f"{path_of(ground, kind)}/history")
    heard = "\n".join(ada.heard)
    assert [word for word in UNTOLD if word in heard] == []
    assert theirs["ticket"] not in heard and "u-of-other-1" not in heard


def test_a_task_shows_the_texts_as_safe_html_where_it_is_asked_to(ground):
    texts = ("**bold** <b>x</b>", "plain")
    ground.project("comparison", items=[item("a", 2, responses=texts)])
    ada = Browser(ground, "ada")
    assert first_task(ground, ada, "comparison")["html"] is None
    task = first_task(ground, ada, "comparison", html=True)
    shown = {one["raw"]: one["rendered"] for one in task["html"]["answers"]}
    assert shown["plain"].strip() == '<p dir="auto">plain</p>'
    assert shown["**bold** &lt;b&gt;x&lt;/b&gt;"].startswith('<p dir="auto"><strong>bold</strong> &lt;b&gt;')
    difference = ada.ask("GET", f"/api/v1/tasks/{task['ticket']}/difference")
    assert {"<del>plain</del>", "<ins>plain</ins>"} & set(difference.values())
    ada.ask("GET", f"/api/v1/tasks/{task['ticket']}/difference?second=2", status=404)


def test_the_same_uid_again_changes_nothing(ground):
    ground.project("thumb")
    ada = Browser(ground, "ada")
    tickets = [task["ticket"] for task in ada.ask("POST", f"{path_of(ground, 'thumb')}/tasks", {"tasks": 2})["tasks"]]
    for _ in range(2):
        given = {"uid": "once-and-once", "answer": {"good": True}}
        assert ada.ask("POST", f"/api/v1/tasks/{tickets[0]}/label", given) == {"label": "once-and-once", "late": False}
    for _ in range(2):
        ada.ask("POST", f"/api/v1/tasks/{tickets[1]}/skip", {"uid": "skipped-once", "reason": "broken_text"})
    for _ in range(2):
        ada.ask("POST", f"/api/v1/tasks/{tickets[0]}/flag", {"uid": "flagged-once", "note": "cut off"})
    for _ in range(2):
        ada.ask("POST", "/api/v1/labels/once-and-once/undo", {"uid": "taken-back-1"})
    assert [event.type for event in ground.events()] == ["label", "skip", "flag", "undo"]


def test_a_label_after_the_task_ran_out_is_kept_and_said_to_be_late(ground):
    project = ground.project("thumb", items=[item("one", 1)])
    ada = Browser(ground, "ada")
    task = first_task(ground, ada, "thumb")
    ground.person("bob")

    def elsewhere(connection):
        hour = time.time() + 3_600
        (again,) = claim(connection, project.id, ground.accounts["bob"], now=hour)
        submit(connection, again.ticket, again.account, uid="of-bob-0001", answer={"good": False}, seconds=1, now=hour)

    ground.database.write(elsewhere)
    kept = ada.ask("PUT", f"/api/v1/tasks/{task['ticket']}/draft", {"draft": {"good": True}})
    assert kept == {"seconds_left": 0.0}
    reply = ada.ask("POST", f"/api/v1/tasks/{task['ticket']}/label", {"uid": "of-ada-0001", "answer": {"good": True}})
    assert reply["late"]


def test_drafts_come_back_and_are_nobody_elses(ground):
    ground.project("thumb")
    ada, bob = Browser(ground, "ada"), Browser(ground, "bob")
    task = first_task(ground, ada, "thumb")
    path = f"/api/v1/tasks/{task['ticket']}"
    assert ada.ask("PUT", f"{path}/draft", {"draft": {"good": True}})["seconds_left"] > 1_700
    assert first_task(ground, ada, "thumb")["draft"] == {"good": True}
    for method, what, body in (
        ("GET", "", None),
        ("GET", "/difference", None),
        ("PUT", "/draft", {"draft": {}}),
        ("POST", "/label", {"uid": "of-bob-0001", "answer": {"good": True}}),
        ("POST", "/skip", {"uid": "of-bob-0001", "reason": "upsetting"}),
        ("POST", "/flag", {"uid": "of-bob-0001", "note": "n"}),
    ):
        bob.ask(method, path + what, body, status=409)
    assert ground.events() == []


@pytest.mark.parametrize(
    "draft",
    [
        '{"reason": "\\ud83d"}', '{"seconds": NaN}', '{"seconds": 1e999}', '{"a": ' * 400 + "1" + "}" * 400,
    ],
    ids=["half a character", "NaN", "infinity", "deep"],
)  # fmt: skip
def test_a_draft_that_could_never_be_sent_back_is_refused(ground, draft):
    ground.project("thumb")
    ada = Browser(ground, "ada")
    path = f"/api/v1/tasks/{first_task(ground, ada, 'thumb')['ticket']}/draft"
    reply = ada.client.put(path, content=f'{{"draft": {draft}}}', headers={"content-type": "application/json"})
    assert reply.status_code == 422
    assert first_task(ground, ada, "thumb")["draft"] is None


def test_undo_opens_the_task_with_the_answer_and_history_can_be_changed(ground):
    ground.project("comparison")
    ada = Browser(ground, "ada")
    ticket = first_task(ground, ada, "comparison")["ticket"]
    path = f"/api/v1/tasks/{ticket}/label"
    ada.ask("POST", path, {"uid": "label-one", "answer": GIVEN["comparison"], "seconds": 12.5})
    (past,) = ada.ask("GET", f"{path_of(ground, 'comparison')}/history")["labels"]
    assert (past["ticket"], past["seconds"], past["frozen"]) == (ticket, 12.5, False)
    assert past["answer"] == GIVEN["comparison"]
    ada.ask("POST", path, {"uid": "label-two", "answer": {"choice": None, "both_bad": True}})
    (past,) = ada.ask("GET", f"{path_of(ground, 'comparison')}/history")["labels"]
    assert past["answer"] == {"choice": None, "both_bad": True}
    ada.ask(
        "POST", "/api/v1/labels/label-one/undo", {"uid": "undo-0001"}, status=409
    )  # it is the newer one that counts
    assert ada.ask("POST", "/api/v1/labels/label-two/undo", {"uid": "undo-0002"}) == {"ticket": ticket}
    task = ada.ask("GET", f"/api/v1/tasks/{ticket}")
    assert task["draft"] == {"choice": None, "both_bad": True}
    assert ada.ask("GET", f"{path_of(ground, 'comparison')}/history") == {"labels": []}


def test_a_label_that_something_was_made_from_is_frozen(ground):
    ground.project("thumb")
    ada = Browser(ground, "ada")
    path = f"/api/v1/tasks/{first_task(ground, ada, 'thumb')['ticket']}/label"
    ada.ask("POST", path, {"uid": "label-one", "answer": {"good": True}})
    (event,) = ground.events()
    ground.database.write(
        lambda connection: register(connection, "rm-1", "reward_model", {}, labels=[event.id], now=time.time())
    )
    (past,) = ada.ask("GET", f"{path_of(ground, 'thumb')}/history")["labels"]
    assert past["frozen"]
    ada.ask("POST", path, {"uid": "label-two", "answer": {"good": False}}, status=409)


def test_progress_is_ones_own(ground):
    ground.project("thumb")
    ada, bob = Browser(ground, "ada"), Browser(ground, "bob")
    path = f"{path_of(ground, 'thumb')}/progress"
    assert ada.ask("GET", f"{path}?since=0") == {"today": 0, "project": 0, "seconds": None}
    for number, seconds in enumerate((10, 40, 12)):
        ticket = first_task(ground, ada, "thumb")["ticket"]
        given = {"uid": f"of-ada-{number}", "answer": {"good": True}, "seconds": seconds}
        ada.ask("POST", f"/api/v1/tasks/{ticket}/label", given)
    assert ada.ask("GET", f"{path}?since=0") == {"today": 3, "project": 3, "seconds": 12.0}
    assert ada.ask("GET", f"{path}?since={time.time() + 60}") == {"today": 0, "project": 3, "seconds": 12.0}
    assert bob.ask("GET", f"{path}?since=0")["project"] == 0


def test_a_new_guideline_must_be_read_before_there_are_tasks(ground):
    project = ground.project("thumb", guideline="Be **fair**.")
    ada = Browser(ground, "ada")
    path = path_of(ground, "thumb")
    assert ada.ask("POST", f"{path}/tasks", {}) == {"tasks": [], "new_guideline": 1}
    shown = ada.ask("GET", f"{path}/guideline")
    assert (shown["version"], shown["seen"]) == (1, False) and "<strong>fair</strong>" in shown["html"]["rendered"]
    ada.ask("POST", f"{path}/guideline/seen", {"version": 2}, status=409)
    ada.ask("POST", f"{path}/guideline/seen", {"version": 1})
    task = first_task(ground, ada, "thumb")
    ground.guideline(project, "Be kind.")
    assert ada.ask("POST", f"{path}/tasks", {})["new_guideline"] == 2
    ada.ask("POST", f"{path}/guideline/seen", {"version": 2})
    ada.ask("POST", f"/api/v1/tasks/{task['ticket']}/label", {"uid": "label-one", "answer": {"good": True}})
    assert ground.events()[0].guideline == 2  # it was read before the answer was given


def test_preferences_are_kept_and_checked(ground):
    ground.project("thumb")
    ada, bob = Browser(ground, "ada"), Browser(ground, "bob")
    given = {"theme": "dark", "layout": "rows", "text": "raw", "lock": True, "keys": {"submit": "x"}}
    ada.ask("PUT", "/api/v1/preferences", given)
    assert ada.ask("GET", "/api/v1/preferences") == given
    assert bob.ask("GET", "/api/v1/preferences")["theme"] == "system"
    assert '<html lang="en" data-theme="dark">' in ada.ask("GET", f"/projects/{ground.projects['thumb'].id}/work")
    for wrong in (
        {"theme": '"><script>'},
        {"keys": {"submit": "1"}},  # digits choose
        {"keys": {"submit": "Backspace"}},
        {"keys": {"fly": "x"}},
        {"keys": {"submit": "x", "skip": "x"}},
        {"role": "admin"},
    ):
        ada.ask("PUT", "/api/v1/preferences", wrong, status=422)
    assert ada.ask("GET", "/api/v1/preferences") == given


def test_nobody_works_in_a_project_of_others(ground):
    project = ground.project("thumb")
    ada = Browser(ground, "ada")
    stranger = Browser(ground, "stranger")
    ground.leave(project, "stranger")
    for method, what, body in (
        ("POST", "tasks", {}),
        ("GET", "history", None),
        ("GET", "progress?since=0", None),
        ("GET", "guideline", None),
        ("POST", "guideline/seen", {"version": 1}),
    ):
        stranger.ask(method, f"{path_of(ground, 'thumb')}/{what}", body, status=404)
    assert first_task(ground, ada, "thumb")["answers"] == [ANSWERS[0]]


def test_projects_of_conversations_lead_to_their_own_page(ground):
    judged, talked = ground.project("thumb"), ground.project("talk", kind="chat", responder="tiny", items=[])
    ada = Browser(ground, "ada")
    shown = ada.ask("GET", "/")
    assert f'href="/projects/{judged.id}/work"' in shown and f'href="/projects/{talked.id}/chat"' in shown
    assert "/admin" not in shown
    reply = ada.client.get(f"/projects/{talked.id}/work", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, f"/projects/{talked.id}/chat")
    root = Browser(ground, "root", role="admin")
    assert 'href="/admin"' in root.ask("GET", "/")
