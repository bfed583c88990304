"""How the app is served."""

import os
import secrets
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, SecretStr, model_validator

from loopwright.config import Config
from loopwright.errors import ConfigError
from loopwright.serving.server import is_loopback

KEY_BYTES = 32


class ServerConfig(Config):
    """Settings of one server."""

    url: str = "http://127.0.0.1:8600"  # as people's browsers know it
    key: SecretStr  # of `read_key`: signs webhooks
    behind_proxy: bool = False  # a proxy on this machine ends TLS, and says who asks in X-Forwarded-For
    longest_body_bytes: PositiveInt = 4 * 2**20  # of what managers send; that of labelers is shorter
    longest_upload_bytes: PositiveInt = 256 * 2**20
    webhooks_to_this_machine: bool = False  # and nowhere else; http is enough then
    undo_seconds: Annotated[int, Field(ge=0)] = 10  # that the screen offers to take a label back

    @model_validator(mode="after")
    def _others_see_it_only_encrypted(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"url {self.url} is no address such as https://labels.example.org")
        if len(self.key.get_secret_value()) < KEY_BYTES or len(set(self.key.get_secret_value())) < 10:
            raise ValueError("the server's key could be guessed; let `loopwright feedback init` make one")
        return self

    @property
    def origin(self) -> str:
        """scheme://host[:port], as browsers write it."""
        return f"{urlsplit(self.url).scheme}://{self.host}"

    @property
    def host(self) -> str:
        """host[:port], without the port that browsers leave out."""
        parts = urlsplit(self.url.lower())
        return parts.netloc.removesuffix({"http": ":80", "https": ":443"}[parts.scheme])

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")


def check_address(host: str, config: ServerConfig, *, insecure: bool) -> None:
    """Raises ConfigError where others could listen to what labelers and the server say to each other."""
    if insecure or (is_loopback(host) and (config.secure or is_loopback(urlsplit(config.url).hostname or ""))):
        return
    if not is_loopback(host):
        raise ConfigError(
            f"--host {host}: other machines can reach this address, and nothing would be encrypted; listen on "
            "127.0.0.1 behind a proxy that ends TLS (--url https://… --behind-proxy), or say --insecure"
        )
    raise ConfigError(
        f"--url {config.url}: people would send their passwords unencrypted; use an https address of a proxy that ends "
        "TLS, or say --insecure"
    )


def read_key(file: Path) -> SecretStr:
    """The server's key. Raises ConfigError where there is none, or others can read it."""
    try:
        if file.stat().st_mode & 0o077:
            raise ConfigError(f"{file}: others on this machine can read the server's key; chmod 600 {file}")
        return SecretStr(file.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no key; loopwright feedback init makes one") from None


def make_key(file: Path) -> None:
    """A new key, for its owner's eyes only; one that is there stays."""
    if not file.exists():
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as out:
            out.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
