"""What managers and administrators do through the JSON API."""

import json
import time
from functools import partial
from urllib.parse import unquote

import pytest
from sqlalchemy import create_engine, text

from loopwright.feedback.store import administration, chain, conversations, labels, people, queue, reports
from loopwright.feedback.store.tables import audits
from loopwright.feedback.web import uploads
from loopwright.schemas import Reply
from tests.feedback.web.world import ANSWER, FROM_HERE, PASSWORD, client_of, item, make_app, opened

LINE = {"key": "k", "prompt": [{"role": "user", "content": "Hi"}], "responses": ["one", "two"]}


@pytest.fixture
def api(client, world):
    """Asks as the manager of project A, below its address."""

    class Api:
        def __call__(self, method, path, caller="manager", **more):
            return client.request(
                method, f"/api/v1/projects/{world.project}{path}", headers=world.headers(caller), **more
            )

        def ok(self, method, path, **more):
            reply = self(method, path, **more)
            assert reply.status_code < 300, reply.text
            return reply.json()

    return Api()


@pytest.fixture
def admin(client, world):
    """Asks as the administrator, below /api/v1."""

    def ask(method, path, **more):
        return client.request(method, f"/api/v1{path}", headers=world.headers("admin"), **more)

    return ask


def newest_audit(database):
    return database.read(lambda c: reports.list_audits(c, most=1))[0]


def say(database, world, who, *, answer=ANSWER, uid=None, seconds=10.0):
    """The next label of somebody in project A; its uid."""
    account, now = world.ids[who], time.time()

    def job(connection):
        task = queue.claim(connection, world.project, account, now=now)[0]
        name = uid or f"said-{task.ticket}"
        labels.submit(connection, task.ticket, account, uid=name, answer=answer, seconds=seconds, now=now)
        return name

    return database.write(job)


def lines_of(reply):
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


# -- projects ----------------------------------------------------------------------------------------------------------


def test_a_project_is_made_changed_and_listed_to_those_who_manage_it(client, world, admin, database):
    config = {"kind": "rating", "criteria": [{"name": "honest", "definition": "It is true."}], "scale": [1, 7]}
    made = admin("POST", "/projects", json={"name": "R", "config": config, "guideline": "Be fair."}).json()
    assert made["config"]["scale"] == [1, 7] and made["config"]["overlap"] == 1  # its defaults are written out
    assert newest_audit(database).action == "project made"
    listed = admin("GET", "/projects").json()["projects"]
    assert {one["name"] for one in listed} == {"A", "B", "Talk", "R"}
    managed = client.get("/api/v1/projects", headers=world.headers("manager B")).json()["projects"]
    assert [one["name"] for one in managed] == ["B"]
    again = admin("POST", "/projects", json={"name": "R", "config": config})
    assert again.status_code == 409 and "choose another name" in again.json()["error"]


def test_the_log_says_what_was_changed_from_what_to_what(api, database):
    api.ok("PATCH", "", json={"state": "paused", "config": {"kind": "comparison", "overlap": 3, "gold_share": 0.0}})
    assert newest_audit(database).about["changed"] == {"overlap": [2, 3], "state": ["open", "paused"]}
    wrong = api("PATCH", "", json={"config": {"kind": "thumb"}})
    assert wrong.status_code == 409 and "asks for a comparison" in wrong.json()["error"]


def test_guidelines_have_versions(api):
    assert api.ok("POST", "/guidelines", json={"text": "Be kind."}) == {"version": 2}
    rows = api.ok("GET", "/guidelines")["guidelines"]
    assert [(row["version"], row["text"]) for row in rows] == [(2, "Be kind."), (1, "Be fair.")]


def test_managers_change_roles_of_members_and_only_administrators_let_others_in(api, world, admin, database):
    spare = f"/members/{world.ids['spare']}"
    api.ok("PUT", spare, json={"role": "manager"})
    assert api("GET", "", caller="spare").status_code == 200
    api.ok("DELETE", spare)
    assert api("GET", "", caller="spare").status_code == 404
    assert api("PUT", spare, json={"role": "annotator"}).status_code == 409
    assert admin("PUT", f"/projects/{world.project}{spare}", json={"role": "annotator"}).status_code == 200
    assert newest_audit(database).about["member"] == world.ids["spare"]


# -- items -------------------------------------------------------------------------------------------------------------


def test_items_are_published_all_or_none_and_once(api):
    new = [{**LINE, "key": f"k{n}"} for n in range(3)]
    assert api.ok("POST", "/items", json={"items": new, "batch": "two"}) == {"new": 3, "known": 0}
    assert api.ok("POST", "/items", json={"items": new}) == {"new": 0, "known": 3}
    wrong = [{**LINE, "key": "good"}, {**LINE, "key": "bad", "responses": ["only one"]}]
    refused = api("POST", "/items", json={"items": wrong})
    assert refused.status_code == 409 and "bad: has 1 responses" in refused.json()["error"]
    assert "good" not in str(api.ok("GET", "/items"))


def test_answers_of_conversations_are_listed(api, client, world, database):
    """They wait for the person who asked: a state of their own, of which the list knows."""

    def job(connection):
        found = conversations.get(connection, world.conversation, world.ids["annotator"])
        conversations.ask(connection, found, "Hello", now=1.0)
        found = conversations.get(connection, world.conversation, world.ids["annotator"])
        reply = Reply(text="Hi.", finished=True, model="parrot")
        conversations.answer(connection, found, found.messages, reply, now=1.0)

    database.write(job)
    for wanted in ({}, {"state": "own"}):
        path = f"/api/v1/projects/{world.chat}/items"
        listed = client.get(path, params=wanted, headers=world.headers("manager")).json()
        assert [one["state"] for one in listed["items"]] == ["own"]
    reply = client.post(path, json={"items": [LINE]}, headers=world.headers("manager"))
    assert reply.status_code == 409 and "makes its own items" in reply.json()["error"]


def test_items_are_paged_filtered_and_searched(api):
    api.ok("POST", "/items", json={"items": [{**LINE, "key": f"k{n}"} for n in range(7)], "batch": "two"})
    keys, cursor = [], None
    while True:
        page = api.ok("GET", "/items", params={"limit": 4, **({"cursor": cursor} if cursor else {})})
        keys += [one["key"] for one in page["items"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert keys == sorted([f"k{n}" for n in range(7)] + [f"q{n}" for n in range(4)])
    assert {one["key"] for one in api.ok("GET", "/items", params={"batch": "first"})["items"]} == {
        "q0",
        "q1",
        "q2",
        "q3",
    }
    assert [one["key"] for one in api.ok("GET", "/items", params={"text": "ABOUT Q2"})["items"]] == ["q2"]
    api.ok("POST", "/items/withdraw", json={"keys": ["k1", "k2"]})
    assert {one["key"] for one in api.ok("GET", "/items", params={"state": "withdrawn"})["items"]} == {"k1", "k2"}
    first = api.ok("GET", "/items", params={"state": "open", "limit": 2})
    rest = api.ok("GET", "/items", params={"state": "open", "cursor": first["cursor"]})
    assert not {one["key"] for one in first["items"]} & {one["key"] for one in rest["items"]}
    wrong = {"state": "open", "cursor": "k1"}
    assert api("GET", "/items", params=wrong).json() == {"error": "the cursor is of another list; begin without one"}


def test_a_search_says_where_it_stopped(database, world, monkeypatch):
    monkeypatch.setattr(reports, "SCANNED", 3)
    found = database.read(lambda c: reports.list_items(c, world.project, text="about q3"))
    assert (found.rows, found.cursor, found.scanned) == ([], "q2", True)
    found = database.read(lambda c: reports.list_items(c, world.project, text="about q3", cursor=found.cursor))
    assert ([row.key for row in found.rows], found.cursor) == (["q3"], None)


def test_flagged_items_are_found(api, client, world):
    flag = {"uid": "a-flag-of-mine", "note": "cut off"}
    ticket = world.tickets["annotator"]
    assert client.post(f"/api/v1/tasks/{ticket}/flag", json=flag, headers=world.headers("annotator")).status_code == 200
    (flagged,) = api.ok("GET", "/items", params={"flagged": True})["items"]
    assert flagged["flags"] == 1 and api.ok("GET", "/counts")["flagged"] == 1


def test_a_gold_item_counts_for_nothing_else_until_it_is_none_again(api, world):
    api.ok("PUT", "/gold", json={"key": "q3", "gold": ANSWER})
    assert api.ok("GET", "/counts")["gold"] == 1
    wrong = api("PUT", "/gold", json={"key": "q3", "gold": {"choice": 4}})
    assert wrong.status_code == 422
    missing = api("PUT", "/gold", json={"key": "q99", "gold": ANSWER})
    assert missing.status_code == 409 and "has no item q99" in missing.json()["error"]
    api.ok("PUT", "/gold", json={"key": "q3", "gold": None})
    assert api.ok("GET", "/counts") == {
        "items": 4, "gold": 0, "withdrawn": 0, "labels": 1, "needed": 7, "flagged": 0,
    }  # fmt: skip


def test_a_gold_answer_that_is_taken_back_offers_the_item_to_who_had_passed_it(api, world, database):
    last = api.ok("GET", "/items", params={"state": "open"})["items"][-1]["key"]
    api.ok("PUT", "/gold", json={"key": last, "gold": ANSWER})
    for _ in range(3):
        say(database, world, "annotator")
    ask = lambda: database.write(lambda c: queue.claim(c, world.project, world.ids["annotator"], now=time.time()))  # noqa: E731
    assert ask() == []
    api.ok("PUT", "/gold", json={"key": last, "gold": None})
    assert len(ask()) == 1


def test_scores_are_stored_by_key(api):
    given = {"reward_model": "rm-2", "scores": {"q0": [{"mean": 0.5, "std": 0.1}, {"mean": -1.0}]}}
    assert api.ok("PUT", "/scores", json=given) == {"count": 1}
    (one,) = api.ok("GET", "/items", params={"text": "q0"})["items"]
    assert one["scores"] == [{"mean": 0.5, "std": 0.1}, {"mean": -1.0, "std": None}] and one["reward_model"] == "rm-2"
    for scores in ({"q9": [{"mean": 1}, {"mean": 1}]}, {"q0": [{"mean": 1}]}):
        assert api("PUT", "/scores", json={**given, "scores": scores}).status_code == 409


def test_a_batch_knows_how_many_labels_of_how_many_it_has(api, world, database):
    assert api.ok("GET", "/batches/first") == {"items": 4, "labels": 1, "wanted": 8, "answering": None}
    say(database, world, "annotator")
    api.ok("POST", "/exclusions", json={"uid": "leave-out", "exclude": {"annotator": world.ids["spare"]}})
    assert api.ok("GET", "/batches/first") == {"items": 4, "labels": 1, "wanted": 8, "answering": None}
    api.ok("POST", "/exclusions/leave-out/restore", json={"uid": "restored-1"})
    api.ok("POST", "/exclusions/exclusion-1/restore", json={"uid": "restored-2"})
    assert api.ok("GET", "/batches/first")["labels"] == 2  # nothing is left out any more
    assert api("GET", "/batches/never").status_code == 404


# -- uploads -----------------------------------------------------------------------------------------------------------


def upload(client, world, content, **more):
    return client.post(
        f"/api/v1/uploads/{world.project}/items", content=content, headers=world.headers("manager"), **more
    )


def as_lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_bad_lines_are_put_aside_with_reasons_and_good_ones_published(client, world, api):
    good = [{**LINE, "key": f"up{n}"} for n in range(3)]
    bad = {
        2: b'{"key": "x", \n',
        3: b"\xff\xfe\n",
        5: json.dumps({**LINE, "key": "extra", "admin": True}).encode() + b"\n",
        6: json.dumps({**LINE, "key": "short", "responses": ["one"]}).encode() + b"\n",
        7: b"[" * 100_000 + b"\n",
        8: json.dumps({**LINE, "key": "gold", "gold": {"choice": 9}}).encode() + b"\n",
        9: b"\n",  # an empty line is none
    }
    content = as_lines(good[:1]) + bad[2] + bad[3] + as_lines(good[1:2]) + bad[5] + bad[6] + bad[7] + bad[8] + bad[9]
    reply = upload(client, world, content + as_lines(good[2:]).rstrip(b"\n"), params={"batch": "from a file"}).json()
    assert (reply["new"], reply["known"], reply["bad"]) == (3, 0, 6)
    told = {one["line"]: one["reason"] for one in reply["bad_lines"]}
    assert sorted(told) == [2, 3, 5, 6, 7, 8]
    assert "no JSON" in told[2] and "UTF-8" in told[3] and "admin" in told[5] and "has 1 responses" in told[6]
    assert "gold" in told[8]
    found = api.ok("GET", "/items", params={"batch": "from a file"})["items"]
    assert {one["key"] for one in found} == {"up0", "up1", "up2"}
    again = upload(client, world, as_lines(good)).json()
    assert (again["new"], again["known"]) == (0, 3)


def test_no_more_of_a_file_is_in_memory_than_a_portion(client, world, monkeypatch, database):
    monkeypatch.setattr(uploads, "AT_ONCE", 10)
    sizes = []
    real = administration.publish

    def publish(*args, **more):
        sizes.append(len(more["new"]))
        return real(*args, **more)

    monkeypatch.setattr(administration, "publish", publish)
    reply = upload(client, world, as_lines({**LINE, "key": f"up{n}"} for n in range(25)))
    assert reply.json()["new"] == 25 and sizes == [10, 10, 5]


def test_a_line_that_never_ends_is_not_kept(client, world, monkeypatch):
    monkeypatch.setattr(uploads, "LONGEST_LINE", 1_000)

    def chunks():
        for _ in range(50):
            yield b"x" * 1_000
        yield b"\n" + as_lines([{**LINE, "key": "after"}])

    reply = upload(client, world, chunks()).json()
    assert (reply["new"], reply["bad"]) == (1, 1) and "longer than 1000 bytes" in reply["bad_lines"][0]["reason"]


def test_only_uploads_may_be_long(client, world, world_app):
    big = as_lines({**LINE, "key": f"up{n}", "tags": {"padding": "x" * 10_000}} for n in range(500))
    assert len(big) > world_app.state.config.longest_body_bytes
    assert upload(client, world, big).json()["new"] == 500
    elsewhere = client.post(f"/api/v1/projects/{world.project}/items", content=big, headers=world.headers("manager"))
    assert elsewhere.status_code == 413


@pytest.mark.parametrize("said", [True, False], ids=["its length is said", "it comes in pieces"])
def test_a_file_that_is_too_long_is_refused(world, store, said):
    app = make_app(longest_upload_bytes=5_000)
    big = as_lines({**LINE, "key": f"up{n}"} for n in range(100))
    with opened(app, store):
        reply = upload(client_of(app), world, big if said else iter([big[:4_000], big[4_000:]]))
    assert reply.status_code == 413 and "5000 bytes" in reply.json()["error"]


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_are_streamed_as_records_and_the_reading_is_noted(client, world, api, database, monkeypatch):
    monkeypatch.setattr("loopwright.feedback.web.api.results.LABELS_AT_ONCE", 1)  # several portions
    improved = {**ANSWER, "improved": "A better thing."}
    uids = ["label-0001", say(database, world, "annotator", answer=improved), say(database, world, "spare")]
    lines = lines_of(api("GET", "/labels"))
    assert [line["label"] for line in lines] == [uids[0], uids[1], uids[1], uids[2]]
    assert [line["kind"] for line in lines] == ["comparisons", "comparisons", "corrections", "comparisons"]
    assert lines[1]["record"]["annotator"] == "annotator"
    noted = newest_audit(database)
    assert (noted.action, noted.name) == ("labels read", "manager")
    after = lines_of(api("GET", "/labels", params={"after": lines[0]["event"]}))
    assert after == lines[1:]
    assert lines_of(api("GET", "/labels", params={"batch": "none"})) == []
    file = api("GET", "/records/comparisons")
    assert lines_of(file) == [line["record"] for line in lines if line["kind"] == "comparisons"]
    assert file.headers["content-disposition"] == "attachment; filename*=UTF-8''A-comparisons.jsonl"
    wrong = api("GET", "/records/rankings")
    assert wrong.status_code == 404 and "comparisons and corrections" in wrong.json()["error"]


@pytest.mark.parametrize("what", ["annotator", "day", "guideline"])
def test_what_is_left_out_is_not_streamed_until_it_is_let_back_in(api, world, what):
    value = {"annotator": world.ids["spare"], "day": time.strftime("%Y-%m-%d", time.gmtime()), "guideline": 1}[what]
    api.ok("POST", "/exclusions", json={"uid": "left-out-1", "exclude": {what: value}})
    assert lines_of(api("GET", "/labels")) == []
    listed = api.ok("GET", "/exclusions")["exclusions"]
    assert listed[-1]["what"] == {what: value} and listed[-1]["by"] == world.ids["manager"]
    api.ok("POST", "/exclusions/left-out-1/restore", json={"uid": "restored-1"})
    assert [line["label"] for line in lines_of(api("GET", "/labels"))] == ["label-0001"]
    assert api("POST", "/exclusions/left-out-1/restore", json={"uid": "restored-2"}).status_code == 409


@pytest.mark.parametrize(
    "wrong", [{}, {"day": "yesterday"}, {"day": "2026-01-31", "guideline": 1}, {"guideline": 0}, {"annotator": "x y"}]
)
def test_an_exclusion_names_one_thing(api, wrong):
    assert api("POST", "/exclusions", json={"uid": "left-out-1", "exclude": wrong}).status_code == 422


def test_what_was_made_from_excluded_labels_is_stale_and_so_is_what_descends_from_it(api, world):
    rm = {"id": "rm-1", "kind": "reward_model", "parents": {"base": "sft-1"}, "labels": ["label-0001"]}
    assert api.ok("POST", "/artifacts", json=rm) == {"labels": 1}
    assert api.ok("POST", "/artifacts", json=rm) == {"labels": 0}
    api.ok("POST", "/artifacts", json={"id": "ppo-1", "kind": "policy", "parents": {"reward": "rm-1"}})
    other = api("POST", "/artifacts", json={**rm, "kind": "policy"})
    assert other.status_code == 409 and "known already" in other.json()["error"]
    assert [one["stale_labels"] for one in api.ok("GET", "/artifacts")["artifacts"]] == [None, None]
    assert api.ok("GET", "/labels/label-0001/artifacts") == {"artifacts": ["rm-1", "ppo-1"]}
    (source,) = api.ok("GET", "/sources", params={"artifact": "ppo-1"})["labels"]
    assert (source["label"], source["annotator"]) == ("label-0001", "spare")
    api.ok("POST", "/exclusions", json={"uid": "left-out-1", "exclude": {"annotator": world.ids["spare"]}})
    shown = {
        one["id"]: (one["stale_labels"], one["stale_because_of"]) for one in api.ok("GET", "/artifacts")["artifacts"]
    }
    assert shown == {"rm-1": (1, None), "ppo-1": (0, "rm-1")}


def test_labels_of_two_projects_may_be_behind_one_artifact(api, world, client, admin, database):
    account, now = world.ids["annotator B"], time.time()

    def job(connection):
        task = queue.claim(connection, world.other, account, now=now)[0]
        labels.submit(connection, task.ticket, account, uid="label-of-b", answer=ANSWER, seconds=1.0, now=now)

    database.write(job)
    rm = {"id": "rm-1", "kind": "reward_model"}
    assert api.ok("POST", "/artifacts", json={**rm, "labels": ["label-0001"]}) == {"labels": 1}
    second = admin("POST", f"/projects/{world.other}/artifacts", json={**rm, "labels": ["label-of-b"]})
    assert second.json() == {"labels": 1}
    mine = api.ok("GET", "/sources", params={"artifact": "rm-1"})["labels"]
    assert [one["label"] for one in mine] == ["label-0001"]  # the other project's are not for this one's manager


# -- people ------------------------------------------------------------------------------------------------------------


def test_a_program_gets_an_account_and_a_token_and_labels(client, world, admin):
    robot = admin("POST", "/accounts", json={"name": "robot", "skills": ["law"]}).json()
    assert robot["role"] == "simulated"
    token = admin("POST", f"/accounts/{robot['id']}/tokens", json={"name": "t", "scopes": ["label"], "days": 1}).json()
    admin("PUT", f"/projects/{world.project}/members/{robot['id']}", json={"role": "annotator"})
    headers = {"Authorization": f"Bearer {token['token']}"}
    there = f"/api/v1/projects/{world.project}"
    assert client.post(f"{there}/guideline/seen", json={"version": 1}, headers=headers).status_code == 200
    tasks = client.post(f"{there}/tasks", json={}, headers=headers).json()["tasks"]
    assert len(tasks) == 1
    (listed,) = admin("GET", f"/accounts/{robot['id']}/tokens").json()["tokens"]
    assert listed["scopes"] == ["label"] and token["token"] not in json.dumps(listed)


def test_an_invitation_leads_one_person_into_the_project(client, world, api):
    made = api.ok("POST", "/invitations", json={"role": "annotator", "skills": ["law"], "days": 2})
    assert made["link"].startswith("http://labels.test/invitation/")
    (first, second) = api.ok("GET", "/invitations")["invitations"]
    assert second["skills"] == ["law"] and "link" not in second
    path = made["link"].removeprefix("http://labels.test")
    form = {"name": "Newcomer", "password": "a long password"}
    accepted = client.post(path, data=form, headers={"Sec-Fetch-Site": "same-origin"})
    assert accepted.status_code == 303
    assert "Newcomer" in [one["name"] for one in api.ok("GET", "/members")["members"]]
    again = client.post(path, data={**form, "name": "Other"}, headers={"Sec-Fetch-Site": "same-origin"})
    assert again.status_code == 409


def test_the_last_administrator_cannot_be_lost(client, world, admin):
    me = f"/accounts/{world.ids['admin']}"
    for change in ({"disabled": True}, {"role": "annotator"}):
        refused = admin("PATCH", me, json=change)
        assert refused.status_code == 409 and "last administrator" in refused.json()["error"]
    assert admin("GET", "/accounts").status_code == 200
    assert admin("PATCH", f"/accounts/{world.ids['spare']}", json={"role": "admin"}).status_code == 200
    assert admin("PATCH", me, json={"role": "annotator"}).status_code == 200
    assert admin("GET", "/accounts").status_code == 401


def test_an_hourly_rate_is_set_and_unset(admin, world):
    path = f"/accounts/{world.ids['spare']}"

    def rate():
        return next(one for one in admin("GET", "/accounts").json()["accounts"] if one["name"] == "spare")[
            "hourly_rate"
        ]

    admin("PATCH", path, json={"hourly_rate": 18.5})
    assert rate() == 18.5
    admin("PATCH", path, json={"skills": ["law"]})
    assert rate() == 18.5
    assert admin("PATCH", path, json={"hourly_rate": None}).status_code == 200
    assert rate() is None
    assert admin("PATCH", path, json={}).status_code == 422


def test_every_change_leaves_a_line_in_the_log_in_its_own_transaction(database, world):
    """Where the log cannot be written, nothing is changed."""
    before = database.read(lambda c: reports.progress(c, world.project))

    def job(connection):
        project = administration.projects.get_project(connection, world.project)
        administration.publish(connection, world.ids["admin"], project, [item("new")], now=time.time())
        connection.execute(audits.insert().values(id=1, action="x", about={}, at=0.0, hash="x"))  # id 1 is taken

    with pytest.raises(Exception, match="(?i)unique"):
        database.write(job)
    assert database.read(lambda c: reports.progress(c, world.project)) == before
    assert database.read(lambda c: chain.verify(c, audits)) is None


def test_the_log_is_paged_newest_first_and_verified(admin, api, database, world):
    for number in range(reports.PAGE):
        database.write(lambda c, n=number: administration.note(c, world.ids["admin"], f"action {n}", now=float(n)))
    page = admin("GET", "/audits").json()
    assert len(page["audits"]) == reports.PAGE and page["audits"][0]["action"] == f"action {reports.PAGE - 1}"
    older = admin("GET", "/audits", params={"before": page["before"]}).json()["audits"]
    assert older and older[0]["id"] == page["audits"][-1]["id"] - 1
    assert admin("GET", "/audits/verified").json() == {"audits": None, "events": None}
    mine = api.ok("GET", "/audits")["audits"]
    assert mine and all(one["about"]["project"] == world.project for one in mine)


def test_a_changed_past_shows(admin, database, world, store, client):
    with create_engine(store).begin() as raw:  # behind the triggers' back
        if raw.dialect.name == "postgresql":
            raw.execute(text("SET session_replication_role = replica"))
        else:
            for name in raw.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
                raw.execute(text(f"DROP TRIGGER {name}"))
        raw.execute(text("UPDATE audits SET action = 'nothing happened' WHERE id = 2"))
    assert admin("GET", "/audits/verified").json() == {"audits": 2, "events": None}
    assert (
        "Row 2 is not as it was written" in client.get("/admin/audit?verify=true", headers=world.headers("admin")).text
    )


# -- what is not asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/projects", {"name": "C", "config": {"kind": "thumb"}, "id": "mine"}),
        ("POST", "/projects", {"name": "C", "config": {"kind": "thumb", "state": "open"}}),
        ("PATCH", "/accounts/{spare}", {"skills": [], "password": "x"}),
        ("POST", "/accounts", {"name": "x", "role": "admin"}),
        ("POST", "/tokens", {"name": "x", "scopes": ["read"], "account": "other"}),
        ("POST", "/tokens", {"name": "x", "scopes": ["everything"]}),
        ("PUT", "/projects/{project}/members/{spare}", {"role": "admin"}),
        ("PUT", "/projects/{project}/members/{spare}", {"role": "manager", "claims": 0}),
        ("POST", "/projects/{project}/invitations", {"role": "admin"}),
        ("POST", "/projects/{project}/invitations", {"project": "other"}),
        ("POST", "/projects/{project}/items", {"items": [{**LINE, "state": "gold"}]}),
        ("POST", "/projects/{project}/items", {"items": [{**LINE, "labels": 3}]}),
        ("POST", "/projects/{project}/items", {"items": [], "by": "somebody"}),
        ("POST", "/projects/{project}/artifacts", {"id": "a", "kind": "k", "created": 0}),
    ],
)  # fmt: skip
def test_fields_that_nobody_asked_for_are_refused(admin, world, database, method, path, body):
    before = newest_audit(database).id
    reply = admin(method, path.format(project=world.project, spare=world.ids["spare"]), json=body)
    assert reply.status_code == 422 and set(reply.json()) == {"error"}
    assert newest_audit(database).id == before


@pytest.mark.parametrize("query", ["bacth=first", "=first", "state=open&page=2"])
def test_a_parameter_that_there_is_not_finds_nothing_rather_than_everything(api, query):
    reply = api("GET", f"/items?{query}")
    assert reply.status_code == 422 and "batch, cursor, flagged" in reply.json()["error"]


def test_what_a_database_cannot_store_is_refused_in_words(admin, client, world):
    big = client.get(f"/admin/projects/{world.project}/items/{10**30}", headers=world.headers("admin"))
    assert big.status_code == 422 and "cannot store" in big.text


def test_accounts_are_paged(admin, database, monkeypatch):
    monkeypatch.setattr(reports, "ACCOUNTS_AT_ONCE", 2)
    people_there, after = [], ""
    while after is not None:
        page = admin("GET", "/accounts", params={"after": after}).json()
        people_there += [one["name"] for one in page["accounts"]]
        after = page["after"]
    assert people_there == ["admin", "annotator", "annotator B", "manager", "manager B", "spare"]


# -- who lets in whom --------------------------------------------------------------------------------------------------


def link_of(client, world, maker, role):
    path = "/invitations" if role == "admin" else f"/projects/{world.project}/invitations"
    more = {} if role == "admin" else {"json": {"role": role}}
    return client.post(f"/api/v1{path}", headers=world.headers(maker), **more).json()["link"].rsplit("/", 1)[1]


def opens(client, secret):
    """Whether the link shows its form, and makes an account."""
    shown = client.get(f"/invitation/{secret}").status_code == 200
    form = {"name": f"guest {secret[:6]}", "password": PASSWORD}
    made = client.post(f"/invitation/{secret}", data=form, headers=FROM_HERE).status_code == 303
    assert shown == made
    return made


@pytest.mark.parametrize(
    ("maker", "role", "path", "change"),
    [
        ("manager", "manager", "/accounts/{}", {"disabled": True}),
        ("manager", "annotator", "/projects/{project}/members/{}", {"role": "annotator"}),
        ("manager", "annotator", "/projects/{project}/members/{}", None),
        ("admin", "admin", "/accounts/{}", {"role": "annotator"}),
        ("admin", "manager", "/accounts/{}", {"disabled": True}),
    ],
)
def test_an_invitation_ends_where_its_maker_may_not_invite_any_more(
    client, world, admin, database, maker, role, path, change
):
    assert opens(client, link_of(client, world, maker, role))
    left = link_of(client, world, maker, role)
    second = {"skills": [], "role": "admin"}
    assert admin("PATCH", f"/accounts/{world.ids['manager B']}", json=second).status_code == 200
    path = f"/api/v1{path.format(world.ids[maker], project=world.project)}"
    method = "DELETE" if change is None else "PUT" if "members" in path else "PATCH"
    changed = client.request(
        method, path, headers=world.headers("admin"), **({} if change is None else {"json": change})
    )
    assert changed.status_code == 200
    assert not opens(client, left)


def test_an_invitation_of_the_command_line_needs_nobody_s_account(client, world, database):
    invite = partial(people.invite, by=people.COMMAND_LINE, project=None, role="admin", now=time.time())
    assert opens(client, database.write(lambda c: invite(c, expires=time.time() + 60)))
    assert not opens(client, database.write(lambda c: invite(c, expires=time.time() + 60, by="nobody")))


@pytest.mark.parametrize("page", [False, True], ids=["api", "page"])
@pytest.mark.parametrize("role", ["annotator", "admin"])
def test_an_invitation_is_revoked(client, world, api, admin, database, role, page):
    at = "" if role == "admin" else f"/projects/{world.project}"
    id = world.open_invitations[role]
    left = link_of(client, world, "admin", role)
    (newest,) = [one for one in admin("GET", f"{at}/invitations").json()["invitations"] if one["id"] != id]

    def revoke(id):
        if page:
            path = f"/admin{at}/people"
            assert f"{path}/invitations/{id}/revoke" in client.get(path, headers=world.headers("admin")).text
            return client.post(f"{path}/invitations/{id}/revoke", headers=world.headers("admin")).status_code == 303
        return admin("DELETE", f"{at}/invitations/{id}").status_code == 200

    assert revoke(newest["id"])
    assert not opens(client, left)
    assert newest_audit(database).about == {
        "project": world.project if role == "annotator" else None, "invitation": newest["id"],
    }  # fmt: skip
    assert admin("DELETE", f"{at}/invitations/{newest['id']}").status_code == 409
    assert [one["id"] for one in admin("GET", f"{at}/invitations").json()["invitations"]] == [id]
    other = f"/projects/{world.other}" if role == "admin" else ""
    assert admin("DELETE", f"{other}/invitations/{id}").status_code == 409
    used = link_of(client, world, "admin", role)
    (newest,) = [one for one in admin("GET", f"{at}/invitations").json()["invitations"] if one["id"] != id]
    assert opens(client, used) and admin("DELETE", f"{at}/invitations/{newest['id']}").status_code == 409


def test_tokens_make_nobody_who_may_more_than_they_do(client, world):
    for path, scope, body in (
        (f"/projects/{world.project}/invitations", "manage", {"role": "manager"}),
        (f"/projects/{world.project}/members/{world.ids['spare']}", "manage", {"role": "manager"}),
        ("/invitations", "admin", None),
        (f"/accounts/{world.ids['spare']}", "admin", {"role": "admin"}),
        (f"/accounts/{world.ids['admin']}/tokens", "admin", {"name": "x", "scopes": ["label", "read"]}),
    ):
        method = "PUT" if "members" in path else "PATCH" if path.endswith(world.ids["spare"]) else "POST"
        refused = client.request(method, f"/api/v1{path}", json=body, headers=world.headers(f"admin+{scope}"))
        assert refused.status_code == 403 and "a token may not do this" in refused.json()["error"], path
        allowed = client.request(method, f"/api/v1{path}", json=body, headers=world.headers("admin"))
        assert allowed.status_code < 300, path


def test_a_new_password_ends_the_account_s_tokens_and_nobody_else_s(client, world):
    asked = lambda name: client.get("/api/v1/projects", headers=world.headers(f"{name}+read")).status_code  # noqa: E731
    assert (asked("manager"), asked("admin")) == (200, 200)
    data = {"old": PASSWORD, "new": "a password that is new"}
    changed = client.post("/account/password", data=data, headers=world.headers("manager"))
    assert changed.status_code == 303
    assert (asked("manager"), asked("admin")) == (401, 200)


def test_all_accounts_can_be_changed_on_the_page_however_many_there_are(client, world, monkeypatch):
    monkeypatch.setattr(reports, "ACCOUNTS_AT_ONCE", 1)
    path = f"/admin/people/{world.ids['spare']}"
    changed = client.post(path, data={"disabled": "yes", "role": "annotator"}, headers=world.headers("admin"))
    assert changed.status_code == 303
    assert client.get("/", headers=world.headers("spare")).headers["location"] == "/login"
    assert client.post("/admin/people/none", data={}, headers=world.headers("admin")).status_code == 404


def test_a_wrong_cursor_is_told_on_the_page(client, world):
    path = f"/admin/projects/{world.project}/items"
    page = client.get(path, params={"show": "open", "cursor": "x"}, headers=world.headers("manager"))
    assert page.status_code == 422 and "The cursor is of another list" in page.text and "int()" not in page.text


def test_records_of_a_project_with_any_name_can_be_downloaded(client, world, admin):
    name = 'Ответы "на" всё'
    made = client.post("/admin/new?kind=thumb", data={"name": name}, headers=world.headers("admin"))
    project = made.headers["location"].split("/")[3]
    file = admin("GET", f"/projects/{project}/records/thumbs")
    assert file.status_code == 200
    header = file.headers["content-disposition"]
    assert unquote(header.removeprefix("attachment; filename*=UTF-8''")) == f"{name}-thumbs.jsonl" and header.isascii()


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/labels", {"after": 10_000}), ("/records/corrections", {}), ("/records/comparisons", {"batch": "none"}),
        ("/sources", {"artifact": "nothing"}),
    ],
)  # fmt: skip
def test_only_who_saw_something_is_noted(api, database, path, params):
    before = newest_audit(database)
    assert api("GET", path, params=params).status_code == 200
    assert newest_audit(database) == before


def test_an_item_that_nobody_judged_is_looked_at_without_a_note(client, world, api, database):
    api.ok("POST", "/items", json={"items": [{**LINE, "key": "unjudged"}]})
    unjudged = database.read(lambda c: reports.find_items(c, world.project, ["unjudged"]))["unjudged"]
    before = newest_audit(database)
    page = client.get(f"/admin/projects/{world.project}/items/{unjudged}", headers=world.headers("manager"))
    assert page.status_code == 200 and newest_audit(database) == before


def test_the_log_is_verified_when_asked(client, world, monkeypatch):
    verified = []
    monkeypatch.setattr(chain, "verify", lambda connection, table: verified.append(table.name))
    page = client.get("/admin/audit", headers=world.headers("admin"))
    assert "Check that every row" in page.text and verified == []
    page = client.get("/admin/audit", params={"verify": "true"}, headers=world.headers("admin"))
    assert "Every row is as it was written" in page.text and verified == ["audits"]


def test_a_project_has_ten_webhooks(api):
    wanted = {"url": "http://127.0.0.1:9/hook"}
    for _ in range(9):  # one is there
        api.ok("POST", "/webhooks", json=wanted)
    refused = api("POST", "/webhooks", json=wanted)
    assert refused.status_code == 409 and "at most 10 webhooks" in refused.json()["error"]
