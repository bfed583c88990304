"""What the fixtures promise to the tests of the store and the app."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Route

from tests.feedback import services
from tests.feedback.browsing import Watch
from tests.feedback.web.serving import served


@pytest.mark.parametrize("turn", ["first", "second"])
def test_every_test_gets_an_empty_database(database_url, turn):
    engine = create_engine(database_url)
    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE judgements (id INTEGER)"))
    assert inspect(engine).get_table_names() == ["judgements"]
    engine.dispose()


def test_a_database_goes_though_somebody_is_connected(postgresql_server):
    with services.fresh_database(postgresql_server) as url:
        engine = create_engine(url)
        connection = engine.connect()
    with pytest.raises(OperationalError):
        connection.execute(text("SELECT 1"))
    connection.close()
    engine.dispose()


def test_the_server_ends_though_its_test_fails(postgresql_server):
    with pytest.raises(ZeroDivisionError), services.postgresql_server() as folder, services.fresh_database(folder):
        assert folder != postgresql_server
        process = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(process, 0)  # is there
        1 / 0  # noqa: B018
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_server_ends_though_its_tests_are_killed(postgresql_server):
    code = "from tests.feedback import services\nwith services.postgresql_server() as folder: print(folder); input()"
    command, pipe = [sys.executable, "-uc", code], subprocess.PIPE
    tests = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=pipe, stdout=pipe, text=True)
    folder = Path(tests.stdout.readline().strip())
    running = folder / "data" / "postmaster.pid"
    assert running.exists()
    tests.kill()
    tests.communicate()
    tries = iter(range(1000))
    while running.exists() and next(tries, None) is not None:
        time.sleep(0.01)
    assert not running.exists()
    shutil.rmtree(folder)


def test_what_is_missing_skips_and_fails_where_it_is_required(monkeypatch):
    monkeypatch.delenv("LOOPWRIGHT_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Chromium is not installed: apt-get install chromium"):
        services.missing("Chromium", "apt-get install chromium")
    monkeypatch.setenv("LOOPWRIGHT_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="LOOPWRIGHT_REQUIRE_SERVICES=1"):
        services.missing("Chromium", "apt-get install chromium")


ICON = "<link rel='icon' href='data:,'>"  # without one the browser asks for /favicon.ico, and is told 404


@pytest.fixture
def stranger():
    """Another host: an address that is not the app's, where somebody really listens."""
    with socket.create_server(("127.0.0.2", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize(
    "body",
    [
        "<img src='http://{stranger}/'>",
        "<meta http-equiv='refresh' content='0; url=http://{stranger}/'>",
        "<script>window.socket = new WebSocket('ws://{stranger}/')</script>",
        "<script>fetch('/away').catch(() => null)</script>",
    ],
    ids=["image", "navigation", "socket", "redirect"],
)
def test_a_page_reaches_no_other_host_and_fails_its_test(browser, stranger, body):
    address = "{}:{}".format(*stranger.getsockname())
    routes = [
        Route("/", lambda request: HTMLResponse(ICON + body.format(stranger=address))),
        Route("/away", lambda request: RedirectResponse(f"http://{address}/")),
    ]
    watch = Watch(browser)
    with served(Starlette(routes=routes)) as url:
        page = watch.open()
        page.goto(url)
        tries = iter(range(1000))
        while not watch.complaints and next(tries, None) is not None:  # a page may act after it was loaded
            page.wait_for_timeout(10)
        page.wait_for_load_state("networkidle")
        with pytest.raises(AssertionError, match=rf"asked another host: (http|ws)://{address}/"):
            watch.close()
    with pytest.raises(BlockingIOError):
        stranger.accept()


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("throw new Error('out of ideas')", "error in the page: .*out of ideas"),
        ("console.error('not well')", "error in the console: not well"),
        ("fetch('/nowhere')", "error in the console: .*status of 404.*/nowhere"),
    ],
)
def test_an_error_in_a_page_fails_its_test_unless_forgiven(browser, script, complaint):
    watch = Watch(browser)
    routes = [Route("/", lambda request: HTMLResponse(f"{ICON}<script>{script}</script>"))]
    with served(Starlette(routes=routes)) as url:
        page = watch.open()
        page.goto(url)
        page.wait_for_load_state("networkidle")
        with pytest.raises(AssertionError, match=complaint):
            watch.close()
    watch.forgive(complaint)
    watch.close()
    with pytest.raises(AssertionError, match="nothing to forgive"):
        watch.forgive(complaint)


def test_a_watched_page_reads_the_app_and_knows_nothing_of_another_persons(watch, page):
    with served(Starlette(routes=[Route("/", lambda request: HTMLResponse(ICON + "<h1>Judge</h1>"))])) as url:
        page.goto(url)
        assert page.locator("h1").text_content() == "Judge"
        page.evaluate("document.cookie = 'who=ann'")
        other = watch.open()
        other.goto(url)
        assert other.evaluate("document.cookie") == ""
    assert watch.complaints == []
