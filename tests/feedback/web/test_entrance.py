"""Log-in, sessions, tokens: who is let in, for how long, and what is kept of the secrets."""

import logging
import re
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url, update
from starlette.testclient import TestClient

from loopwright.errors import ConfigError
from loopwright.feedback.store import people
from loopwright.feedback.store.tables import sessions
from loopwright.feedback.web.settings import ServerConfig, check_address, make_key, read_key
from tests.feedback.web.world import FROM_HERE, KEY, PASSWORD, URL, client_of, dump, make_app, opened, text_of

LOG_IN = {"name": "annotator", "password": PASSWORD}


def log_in(client, cookie=None, **given):
    headers = FROM_HERE | ({"Cookie": f"session={cookie}"} if cookie else {})
    return client.post("/login", data={**LOG_IN, **given}, headers=headers)


def cookie_in(reply):
    return re.match(r"(?:__Host-)?session=([^;]*)", reply.headers["set-cookie"]).group(1)


def gets_in(client, cookie, name="session"):
    return client.get("/api/v1/tokens", headers={"Cookie": f"{name}={cookie}"}).status_code == 200


def test_the_cookie_from_before_the_log_in_is_worth_nothing(client, world):
    planted = log_in(client, cookie="planted-by-somebody-else")
    assert cookie_in(planted) != "planted-by-somebody-else"
    assert not gets_in(client, "planted-by-somebody-else")
    old = world.cookies["annotator"]
    assert gets_in(client, old)
    new = cookie_in(log_in(client, cookie=old))
    assert gets_in(client, new) and not gets_in(client, old)


def test_the_cookie_is_kept_from_scripts_other_sites_and_plain_connections(client, store):
    assert "HttpOnly" in (cookie := log_in(client).headers["set-cookie"])
    assert "samesite=lax" in cookie.lower() and "secure" not in cookie.lower() and "domain" not in cookie.lower()
    secure = make_app()
    secure.state.config = ServerConfig(url="https://labels.test", key=KEY)
    with opened(secure, store):
        set_cookie = log_in(client_of(secure)).headers["set-cookie"]
    assert (
        set_cookie.startswith("__Host-session=") and "secure" in set_cookie.lower() and "path=/" in set_cookie.lower()
    )


def test_who_logs_out_is_out_everywhere_the_cookie_went(client, world):
    cookie = world.cookies["annotator"]
    out = client.post("/logout", headers={**FROM_HERE, "Cookie": f"session={cookie}"})
    assert out.headers["location"] == "/login"
    assert not gets_in(client, cookie)


def test_the_secure_cookie_is_taken_back_as_it_was_given(store, world, quick_hashes):
    secure = make_app()
    secure.state.config = ServerConfig(url="https://labels.test", key=KEY)
    with opened(secure, store):
        cookie = cookie_in(log_in(client_of(secure)))
        out = client_of(secure).post("/logout", headers={**FROM_HERE, "Cookie": f"__Host-session={cookie}"})
    taken = out.headers["set-cookie"].lower()
    assert taken.startswith('__host-session="";') and "max-age=0" in taken
    assert "secure" in taken and "path=/" in taken and "domain" not in taken


def test_a_page_of_somebody_who_is_not_logged_in_any_more_is_told_so(client, world):
    asked = lambda name: client.get(  # noqa: E731
        "/api/v1/preferences", headers={**world.headers("annotator"), "X-Account": world.ids[name]}
    )
    assert (asked("annotator").status_code, asked("manager").status_code) == (200, 401)


def test_a_new_password_ends_all_sessions_but_the_one_that_set_it(client, world):
    other = cookie_in(log_in(client))
    cookie = world.cookies["annotator"]
    data = {"old": PASSWORD, "new": "a password that is new"}
    headers = {**FROM_HERE, "Cookie": f"session={cookie}"}
    wrong = client.post("/account/password", data={**data, "old": "not that one"}, headers=headers)
    assert wrong.status_code == 403 and gets_in(client, other)
    fresh = cookie_in(client.post("/account/password", data=data, headers=headers))
    assert gets_in(client, fresh) and not gets_in(client, cookie) and not gets_in(client, other)
    assert log_in(client).status_code == 401
    assert log_in(client, password="a password that is new").status_code == 303


@pytest.mark.parametrize("change", [{"disabled": True}, {"role": "simulated"}])
def test_who_may_less_from_now_on_is_out_at_once(client, world, change):
    changed = client.patch(
        f"/api/v1/accounts/{world.ids['annotator']}", json=change, headers=world.headers("admin+admin")
    )
    assert changed.status_code == 200
    assert not gets_in(client, world.cookies["annotator"])
    assert log_in(client).status_code == (401 if "disabled" in change else 303)


def test_a_disabled_account_s_tokens_are_worth_nothing(client, world):
    asked = "/api/v1/projects"
    assert client.get(asked, headers=world.headers("manager+read")).status_code == 200
    client.patch(
        f"/api/v1/accounts/{world.ids['manager']}", json={"disabled": True}, headers=world.headers("admin+admin")
    )
    assert client.get(asked, headers=world.headers("manager+read")).status_code == 401


@pytest.mark.parametrize(
    ("column", "age"), [("seen", people.IDLE_SECONDS), ("created", people.SESSION_SECONDS)], ids=["idle", "absolute"]
)
def test_a_session_ends(client, world, database, column, age):
    cookie, now = world.cookies["annotator"], time.time()

    def older(seconds):
        mine = sessions.c.hash == people._sha256(cookie)
        values = {"seen": now, "created": now, column: now - seconds}
        database.write(lambda connection: connection.execute(update(sessions).where(mine).values(values)))

    older(age - 60)
    assert gets_in(client, cookie)
    older(age + 60)
    assert not gets_in(client, cookie)


def test_a_token_ends_when_it_expires_or_is_revoked(client, world, database):
    now = time.time()
    make = lambda expires: database.write(  # noqa: E731
        lambda c: people.create_token(c, world.ids["admin"], "x", ["read"], expires=expires, now=now)
    )
    ask = lambda token: client.get("/api/v1/projects", headers={"Authorization": f"Bearer {token}"}).status_code  # noqa: E731
    assert (ask(make(now + 60)), ask(make(now - 1))) == (200, 401)
    revoked = client.delete(
        f"/api/v1/accounts/{world.ids['manager']}/tokens/{world.token_ids['manager+read']}",
        headers=world.headers("admin+admin"),
    )
    assert revoked.status_code == 200
    assert ask(world.tokens["manager+read"]) == 401


def test_a_token_cannot_be_had_for_more_than_its_owner_may(client, world):
    headers = world.headers("manager")
    refused = client.post("/api/v1/tokens", json={"name": "x", "scopes": ["admin"]}, headers=headers)
    assert refused.status_code == 409 and "no administrator" in refused.json()["error"]


# -- guessing ----------------------------------------------------------------------------------------------------------


def test_after_ten_wrong_passwords_a_name_waits_at_this_address_and_its_owner_elsewhere_does_not(
    client, world_app, store
):
    for _ in range(people.ATTEMPTS_A_NAME_HERE):
        assert log_in(client, password="wrong password").status_code == 401
    refused = log_in(client)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= people.ATTEMPTS_SECONDS + 1
    assert log_in(client, name="manager").status_code == 303
    other = make_app()  # another process on the same store has the same count
    with opened(other, store):
        assert log_in(client_of(other)).status_code == 429
    owner = TestClient(world_app, base_url=URL, client=("192.0.2.7", 5000), follow_redirects=False)
    assert log_in(owner).status_code == 303


def test_a_name_that_the_whole_world_guesses_waits_everywhere(client, database):
    now = time.time()

    def guess(connection):
        for number in range(people.ATTEMPTS_A_NAME):
            people.note_attempt(connection, "annotator", f"address {number}", now=now)

    database.write(guess)
    assert log_in(client).status_code == 429
    assert log_in(client, name="manager").status_code == 303


def test_an_address_that_guesses_many_names_waits_too(client):
    for number in range(people.ATTEMPTS_AN_ADDRESS):
        assert log_in(client, name=f"name {number}", password="wrong password").status_code == 401
    assert log_in(client).status_code == 429


def test_a_wrong_name_costs_as_many_hashes_as_a_wrong_password_and_looks_the_same(client, world, monkeypatch):
    verified = []

    class Counting:
        def verify(self, hash, password):
            verified.append(hash)
            return people.PasswordHasher().verify(hash, password)

    monkeypatch.setattr(people, "_hasher", Counting())
    pages = []
    for name in ("annotator", "nobody of this name"):
        reply = log_in(client, name=name, password="a wrong password")
        pages.append((reply.status_code, reply.text, len(verified)))
    assert pages[0] == (401, pages[1][1], 1) and pages[1][0] == 401 and pages[1][2] == 2


def invitation_of(client, world):
    link = client.post("/api/v1/invitations", headers=world.headers("admin")).json()["link"]
    return link.rsplit("/", 1)[1]


def accept(client, secret, name="newcomer"):
    return client.post(f"/invitation/{secret}", data={"name": name, "password": PASSWORD}, headers=FROM_HERE)


def test_no_password_is_hashed_without_an_invitation_and_guesses_are_counted(client, world, monkeypatch):
    hashed = []
    monkeypatch.setattr(people, "hash_password", lambda password: hashed.append(password) or "a hash")
    for _ in range(people.ATTEMPTS_AN_ADDRESS):
        assert accept(client, "guessed").status_code == 409
    assert hashed == []
    right = invitation_of(client, world)
    refused = accept(client, right)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0 and hashed == []


def test_an_invitation_does_not_buy_hashes_without_end(client, world):
    right = invitation_of(client, world)
    for _ in range(people.ATTEMPTS_AN_ADDRESS):
        assert accept(client, right, name="manager").status_code == 409  # there is one of this name
    assert accept(client, right).status_code == 429


def test_the_old_password_is_not_guessed_in_a_session_that_was_left_open(client, world):
    headers = {**FROM_HERE, "Cookie": f"session={world.cookies['annotator']}"}
    data = {"old": "not that one", "new": "a password that is new"}
    for _ in range(people.ATTEMPTS_A_NAME_HERE):
        assert client.post("/account/password", data=data, headers=headers).status_code == 403
    right = client.post("/account/password", data={**data, "old": PASSWORD}, headers=headers)
    assert right.status_code == 429 and "retry-after" in right.headers


def test_where_too_many_passwords_wait_for_their_hash_others_are_told_to_come_back(client, world, monkeypatch):
    monkeypatch.setattr(people, "_in_line", threading.Semaphore(1))
    with people._turn_to_hash():
        right = invitation_of(client, world)
        headers = {**FROM_HERE, "Cookie": f"session={world.cookies['annotator']}"}
        change = {"old": PASSWORD, "new": "a password that is new"}
        for refused in (
            log_in(client), accept(client, right), client.post("/account/password", data=change, headers=headers),
        ):  # fmt: skip
            assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
    assert log_in(client).status_code == 303 and accept(client, right).status_code == 303


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_secrets_are_neither_in_the_database_nor_in_the_log(client, world, store, caplog):
    caplog.set_level(logging.DEBUG)
    cookie = cookie_in(log_in(client))
    admin = world.headers("admin")
    token = client.post("/api/v1/tokens", json={"name": "t", "scopes": ["read"]}, headers=admin).json()["token"]
    link = client.post("/api/v1/invitations", headers=admin).json()["link"]
    invitation = link.rsplit("/", 1)[1]
    assert client.get(f"/invitation/{invitation}").status_code == 200
    accepted = client.post(
        f"/invitation/{invitation}", data={"name": "newcomer", "password": "newcomer's password"}, headers=FROM_HERE
    )
    assert accepted.status_code == 303
    webhook = client.post(
        f"/api/v1/projects/{world.project}/webhooks", json={"url": "http://127.0.0.1:9/x"}, headers=admin
    ).json()["secret"]
    client.get("/api/v1/projects", headers={"Authorization": f"Bearer {token}"})
    client.get(f"/invitation/{invitation}")  # used by now: the refusal must not name it either
    log_in(client, password="a wrong password")
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    file = Path(make_url(store).database)  # of SQLite: what was deleted may be in it still
    kept = text_of(dump(store)) + ours + (file.read_bytes().decode("latin-1") if file.exists() else "")
    for secret in (cookie, token, invitation, webhook, PASSWORD, "newcomer's password", "a wrong password", KEY):
        assert secret not in kept
    audits = client.get("/api/v1/audits", headers=admin).text
    assert all(secret not in audits for secret in (token, invitation, webhook))


def test_nobody_s_hash_costs_what_everybody_s_does():
    parameters = people.hash_password(PASSWORD).split("$")[:4]
    assert people._NOBODYS.split("$")[:4] == parameters


def test_a_failure_is_logged_without_the_address_and_told_without_the_reason(client, world_app, caplog):
    class Broken:
        def read(self, job):
            raise RuntimeError("the reason")

    world_app.state.database = Broken()
    reply = client.get("/invitation/the-secret-of-the-link")
    assert reply.status_code == 500 and "the reason" not in reply.text
    ours = [record for record in caplog.records if record.name == "loopwright.feedback"]
    assert [record.getMessage() for record in ours] == ["GET /invitation/{secret} failed"]


def test_errors_of_the_database_do_not_show_what_was_to_be_stored(database):
    def twice(connection):
        for _ in range(2):
            people.create_account(connection, "same name", password_hash="a-password-hash", now=0.0)

    with pytest.raises(Exception) as caught:
        database.write(twice)
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert not any("a-password-hash" in str(error) for error in chain)


def test_a_key_that_could_be_guessed_is_refused():
    for key in ("", "secret", "a" * 64, "abcabc" * 10):
        with pytest.raises(ValidationError, match="could be guessed"):
            ServerConfig(key=key)


def test_the_key_s_file_is_for_its_owner_alone(tmp_path):
    file = tmp_path / "key"
    with pytest.raises(ConfigError, match="there is no key"):
        read_key(file)
    make_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert ServerConfig(key=read_key(file)).key.get_secret_value() not in repr(ServerConfig(key=read_key(file)))
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others on this machine"):
        read_key(file)


@pytest.mark.parametrize(
    ("host", "url", "starts"),
    [
        ("127.0.0.1", "http://127.0.0.1:8600", True),
        ("::1", "http://localhost:8600", True),
        ("127.0.0.1", "https://labels.test", True),  # a proxy ends TLS
        ("127.0.0.1", "http://labels.test", False),
        ("0.0.0.0", "https://labels.test", False),
        ("0.0.0.0", "http://127.0.0.1:8600", False),
        ("::", "http://labels.test", False),
        ("192.168.1.5", "http://192.168.1.5:8600", False),
        ("labels.test", "http://labels.test", False),
    ],
)
def test_it_is_not_served_to_others_unencrypted_unless_told_to(host, url, starts):
    config = ServerConfig(url=url, key=KEY)
    check_address(host, config, insecure=True)
    if starts:
        check_address(host, config, insecure=False)
    else:
        with pytest.raises(ConfigError, match="--insecure"):
            check_address(host, config, insecure=False)


@pytest.mark.parametrize(
    ("url", "host", "origin"),
    [
        ("https://Labels.test:443", "labels.test", "https://labels.test"),
        ("http://labels.test:80/", "labels.test", "http://labels.test"),
        ("https://labels.test:80", "labels.test:80", "https://labels.test:80"),
        ("http://[::1]:8600", "[::1]:8600", "http://[::1]:8600"),
    ],
)
def test_the_address_is_as_browsers_write_it(url, host, origin):
    config = ServerConfig(url=url, key=KEY)
    assert (config.host, config.origin) == (host, origin)


def test_serve_refuses_to_start_in_public(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from loopwright.cli.main import app

    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(app, ["feedback", "init"]).exit_code == 0
    refused = runner.invoke(app, ["feedback", "serve", "--host", "0.0.0.0", "--port", "0"])
    assert refused.exit_code != 0 and isinstance(refused.exception, ConfigError | SystemExit)
    (tmp_path / "feedback.key").write_text("weak")
    refused = runner.invoke(app, ["feedback", "serve", "--port", "0"])
    assert refused.exit_code != 0 and "guessed" in str(refused.exception)
