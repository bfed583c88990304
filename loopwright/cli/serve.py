"""`loopwright serve-reward` and `serve-model`: a reward or a policy for other processes and machines."""

import hashlib
import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from loopwright.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from loopwright.rewards import Reward


Host = Annotated[str, typer.Option(help="Address to listen on; beyond this machine only with a token.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")]


def _token_of(variable: str) -> Any:
    return typer.Option(help=f"File with the token that clients must send. [default: ${variable}]")


def serve_reward(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The Hugging Face folder of a reward model.")],
    host: Host = "127.0.0.1",
    port: Port = 8500,
    token_file: Annotated[Path | None, _token_of("LOOPWRIGHT_REWARD_TOKEN")] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Serve any sequence classifier: label=toxic, output=logit, sign=-1 …"),
    ] = None,
) -> None:
    """Score responses for other processes and machines over HTTP, until interrupted."""
    from loopwright.rewards.server import reward_app
    from loopwright.rewards.wire import TOKEN_VARIABLE
    from loopwright.serving.server import listen, serve
    from loopwright.serving.tokens import read_token

    token = read_token(token_file, TOKEN_VARIABLE)
    with listen(host, port, token, TOKEN_VARIABLE) as listening:
        settings = None if classifier is None else _settings(classifier)
        reward = _load(model, settings)
        app = reward_app(reward, token, content_hash=content_hash(model, settings))
        say_served(reward.name, listening, token)
        serve(app, listening)


def serve_model(  # noqa: PLR0913 -- one argument an option
    model: Annotated[Path, typer.Argument(metavar="MODEL_OR_RUN", help="A Hugging Face folder or a run directory.")],
    host: Host = "127.0.0.1",
    port: Port = 8400,
    token_file: Annotated[Path | None, _token_of("LOOPWRIGHT_MODEL_TOKEN")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most that a request may ask for.")] = 1024,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait while one is answered.")] = 8,
) -> None:
    """Answer in conversations over HTTP, as OpenAI's chat completions do, until interrupted."""
    from loopwright.responders.server import Limits, model_app
    from loopwright.responders.wire import TOKEN_VARIABLE
    from loopwright.serving.server import listen, serve
    from loopwright.serving.tokens import read_token

    token = read_token(token_file, TOKEN_VARIABLE)
    with listen(host, port, token, TOKEN_VARIABLE) as listening:
        from loopwright.cli.chat import find_model
        from loopwright.loop import refuse_several
        from loopwright.responders.local import LocalResponder

        refuse_several(model)
        responder = LocalResponder.open(find_model(model), say=say_aside)
        limits = Limits(new_tokens=max_new_tokens, waiting=waiting)
        app = model_app(responder, responder.policy, token, limits=limits)
        say_served(responder.name, listening, token, "/v1")
        serve(app, listening)


def say_served(name: str, listening: socket.socket, token: str | None, path: str = "") -> None:
    """Where a server is, and who is answered."""
    from loopwright.serving.server import shown_address

    Console(stderr=True).print(
        f"{name} is served on http://{shown_address(listening)}{path}, "
        f"{'without a token' if token is None else 'to who has the token'}; Ctrl-C ends it",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def say_aside(line: str) -> None:
    """On stderr, where it is not in the way of what a script reads."""
    typer.echo(line, err=True)


def content_hash(folder: Path, settings: dict[str, Any] | None) -> str:
    """Of all that decides the scores: the folder's files, and what is read from a classifier."""
    from loopwright.tracking.files import sha256_file

    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return hashlib.sha256(json.dumps([files, settings], sort_keys=True).encode()).hexdigest()


def _load(folder: Path, settings: dict[str, Any] | None) -> "Reward":
    import torch

    from loopwright.rewards import Classifier, RewardModel

    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        raise ModelError(f"{folder} holds the model in a folder of its own; give {folder / 'model'}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = folder.resolve().name
    if settings is None:
        return RewardModel(folder, name=name, device=device)
    return Classifier(folder, name=name, device=device, **settings)


def _settings(written: list[str]) -> dict[str, Any]:
    """Raises ConfigError where a setting has no value, or is none of a classifier."""
    settings: dict[str, Any] = {}
    for setting in written:
        key, equals, value = setting.partition("=")
        if not equals or key in settings:
            raise ConfigError(f"--classifier {setting}: write each setting once, as KEY=VALUE")
        settings[key.strip()] = int(value) if re.fullmatch(r"\s*-?[0-9]+\s*", value) else value.strip()
    if taken := settings.keys() & {"name", "device"}:
        raise ConfigError(f"--classifier {min(taken)}: is no setting of a classifier; leave it out")
    return settings
