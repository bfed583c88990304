"""What a browser may do with each answer: every page, and every page that says no, is under the strict policy."""

import pytest
from starlette.testclient import TestClient

from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.pages import entrance
from loopwright.feedback.web.settings import ServerConfig
from tests.feedback.web.table_of_routes import ROUTES
from tests.feedback.web.world import FROM_HERE, KEY, opened

FETCHED = {"script-src", "style-src", "img-src", "font-src", "connect-src", "form-action"}  # from this server alone
NEVER = {"default-src", "base-uri", "frame-ancestors", "object-src"}
LOOKS = sorted(route for route in ROUTES if route[0] == "GET")
ASKING = ("nobody", "annotator", "manager", "admin", "admin+read")  # let in or not


def check(reply):
    """Raises AssertionError where the headers allow more than our own script, style, picture and connection."""
    headers = reply.headers
    directives = dict(one.split(maxsplit=1) for one in headers["content-security-policy"].split("; "))
    assert directives == {**dict.fromkeys(FETCHED, "'self'"), **dict.fromkeys(NEVER, "'none'")}
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] in ("same-origin", "no-referrer")
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["cache-control"] == "no-store"
    if "html" in headers.get("content-type", ""):
        inline = ("<script>", "<style", " style=", "javascript:", " onclick=", " onload=", " onerror=", "//cdn")
        assert not [one for one in inline if one in reply.text]


@pytest.mark.parametrize("caller", ASKING)
def test_every_page_is_under_the_strict_policy(client, world, caller):
    kinds = set()
    for method, path in LOOKS:
        row = ROUTES[method, path]
        reply = client.request(method, row.address(path, world), headers=world.headers(caller), **row.send(world))
        assert reply.status_code == row.expected(caller) or reply.headers["location"] == "/login", path
        check(reply)
        kinds.add((reply.status_code, reply.headers.get("content-type", "").split(";")[0]))
    pages = {status for status, kind in kinds if kind == "text/html"}
    assert pages >= {"nobody": {200}, "annotator": {200, 403}, "admin+read": {403}}.get(caller, {200})


def test_so_is_every_page_that_says_no(client, world, monkeypatch):
    headers, project = world.headers("manager"), f"/admin/projects/{world.project}"
    no_file = {"batch": (None, "first")}
    refusals = [
        (404, client.get("/nowhere", headers=headers)),
        (404, client.get("/invitation/used", headers=FROM_HERE)),
        (404, client.get(f"{project}/items/999999", headers=headers)),
        (404, client.get("/static/nothing.js", headers=FROM_HERE)),
        (405, client.delete("/login", headers=headers)),
        (403, client.post("/login", headers={"Sec-Fetch-Site": "cross-site"})),
        (401, client.post("/login", data={"name": "x", "password": "y"}, headers=FROM_HERE)),
        (422, client.post("/login", headers=FROM_HERE)),
        (422, client.get(f"{project}/items/a-letter", headers=headers)),
        (422, client.post(f"/uploads/{world.project}/items", files=no_file, headers=headers)),
        (413, client.post("/login", content=b"x" * 400_000, headers=FROM_HERE)),
        (421, client.get("/login", headers={"Host": "elsewhere.test"})),
    ]

    def fail(*about, **more):
        raise RuntimeError("our fault")

    monkeypatch.setattr(entrance.people, "open_invitation", fail)
    refusals.append((500, client.get("/invitation/any", headers=FROM_HERE)))
    assert "There is no such page." in refusals[0][1].text  # a sentence of ours, not the framework's words
    for status, reply in refusals:
        assert reply.status_code == status, reply.request.url
        if not reply.request.url.path.startswith("/static/"):
            check(reply)
        assert "our fault" not in reply.text


def test_over_tls_browsers_come_back_by_tls_alone(store, quick_hashes):
    app = create_app(None, ServerConfig(url="https://labels.test", key=KEY))
    with opened(app, store):
        for path in ("/login", "/nowhere", "/api/v1/health", "/static/app.css"):
            reply = TestClient(app, base_url="https://labels.test").get(path)
            assert reply.headers["strict-transport-security"] == "max-age=31536000", path


def test_scripts_and_styles_are_files_of_this_server(client):
    for name in ("app.css", "chat.js", "work/main.js"):
        reply = client.get(f"/static/{name}")
        assert reply.status_code == 200 and "'unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "https://" not in reply.text and "http://" not in reply.text, name
