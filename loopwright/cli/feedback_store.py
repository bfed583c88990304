"""`loopwright feedback init` and `serve`: a store, and the app on it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from loopwright.cli.feedback import STORE, feedback_app
from loopwright.errors import ConfigError

Store = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/NAME.", show_default=True),
]
Key = Annotated[Path, typer.Option("--key", metavar="FILE", help="The server's key.")]
Url = Annotated[str, typer.Option("--url", help="The address that people open.")]
KEY, URL = Path("feedback.key"), "http://127.0.0.1:8600"
INVITED_SECONDS = 7 * 86_400.0


@feedback_app.command()
def init(
    store: Store = STORE,
    key: Key = KEY,
    url: Url = URL,
    invite: Annotated[bool, typer.Option("--invite", help="An administrator, also where there is one.")] = False,
) -> None:
    """Make a store, or bring an older one up to date. Where it has no administrator, invite one."""
    from loopwright.feedback.store import administration, people
    from loopwright.feedback.store.migrate import migrate, open_store
    from loopwright.feedback.web.settings import make_key

    migrate(store)
    make_key(key)
    now = time.time()
    with open_store(store) as database:
        if not invite and database.read(people.has_admin):
            typer.echo(f"{store} is ready; it has an administrator (--invite makes a link for another)")
            return
        secret = database.write(
            lambda connection: administration.invite(
                connection, people.COMMAND_LINE, None, "admin", expires=now + INVITED_SECONDS, now=now
            )
        )
    typer.echo(f"{store} is ready; serve it, and open this once, within a week, to become its administrator:")
    typer.echo(f"{url.rstrip('/')}/invitation/{secret}")


@feedback_app.command()
def serve(  # noqa: PLR0913 -- one argument an option
    store: Store = STORE,
    key: Key = KEY,
    url: Url = URL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8600,
    power_safe: Annotated[
        bool,
        typer.Option(
            "--power-safe", help="SQLite: labels survive a loss of power too; each commit waits for the disk."
        ),
    ] = False,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy on this machine ends TLS and says who asks.")
    ] = False,
    responder: Annotated[
        list[str] | None,
        typer.Option(
            "--responder", metavar="NAME=URL", help="A model to talk to, such as front=http://127.0.0.1:8400/v1."
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let others reach it unencrypted.")] = False,
) -> None:
    """Serve the annotation app until interrupted."""
    from loopwright.config import build
    from loopwright.feedback.store.migrate import open_store
    from loopwright.feedback.web.serve import serve as answer
    from loopwright.feedback.web.settings import ServerConfig, check_address, read_key
    from loopwright.responders.openai import OpenAIResponder
    from loopwright.serving.server import listening_socket

    config = build(ServerConfig, {"url": url, "key": read_key(key), "behind_proxy": behind_proxy}, "feedback serve")
    check_address(host, config, insecure=insecure)
    responders = {name: OpenAIResponder(address) for name, address in _named(responder or []).items()}
    with listening_socket(host, port) as listening, open_store(store, power_safe=power_safe) as database:
        typer.echo(f"{config.url} answers, from {store}; Ctrl-C ends it", err=True)
        answer(database, config, listening, responders)


def _named(written: list[str]) -> dict[str, str]:
    """Raises ConfigError where an address has no name, or a name has two."""
    named: dict[str, str] = {}
    for one in written:
        name, equals, address = one.partition("=")
        if not equals or not name or name in named:
            raise ConfigError(f"--responder {one}: write each model once, as NAME=URL")
        named[name] = address
    return named
