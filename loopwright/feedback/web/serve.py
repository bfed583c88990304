"""Answer until the process is told to stop."""

import socket
from collections.abc import Mapping
from contextlib import closing

import uvicorn

from loopwright.feedback.store.database import Database
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.choosing import choosing
from loopwright.feedback.web.deliver import delivering
from loopwright.feedback.web.settings import ServerConfig
from loopwright.schemas import Responder
from loopwright.serving.server import quiet

MOST_CONNECTIONS = 2_000


def serve(
    database: Database, config: ServerConfig, listening: socket.socket, responders: Mapping[str, Responder]
) -> None:
    """Serve the app on a socket that listens already, tell other servers what is said, and choose what to ask next."""
    app = create_app(database, config, responders)
    settings = quiet(
        app,
        most_connections=MOST_CONNECTIONS,
        proxy_headers=config.behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_graceful_shutdown=10,
    )
    with closing(app.state.figures), delivering(database, config), choosing(database):
        uvicorn.Server(settings).run(sockets=[listening])
