"""A browser that reaches this machine only, and pages of which every request and error is seen."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, WebError, sync_playwright

from tests.feedback.services import chromium

LOOPBACK = ("127.0.0.1", "localhost")

FLAGS = (
    "--no-sandbox",  # Chromium's needs more than a container gives, and refuses root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    # The block is the browser's own: no name or address but these resolves, whether a page, a redirect, a socket or a
    # prefetch asks. A proxy would resolve them for it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--no-proxy-server",
)


@contextmanager
def running_browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


MOST_WAITS, WAIT_MILLISECONDS = 20, 100


class Watch:
    """The pages of one test; `complaints` says what they asked of other hosts and which errors they had."""

    def __init__(self, browser: Browser) -> None:
        self.complaints: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(self, **options) -> Page:
        """A page with cookies and storage of its own: another person's. `options` are `Browser.new_context`'s."""
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        context.on("request", self._request)
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("page", self._sockets)
        return context.new_page()

    def forgive(self, pattern: str) -> None:
        """Take back the complaints that the pattern is found in, of which there must be one: an answer 403, say.

        The browser tells them when it comes to it, which may be after the page has loaded.
        """
        open_pages = [page for context in self._contexts for page in context.pages]
        for page in open_pages[-1:] * MOST_WAITS:
            if any(re.search(pattern, complaint) for complaint in self.complaints):
                break
            page.wait_for_timeout(WAIT_MILLISECONDS)
        kept = [complaint for complaint in self.complaints if not re.search(pattern, complaint)]
        assert len(kept) < len(self.complaints), f"nothing to forgive: {pattern!r} is not in {self.complaints}"
        self.complaints = kept

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert not self.complaints, "\n".join(self.complaints)

    def _request(self, request: Request) -> None:
        self._address(request.url)

    def _sockets(self, page: Page) -> None:
        page.on("websocket", lambda socket: self._address(socket.url))

    def _address(self, url: str) -> None:
        host = urlsplit(url).hostname  # none in data: and blob:
        if host and host not in LOOPBACK:
            self.complaints.append(f"asked another host: {url}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"error in the console: {message.text} ({message.location['url']})")

    def _error(self, error: WebError) -> None:
        self.complaints.append(f"error in the page: {error.error}")
