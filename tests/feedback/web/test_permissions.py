"""Who may do what, for every route; what may come from another site; what looking changes."""

import pytest

from tests.feedback.web.table_of_routes import CALLERS, ROUTES
from tests.feedback.web.world import FROM_HERE, client_of, dump, fresh_copy, opened, routes

SAFE = ("GET", "HEAD", "OPTIONS")
ANOTHER_SITE = "comes from another site"


@pytest.fixture
def app(world_app, quick_hashes):
    return world_app


def ask(client, world, route, caller, **headers):
    row = ROUTES[route]
    method, path = route
    return client.request(
        method, row.address(path, world), headers={**world.headers(caller), **headers}, **row.send(world)
    )


def seen(route, code):
    """Pages lead who is not logged in to the log-in."""
    return 303 if code == 401 and not route[1].startswith("/api/") else code


def test_every_route_has_its_row(app):
    assert routes(app) == sorted(ROUTES), "a route is not in table_of_routes.py, or one there is gone"


@pytest.mark.parametrize("route", sorted(ROUTES), ids=" ".join)
def test_who_may_and_who_may_not(app, world, route, tmp_path):
    """Who may not changes nothing; who may is answered as the row says."""
    row = ROUTES[route]
    refused = [caller for caller in CALLERS if row.expected(caller) >= 400]
    with fresh_copy(world, tmp_path) as file:
        before = dump(file)
        with opened(app, file):
            got = {caller: ask(client_of(app), world, route, caller) for caller in refused}
        assert {caller: reply.status_code for caller, reply in got.items()} == {
            caller: seen(route, row.expected(caller)) for caller in refused
        }
        assert all(reply.headers["location"] == "/login" for reply in got.values() if reply.status_code == 303)
        assert dump(file) == before
    admitted = [caller for caller in CALLERS if row.expected(caller) < 400]
    for callers in [admitted] if route[0] in SAFE else [[caller] for caller in admitted]:
        with fresh_copy(world, tmp_path) as file, opened(app, file):
            for caller in callers:
                reply = ask(client_of(app), world, route, caller)
                assert reply.status_code == row.expected(caller), (caller, reply.text[:500])
                assert reply.headers.get("location") != "/login" or route[1] == "/logout", caller


@pytest.mark.parametrize("route", sorted(route for route in ROUTES if route[0] == "GET"), ids=" ".join)
def test_looking_changes_nothing_but_the_log_of_who_looked(app, world, route, tmp_path):
    row = ROUTES[route]
    with fresh_copy(world, tmp_path) as file:
        before = dump(file)
        with opened(app, file):
            assert ask(client_of(app), world, route, "admin").status_code == row.expected("admin")
        after = dump(file)
    if row.audited:
        (noted,) = after["audits"][len(before["audits"]) :]
        assert (noted["action"], noted["account"]) == ("labels read", world.ids["admin"])
        del after["audits"][-1]
    assert after == before


UNSAFE = sorted(route for route in ROUTES if route[0] not in SAFE)
FOREIGN = "http://elsewhere.test"
CASES = {  # what a browser or a program says of where it comes from -> whether it is heard
    "cross-site": ({"Sec-Fetch-Site": "cross-site"}, False),
    "cross-site, and our origin": ({"Sec-Fetch-Site": "cross-site", "Origin": "http://labels.test"}, False),
    "same-site": ({"Sec-Fetch-Site": "same-site"}, False),
    "none": ({"Sec-Fetch-Site": "none"}, False),
    "same-origin": ({"Sec-Fetch-Site": "same-origin"}, True),
    "an old browser, a foreign origin": ({"Origin": FOREIGN}, False),
    "an old browser, a longer name": ({"Origin": "http://labels.test.evil"}, False),
    "an old browser, our name before @": ({"Origin": "http://labels.test@evil"}, False),
    "an old browser, another port": ({"Origin": "http://labels.test:81"}, False),
    "an old browser, another scheme": ({"Origin": "https://labels.test"}, False),
    "an old browser, no origin": ({"Origin": "null"}, False),
    "an old browser, our origin": ({"Origin": "http://labels.test"}, True),
    "neither": ({}, False),
}


@pytest.mark.parametrize("route", UNSAFE, ids=" ".join)
def test_what_another_site_sends_is_not_heard(app, world, route, tmp_path):
    row, (method, path) = ROUTES[route], route
    cookie = {"Cookie": f"session={world.cookies['admin']}"}
    with fresh_copy(world, tmp_path) as file:
        before = dump(file)
        with opened(app, file):
            for case, (headers, heard) in CASES.items():
                if not heard:
                    reply = client_of(app).request(
                        method, row.address(path, world), headers={**cookie, **headers}, **row.send(world)
                    )
                    assert reply.status_code == 403 and ANOTHER_SITE in reply.json()["error"], case
        assert dump(file) == before
        with opened(app, file):
            for case, (headers, heard) in CASES.items():
                if heard:
                    reply = client_of(app).request(
                        method, row.address(path, world), headers={**cookie, **headers}, **row.send(world)
                    )
                    assert ANOTHER_SITE not in reply.text, case


def test_a_token_is_heard_from_anywhere_and_its_cookies_are_not(app, world, tmp_path):
    headers = {"Sec-Fetch-Site": "cross-site", "Cookie": f"session={world.cookies['admin']}"}
    with fresh_copy(world, tmp_path) as file, opened(app, file):
        client = client_of(app)
        robot = {"name": "robot"}
        wrong = client.post("/api/v1/accounts", json=robot, headers={**headers, "Authorization": "Bearer lwf_none"})
        assert wrong.status_code == 401
        other = client.post("/api/v1/accounts", json=robot, headers={**headers, **world.headers("manager+read")})
        assert other.status_code == 403
        right = client.post("/api/v1/accounts", json=robot, headers={**headers, **world.headers("admin+admin")})
        assert right.status_code == 201


@pytest.mark.parametrize("host", ["evil.test", "labels.test.evil", "labels.test:81", "127.0.0.1", ""])
def test_a_foreign_name_that_leads_here_is_refused(app, world, tmp_path, host):
    with fresh_copy(world, tmp_path) as file, opened(app, file):
        reply = client_of(app).get("/login", headers={"Host": host, **FROM_HERE})
    assert reply.status_code == 421


def test_a_project_that_is_not_there_looks_like_anothers(app, world, tmp_path):
    with fresh_copy(world, tmp_path) as file, opened(app, file):
        client = client_of(app)
        replies = [
            client.get(f"/api/v1/projects/{project}", headers=world.headers("manager B"))
            for project in (world.project, "no-such-project")
        ]
    assert replies[0].status_code == replies[1].status_code == 404
    assert replies[0].content == replies[1].content


def test_what_is_inside_another_project_is_not_reached_through_ones_own(app, world, tmp_path):
    """The manager of B asks in B for what is in A."""
    mine = f"/api/v1/projects/{world.other}"
    with fresh_copy(world, tmp_path) as file, opened(app, file):
        client, headers = client_of(app), world.headers("manager B")
        page = client.get(f"/admin/projects/{world.other}/items/{world.item}", headers=headers)
        assert page.status_code == 404
        made = client.get(f"{mine}/labels/label-0001/artifacts", headers=headers)
        assert made.json() == {"artifacts": []}
        registered = {"id": "rm-9", "kind": "reward_model", "labels": ["label-0001"]}
        assert client.post(f"{mine}/artifacts", headers=headers, json=registered).status_code == 409
        restored = client.post(f"{mine}/exclusions/exclusion-1/restore", headers=headers, json={"uid": "uid-of-this"})
        assert restored.status_code == 409
        let_in = client.put(f"{mine}/members/{world.ids['spare']}", headers=headers, json={"role": "manager"})
        assert let_in.status_code == 409
        audits = client.get(f"{mine}/audits", headers=headers).json()["audits"]
        assert audits and all(one["about"]["project"] == world.other for one in audits)
