"""The hostile texts of payloads.json in a real Chromium: nothing runs, nothing is asked of another host.

Without a Content-Security-Policy too: the renderer must hold alone. A page that shows the same texts as HTML proves
that the test would see it.
"""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from loopwright.feedback.web.text import raw, render
from loopwright.feedback.web.word_diff import diff

playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests without playwright")

PAYLOADS = json.loads((Path(__file__).parent / "payloads.json").read_text())
CSP = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def page_of(parts: list[str]) -> bytes:
    body = "\n".join(f"<section>{part}</section>" for part in parts)
    return f'<!doctype html><meta charset="utf-8"><title>p</title><main>{body}</main>'.encode(errors="replace")


def safe_parts() -> list[str]:
    parts = []
    for text in PAYLOADS.values():
        before, after = diff(text, text[::-1])
        parts += [render(text), f"<pre>{raw(text)}</pre>", before, after]
    return parts


PAGES = {
    "/safe": (page_of(safe_parts()), None),
    "/safe-with-policy": (page_of(safe_parts()), CSP),
    "/as-html": (page_of([PAYLOADS["img onerror"], PAYLOADS["image of another host"]]), None),
    "/refresh-as-html": (page_of([PAYLOADS["meta refresh"]]), None),
}


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        content, policy = PAGES.get(self.path, (None, None))
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        if policy:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no browser tests without Chromium: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    arguments.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=arguments)
        yield browser
        browser.close()


class Seen(NamedTuple):
    ran: bool
    dialogs: list[str]
    requests: list[str]  # but for the page itself
    url: str  # of the page at the end
    visible: str
    attributes: set[str]
    links: set[str]


EVENTS = "mouseover mouseenter focus focusin click load error toggle animationstart start pointerover".split()


def visit(browser, url: str) -> Seen:
    """Load a page, send every event to every element of it (links are not followed), and wait a little."""
    page = browser.new_page()
    dialogs, requests = [], []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    page.wait_for_timeout(300)  # for what a refresh or a timer starts
    if page.url != url:
        return Seen(False, dialogs, requests[1:], page.url, "", set(), set())
    page.evaluate(
        """(events) => {
            document.addEventListener('click', (event) => event.preventDefault(), true)
            for (const element of document.querySelectorAll('main *'))
                for (const event of events) element.dispatchEvent(new Event(event, {bubbles: true, cancelable: true}))
        }""",
        EVENTS,
    )
    page.wait_for_timeout(100)
    seen = Seen(
        page.evaluate("'__xss' in window"),
        dialogs,
        requests[1:],
        page.url,
        page.evaluate("document.querySelector('main').innerText"),
        set(page.evaluate("[...document.querySelectorAll('main *')].flatMap((e) => e.getAttributeNames())")),
        set(page.evaluate("[...document.querySelectorAll('main a')].map((e) => e.protocol + e.target + e.rel)")),
    )
    page.close()
    return seen


@pytest.mark.parametrize("path", ["/safe", "/safe-with-policy"])
def test_no_payload_runs_or_reaches_another_host(browser, origin, path):
    seen = visit(browser, origin + path)
    assert not seen.ran and not seen.dialogs
    assert [url for url in seen.requests if url != f"{origin}/favicon.ico"] == []
    assert seen.url == origin + path  # no refresh has led away
    assert seen.attributes <= {"href", "rel", "target", "dir", "title", "value", "data-characters"}
    assert seen.links <= {f"{scheme}_blanknoopener noreferrer nofollow" for scheme in ("http:", "https:")}
    assert "alert(1)" in seen.visible and "{{ 7*7 }}" in seen.visible and "U+202E" in seen.visible


def test_the_same_texts_as_html_are_noticed(browser, origin):
    """What the tests above would see if the renderer let it through."""
    page = browser.new_page()
    with page.expect_event("dialog") as dialog, page.expect_request("http://evil.example/pixel.png"):
        page.on("dialog", lambda shown: shown.dismiss())
        page.goto(origin + "/as-html")
    assert dialog.value.message == "1"
    assert page.evaluate("'__xss' in window")
    with page.expect_request("http://evil.example/moved"):
        page.goto(origin + "/refresh-as-html")
    page.close()


def test_direction_is_that_of_the_text_whatever_marks_and_addresses_say(browser):
    """A right-to-left paragraph that begins with a hidden character, or holds a link, stays right-to-left."""
    page = browser.new_page()
    persian = "می‌خواهم [سلام](http://a.example/latin) بگویم"
    page.set_content(
        f'<div id="pane" dir="auto">{raw(chr(0x202D) + persian)}</div><div id="rendered">{render(persian)}</div>'
    )
    direction = "(selector) => getComputedStyle(document.querySelector(selector)).direction"
    assert page.evaluate(direction, "#pane") == "rtl"
    assert page.evaluate(direction, "#rendered p") == "rtl"
    assert page.evaluate(direction, "#pane mark") == "ltr"
    assert page.evaluate(direction, "#rendered bdi") == "ltr"
    page.close()
