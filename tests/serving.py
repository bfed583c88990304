"""Servers on real sockets of this machine, for as long as a test needs them."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import uvicorn

from loopwright.serving.server import listening_socket

TOKEN = "a-token-that-nobody-guesses"


class RunningApp:
    """An app served from a thread of this process."""

    def __init__(self, app, port=0):
        self._listening = listening_socket("127.0.0.1", port)
        self.port = self._listening.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._listening],), daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def die(self):
        """As a kill would: connections break, nobody is answered any more, and the port is free."""
        for connection in list(self._server.server_state.connections):
            connection.loop.call_soon_threadsafe(connection.transport.abort)
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def stop(self):
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()


@contextmanager
def scripted(*replies):
    """A server that gives the nth request the nth reply: a function of its body -> (status, headers, body).

    A body is bytes, or gives them one after the other and ends with the connection.

    It yields its address and what it was sent: (method and path, headers, body).
    """
    waiting, seen = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((f"{self.command} {self.path}", dict(self.headers), body))
            status, headers, content = waiting.pop(0)(body)
            if status is None:  # hang up
                self.close_connection = True
                return
            self.send_response(status)
            length = {"Content-Length": str(len(content))} if isinstance(content, bytes) else {"Connection": "close"}
            for name, value in {**length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for piece in [content] if isinstance(content, bytes) else content:
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True

        do_GET = do_POST = answer

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
