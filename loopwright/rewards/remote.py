"""A reward on another machine, asked over HTTP. Replies are hostile until they prove otherwise."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from loopwright.errors import ConfigError, RewardError
from loopwright.rewards.base import Sample, Scores, check_scores
from loopwright.rewards.wire import (
    PROTOCOL,
    TOKEN_VARIABLE,
    Health,
    Refusal,
    ScoreReply,
    ScoreRequest,
    ServedModel,
    TextSample,
    Version,
)
from loopwright.serving import client
from loopwright.serving.client import (
    RETRIED_STATUSES,
    Deadline,
    WrongReply,
    asked_wait,
    http_client,
    own_wait,
    received,
    shown,
)
from loopwright.serving.tokens import check_token, read_token

LONGEST_REPLY_BYTES = 16 * 2**20

M = TypeVar("M", bound=BaseModel)


class RemoteReward:
    """Scores text by a server that speaks docs/rewards.md's protocol, such as `loopwright serve-reward`.

    What may pass is tried again: a connection that fails or takes too long, and the statuses 429, 502, 503 and 504.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        batch_size: int = 64,
        timeout_seconds: float = 60.0,
        attempts: int = 6,
        content_hash: str | None = None,
        name: str = "remote",
    ) -> None:
        """Nothing is asked of the server before the first score.

        Args:
            url: http(s)://host:port, with a path where the server has one.
            token: None: from the environment variable LOOPWRIGHT_REWARD_TOKEN, if it is set.
            batch_size: samples a request.
            timeout_seconds: for one request, from the connection to the end of the reply.
            attempts: requests until one succeeds; 6 take about 15 seconds of waiting.
            content_hash: of the model that is wanted, as `GET /health` gives it. None: the one that answers first.

        Raises:
            ConfigError: an argument makes no sense, or httpx is not installed.
        """
        self.name, self.url = name, checked_url(url)
        if batch_size < 1 or attempts < 1 or not 0 < timeout_seconds < float("inf"):
            raise ConfigError(
                f"reward {name}: batch_size = {batch_size}, timeout_seconds = {timeout_seconds} and attempts = "
                f"{attempts} must be positive"
            )
        if token is not None:
            check_token(token, f"reward {name}")
        self.batch_size, self.timeout_seconds, self.attempts = batch_size, timeout_seconds, attempts
        self._wanted_hash = content_hash
        self._model: ServedModel | None = None  # who has answered first
        self._ids = itertools.count()
        self._deadline = Deadline()
        self._client = http_client(
            read_token(None, TOKEN_VARIABLE) if token is None else token, timeout_seconds, "a remote reward"
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """[B] scores, with their std and parts where the server gives them.

        Raises:
            RewardError: the server does not answer, refuses, answers wrongly or with another model than before.
            CheckError: a score is beyond float32.
        """
        if self._model is None:
            self._know(self._read(Health, self._request("GET", "health")))
        batches = [samples[first : first + self.batch_size] for first in range(0, len(samples), self.batch_size)]
        replies = [self._ask(batch) for batch in batches]
        stds = [reply.std for reply in replies if reply.std is not None]
        names = list(replies[0].parts)
        if len(stds) not in (0, len(replies)) or any(list(reply.parts) != names for reply in replies):
            raise self._wrong("gives std or parts for some samples and not for others")
        return Scores(
            check_scores(self.name, _joined(reply.scores for reply in replies), samples),
            std=check_scores(self.name, _joined(stds), samples) if stds else None,
            parts={
                name: check_scores(self.name, _joined(reply.parts[name] for reply in replies), samples)
                for name in names
            },
        )

    def state(self) -> dict[str, Any]:
        """Who has answered, so that a run that goes on later accepts nobody else."""
        return {"model": None if self._model is None else self._model.model_dump()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self._model = None if state["model"] is None else ServedModel(**state["model"])

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def _ask(self, samples: Sequence[Sample]) -> ScoreReply:
        asked = [
            TextSample(id=next(self._ids), prompt=sample.prompt, response=sample.response, finished=sample.finished)
            for sample in samples
        ]
        body = ScoreRequest(samples=tuple(asked)).model_dump_json().encode()
        reply = self._read(ScoreReply, self._request("POST", "score", body))
        self._know(reply)
        if reply.ids != [sample.id for sample in asked]:
            raise self._wrong("gives scores of other samples, or in another order")
        for what, numbers in {"scores": reply.scores, "std": reply.std, **reply.parts}.items():
            if numbers is not None and len(numbers) != len(asked):
                raise self._wrong(f"gives {len(numbers)} {shown(what)} for {len(asked)} samples")
        return reply

    def _know(self, reply: Health | ScoreReply) -> None:
        """Remember who answers, and notice when it is somebody else."""
        if isinstance(reply, Health) and not reply.scores_text:
            raise self._wrong("does not score text")
        now = reply.model
        if self._wanted_hash is not None and now.hash != self._wanted_hash:
            raise RewardError(
                f"reward server {self.url} serves {shown(now.name)} with the hash {shown(str(now.hash))}, not "
                f"{self._wanted_hash}; start it with the model that is meant, or change content_hash"
            )
        if self._model is not None and now != self._model:
            raise RewardError(
                f"reward server {self.url} served {shown(self._model.name)} ({shown(str(self._model.hash))}) and now "
                f"serves {shown(now.name)} ({shown(str(now.hash))}): scores of two models do not compare; start it "
                "with the first again and run the same command, which goes on from the last checkpoint"
            )
        self._model = now

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of a reply with status 200."""
        import httpx

        passing = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
        for attempt in range(1, self.attempts + 1):
            wait = None
            try:
                reply = self._once(method, path, body)
            except passing as error:
                reason = f"{type(error).__name__}: {shown(str(error))}"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise self._wrong(f"cannot be asked ({type(error).__name__}: {shown(str(error))})") from error
            else:
                if reply.status == 200:
                    return reply.body
                reason = f"status {reply.status}: {_sentence(reply.body)}"
                if reply.status not in RETRIED_STATUSES:
                    raise self._refused(reply)
                wait = asked_wait(reply.headers.get("retry-after"))
            if attempt < self.attempts:
                time.sleep(own_wait(attempt) if wait is None else wait)
        raise RewardError(
            f"reward server {self.url} gave no answer in {self.attempts} attempts (the last: {reason}); start it again "
            "and run the same command: a run goes on from its last checkpoint, nothing is lost"
        )

    def _once(self, method: str, path: str, body: bytes | None) -> _Reply:
        """One request. Neither an endless reply nor one that drips, its headers included, is waited for."""
        import httpx

        try:
            with self._deadline.watch(self.timeout_seconds):
                reply = self._exchange(method, path, body)
        except httpx.TransportError:
            if not self._deadline.passed:
                raise
        if self._deadline.passed:  # a reply that was cut off may look like a whole one
            raise httpx.ReadTimeout(f"the reply took longer than {self.timeout_seconds:g} seconds")
        return reply

    def _exchange(self, method: str, path: str, body: bytes | None) -> _Reply:
        headers = {} if body is None else {"Content-Type": "application/json"}
        with self._client.stream(
            method, f"{self.url}/{path}", content=body, headers=headers, extensions={"trace": self._deadline.trace}
        ) as response:
            try:
                content = b"".join(received(response, LONGEST_REPLY_BYTES))
            except WrongReply as error:
                raise self._wrong(str(error)) from None
            return _Reply(response.status_code, response.headers, content)

    def _read(self, kind: type[M], body: bytes) -> M:
        try:
            version = Version.model_validate_json(body).protocol
            if version != PROTOCOL:
                raise self._wrong(f"speaks version {version} of the protocol, not {PROTOCOL}")
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the body"
            raise self._wrong(f"gives a reply that is none ({shown(place)}: {shown(first['msg'])})") from None

    def _refused(self, reply: _Reply) -> RewardError:
        advice = "mend the request"
        if 300 <= reply.status < 400:
            advice = "redirects are not followed, for the token's sake: give the address it leads to"
        elif reply.status == 401:
            advice = f"set {TOKEN_VARIABLE} to the server's token"
        elif reply.status == 413:
            advice = "lower batch_size"
        elif reply.status >= 500:
            advice = "look at the server's log"
        return RewardError(
            f"reward server {self.url} refused with status {reply.status} ({_sentence(reply.body)}); {advice}"
        )

    def _wrong(self, what: str) -> RewardError:
        return RewardError(f"reward server {self.url} {what}; is it the server that is meant?")


class _Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def checked_url(url: str) -> str:
    """The address of a reward server, as requests begin with it.

    Raises:
        ConfigError: it is none. Nothing of it is repeated, because passwords stand in the strangest places.
    """
    return client.checked_url(url, "a reward server", example="http://host:8500", variable=TOKEN_VARIABLE)


def _sentence(body: bytes) -> str:
    """What a refusal says, if it says it as JSON."""
    try:
        return shown(Refusal.model_validate_json(body).error)
    except ValidationError:
        return "it does not say why"


def _joined(lists: Iterable[Sequence[float]]) -> Any:
    return torch.tensor(list(itertools.chain.from_iterable(lists)), dtype=torch.float32)
