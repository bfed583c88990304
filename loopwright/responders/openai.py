"""A model on any server that speaks OpenAI's chat completions. Replies are hostile until they prove otherwise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from loopwright.errors import ConfigError, ResponderError
from loopwright.responders.wire import DONE, TOKEN_VARIABLE, Completion, ModelList
from loopwright.schemas import Message, Pieces, Reply, ReplySettings
from loopwright.serving.client import (
    RETRIED_STATUSES,
    Deadline,
    WrongReply,
    asked_wait,
    checked_url,
    http_client,
    own_wait,
    received,
    shown,
)
from loopwright.serving.tokens import check_token, read_token

if TYPE_CHECKING:
    import httpx

BYTES_A_CHARACTER = 1000  # a chunk of a stream may bring a single one
TOP_TOKENS = 20  # the most that servers give
LONGEST_EVENT_BYTES, LONGEST_REFUSAL_BYTES = 2**20, 2**16

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class OpenAIResponder:
    """Asks a server that has `/chat/completions`, such as `loopwright serve-model`.

    What may pass is tried again as long as no word of the reply has come: a connection that fails, and the statuses
    429, 502, 503 and 504. Each reply has a connection of its own, so that several threads may ask.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        token: str | None = None,
        stream: bool = True,
        timeout_seconds: float = 120.0,
        attempts: int = 4,
        most_characters: int = 100_000,
    ) -> None:
        """Nothing is asked of the server before the first reply.

        Args:
            url: http(s)://host:port/v1, the address that is followed by /chat/completions.
            model: None: the only one that the server has at the time of each reply.
            token: None: from the environment variable LOOPWRIGHT_MODEL_TOKEN, if it is set.
            stream: whether pieces come as they are written; else the reply is one piece.
            timeout_seconds: for a reply, from the first request to the last byte, attempts and waiting included.
            attempts: requests until one succeeds; 4 take about 3 seconds of waiting.
            most_characters: of a reply; a longer one is an error.

        Raises:
            ConfigError: an argument makes no sense, or httpx is not installed.
        """
        self.url = checked_url(url, "a model server", example="http://host:8400/v1", variable=TOKEN_VARIABLE)
        self.name, self.model, self.stream = model or self.url, model, stream
        if attempts < 1 or most_characters < 1 or not 0 < timeout_seconds < float("inf"):
            raise ConfigError(
                f"model server {self.url}: timeout_seconds = {timeout_seconds}, attempts = {attempts} and "
                f"most_characters = {most_characters} must be positive"
            )
        self.timeout_seconds, self.attempts, self.most_characters = timeout_seconds, attempts, most_characters
        if token is not None:
            check_token(token, f"model server {self.url}", shortest=1)
        self._token = read_token(None, TOKEN_VARIABLE, shortest=1) if token is None else token
        http_client(None, timeout_seconds, "a model on a server").close()  # says now what is not installed

    def reply(self, messages: Sequence[Message], settings: ReplySettings) -> Pieces:
        """See `Responder.reply`.

        Raises:
            ResponderError: the server does not answer, refuses or answers wrongly, or has not one model but several.
        """
        end = time.monotonic() + self.timeout_seconds
        asked: dict[str, Any] = {
            "model": self._only_model(end) if self.model is None else self.model,
            "messages": [message.model_dump() for message in messages],
            "temperature": settings.temperature,
            "max_tokens": settings.max_new_tokens,
            "stream": self.stream,
        }
        if settings.seed is not None:
            asked["seed"] = settings.seed
        with closing(self._ask("POST", "chat/completions", asked, self._heard, end)) as pieces:
            yield from pieces

    def first_token(self, messages: Sequence[Message]) -> tuple[dict[str, float], Reply]:
        """The likeliest first tokens of a reply with their log-probabilities, nats, and the reply that they begin.

        Some servers keep log-probabilities to themselves: then there is none of them.

        Raises:
            ResponderError: as `reply`.
        """
        end = time.monotonic() + self.timeout_seconds
        asked: dict[str, Any] = {
            "model": self._only_model(end) if self.model is None else self.model,
            "messages": [message.model_dump() for message in messages],
            "temperature": 0,
            "max_tokens": 1,
            "stream": False,
            "logprobs": True,
            "top_logprobs": TOP_TOKENS,
        }
        with closing(self._ask("POST", "chat/completions", asked, self._likely, end)) as found:
            return next(found)

    def _likely(self, response: httpx.Response) -> Iterator[tuple[dict[str, float], Reply]]:
        most_bytes = BYTES_A_CHARACTER * self.most_characters
        heard = _Heard(self.most_characters)
        completion = self._parsed(Completion, b"".join(received(response, most_bytes)))
        heard.add(completion)
        likely: dict[str, float] = {}
        for choice in completion.choices:
            places = (choice.logprobs and choice.logprobs.content) or []
            for one in (*places[0].top_logprobs, places[0]) if places else ():
                likely[one.token] = one.logprob
        yield likely, heard.reply(self.name)

    def _only_model(self, end: float) -> str:
        with closing(self._ask("GET", "models", None, self._models, end)) as lists:
            names = [card.id for card in next(lists).data]
        if len(names) != 1:
            raise ResponderError(
                f"model server {self.url} has {len(names)} models ({self._shown(', '.join(names[:8]))}); name one"
            )
        return names[0]

    def _ask(
        self, method: str, path: str, asked: Any, read: Callable[[httpx.Response], Iterator[T]], end: float
    ) -> Generator[T, None, None]:
        """What is read from the first attempt that succeeds; after its first piece there is no other."""
        for attempt in range(1, self.attempts + 1):
            begun = False
            try:
                with closing(self._once(method, path, asked, read, end)) as pieces:
                    for piece in pieces:
                        begun = True
                        yield piece
                return
            except _Passing as trouble:
                if begun:
                    raise self._wrong(f"broke off in the middle of a reply ({trouble})") from None
                wait = own_wait(attempt) if trouble.wait is None else trouble.wait
                if attempt == self.attempts or time.monotonic() + wait >= end:
                    attempts = f"{attempt} attempt{'s' * (attempt > 1)}"
                    raise ResponderError(
                        f"model server {self.url} gave no answer in {attempts} and {self.timeout_seconds:g} seconds at "
                        f"most (the last: {trouble}); look whether it is running, and ask again"
                    ) from None
            time.sleep(wait)

    def _once(
        self, method: str, path: str, asked: Any, read: Callable[[httpx.Response], Iterator[T]], end: float
    ) -> Generator[T, None, None]:
        """One request. Neither an endless reply nor one that drips, its headers included, is waited for."""
        import httpx

        deadline, seconds = Deadline(), max(end - time.monotonic(), 0.001)
        content = None if asked is None else json.dumps(asked).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            with (
                http_client(self._token, seconds, "a model on a server") as client,
                deadline.watch(seconds),
                client.stream(
                    method,
                    f"{self.url}/{path}",
                    content=content,
                    headers=headers,
                    extensions={"trace": deadline.trace},
                ) as response,
            ):
                if response.status_code != 200:
                    self._refuse(response)
                for piece in read(response):
                    if deadline.passed:  # a reply that was cut off may look like a whole one
                        raise httpx.ReadTimeout("its time was over")
                    yield piece
        except (WrongReply, httpx.HTTPError, httpx.InvalidURL) as error:
            if deadline.passed:
                raise _Passing(f"the reply took longer than {self.timeout_seconds:g} seconds") from None
            if isinstance(error, WrongReply):
                raise self._wrong(str(error)) from None
            said = f"{type(error).__name__}: {self._shown(str(error))}"
            if isinstance(error, httpx.TimeoutException | httpx.NetworkError | httpx.RemoteProtocolError):
                raise _Passing(said) from error
            raise self._wrong(f"cannot be asked ({said})") from error

    def _heard(self, response: httpx.Response) -> Iterator[str | Reply]:
        """A reply, as it comes in."""
        heard, most_bytes = _Heard(self.most_characters), BYTES_A_CHARACTER * self.most_characters
        wanted = "text/event-stream" if self.stream else "application/json"
        given = response.headers.get("content-type", "nothing that it names").partition(";")[0].strip().lower()
        if given != wanted:
            raise WrongReply(f"replies with {shown(given)}, not {wanted}")
        body = received(response, most_bytes)
        for text in _event_data(body) if self.stream else [b"".join(body)]:
            if text.strip() == DONE.encode():
                break
            piece = heard.add(self._parsed(Completion, text))
            if piece:
                yield piece
        yield heard.reply(self.name)

    def _models(self, response: httpx.Response) -> Iterator[ModelList]:
        yield self._parsed(ModelList, b"".join(received(response, 2**20)))

    def _parsed(self, kind: type[M], body: bytes) -> M:
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the body"
            raise WrongReply(f"gives a reply that is none ({shown(place)}: {shown(first['msg'])})") from None

    def _refuse(self, response: httpx.Response) -> NoReturn:
        status = response.status_code
        sentence = self._shown(_sentence(b"".join(received(response, LONGEST_REFUSAL_BYTES))))
        if status in RETRIED_STATUSES:
            raise _Passing(f"status {status}: {sentence}", asked_wait(response.headers.get("retry-after")))
        advice = "mend the request"
        if 300 <= status < 400:
            advice = "redirects are not followed, for the token's sake: give the address it leads to"
        elif status in (401, 403):
            advice = f"set {TOKEN_VARIABLE} to the server's token"
        elif status == 404:
            advice = "look at the address, which mostly ends in /v1, and at the model's name"
        elif status >= 500:
            advice = "look at the server's log"
        raise ResponderError(f"model server {self.url} refused with status {status} ({sentence}); {advice}")

    def _wrong(self, what: str) -> ResponderError:
        return ResponderError(f"model server {self.url} {self._shown(what)}; is it the server that is meant?")

    def _shown(self, text: str) -> str:
        """A server's words, without the token, should it repeat that."""
        return shown(text if self._token is None else text.replace(self._token, "[the token]"))


class _Passing(Exception):
    """Trouble that may pass, and how long the server asks to wait for that."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Heard:
    """What was heard of a reply so far."""

    def __init__(self, most_characters: int) -> None:
        self.most_characters = most_characters
        self.pieces: list[str] = []
        self.characters = 0
        self.model: str | None = None
        self.fingerprint: str | None = None
        self.reason: str | None = None

    def add(self, part: Completion) -> str:
        """The text that a part brings. Raises WrongReply."""
        if part.error is not None:
            raise WrongReply(f"broke off in the middle of a reply ({shown(_sentence_in(part.error))})")
        self.model, self.fingerprint = part.model or self.model, part.system_fingerprint or self.fingerprint
        piece = ""
        for choice in part.choices:
            if choice.index != 0 or len(part.choices) > 1:
                raise WrongReply("gives several replies, where one was asked for")
            said = choice.delta or choice.message
            piece = (said and said.content) or ""
            self.reason = choice.finish_reason or self.reason
        self.pieces.append(piece)
        self.characters += len(piece)
        if self.characters > self.most_characters:
            raise WrongReply(f"wrote more than {self.most_characters} characters")
        return piece

    def reply(self, name: str) -> Reply:
        """All of it. Raises WrongReply where it did not come to its end."""
        if self.reason not in ("stop", "length"):
            how = "without saying why" if self.reason is None else f"with finish_reason {shown(self.reason)}"
            raise WrongReply(f"ended its reply {how}")
        return Reply(
            text="".join(self.pieces), finished=self.reason == "stop", model=self.model or name, policy=self.fingerprint
        )


def _event_data(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events (HTML standard, 9.2); their names, ids and comments are passed over.

    Read as bytes: a reader of text lines takes U+2028, which JSON may hold, for the end of one.
    """
    line, data = bytearray(), bytearray()
    for chunk in chunks:
        line += chunk
        if len(line) + len(data) > LONGEST_EVENT_BYTES:
            raise WrongReply(f"sends an event of more than {LONGEST_EVENT_BYTES} bytes")
        if b"\n" not in chunk:
            continue
        *ended, line = line.split(b"\n")
        for one in ended:
            one = one.removesuffix(b"\r")
            name, _, value = one.partition(b":")
            if name == b"data":
                data += value.removeprefix(b" ") + b"\n"
            elif not one and data:
                yield bytes(data[:-1])
                data.clear()


def _sentence(body: bytes) -> str:
    """What a refusal says, if it says it as JSON."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return _SAYS_NOTHING
    return _sentence_in(said.get("error", said.get("detail")) if isinstance(said, dict) else None)


def _sentence_in(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else _SAYS_NOTHING


_SAYS_NOTHING = "it does not say why"
