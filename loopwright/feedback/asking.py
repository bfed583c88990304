"""A run asks people: what it publishes, how it waits, what it takes home."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, PositiveInt

from loopwright.errors import ConfigError, StoreError
from loopwright.feedback.client import FeedbackClient, Line, Project, checked_url
from loopwright.feedback.connection import Unreachable
from loopwright.feedback.items import OFF_TOPIC, Item
from loopwright.feedback.kinds import FORMS
from loopwright.schemas import Message, Record

SOURCE = "store.json"  # in an artifact made from labels: whose they are
POLL_SECONDS = 5.0  # between two looks at how far people are

T = TypeVar("T")


def _address(url: str) -> str:
    try:
        return checked_url(url)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _one_kind(wait: Mapping[str, int]) -> Mapping[str, int]:
    kinds = {form.makes[0] for form in FORMS.values() if not form.written}
    if len(wait) != 1 or not kinds >= set(wait):
        raise ValueError(f"name one of {', '.join(sorted(kinds))} and how many, such as {{comparisons: 500}}")
    return wait


StoreUrl = Annotated[str, AfterValidator(_address)]  # of a server, without a password
Wait = Annotated[Mapping[str, PositiveInt], AfterValidator(_one_kind)]  # the kind of label and how many must be there


class Source(Record):
    """The store and the labels that an artifact was made from."""

    store: str  # its URL
    project: str
    project_id: str
    policy: str | None  # whose answers were judged: an artifact id
    labels: tuple[str, ...]  # uids, in the order they were given


class Bar(Protocol):
    def advance(self, n: int = 1, **shown: float) -> None: ...


class Watch(Protocol):
    """Where a person sees how far it is; the runtime of a stage is one."""

    def progress(self, description: str, total: int, start: int = 0) -> AbstractContextManager[Bar]: ...

    def log(self, message: str) -> None: ...


def project_for(client: FeedbackClient, name: str, wait: Mapping[str, int], stage: str) -> Project:
    """The project that is to be asked.

    Raises:
        ConfigError: it cannot make what is waited for.
        StoreError: there is none of the name that the token may manage.
    """
    project = client.project(name)
    form = FORMS.get(project.kind)
    if form is None or form.written:
        raise ConfigError(
            f"{stage}.project = {name}: people write the items of a {project.kind} project themselves; name a project "
            "that asks about answers"
        )
    (kind,) = wait
    if kind != form.makes[0]:
        raise ConfigError(
            f"{stage}.wait: a {project.kind} project such as {name} makes {form.makes[0]}, not {kind}; wait for those, "
            "or name another project"
        )
    return project


def items_to_judge(
    kind: str,
    messages: Sequence[Message],
    responses: Sequence[str],
    *,
    policy: str | None,
    tags: Mapping[str, Any],
    off_topic: Sequence[int] = (),
) -> Iterator[Item]:
    """What a project of this kind asks about the answers to one prompt: every pair, each answer, or all together.

    Equal answers count once; a prompt with too few different ones gives nothing.
    """
    fewest, most = FORMS[kind].responses
    places = [place for place, response in enumerate(responses) if response not in responses[:place]]
    together = [places] if most > 2 else combinations(places, most)
    for shown in together:
        if len(shown) >= fewest:
            strange = [number for number, place in enumerate(shown) if place in off_topic]
            yield Item(
                key=key_of(policy, messages, [responses[place] for place in shown]),
                prompt=tuple(messages),
                responses=tuple(responses[place] for place in shown),
                tags={**tags, OFF_TOPIC: strange} if strange else dict(tags),
                policy=policy,
            )


def key_of(policy: str | None, messages: Sequence[Message], responses: Sequence[str]) -> str:
    """The same for the same question about the same policy: a run that goes on asks nothing twice."""
    asked = [policy, [[message.role, message.content] for message in messages], list(responses)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:40]


def ask(
    client: FeedbackClient, project: Project, items: Sequence[Item], *, batch: str, wanted: int, watch: Watch
) -> list[Line]:
    """Publish the items, wait until `wanted` labels of the batch count, and take all that are there.

    It may be killed at any moment and begun again: what is published stays, and so does what people said.

    Raises:
        StoreError: the batch cannot bring as many labels, or the server refuses.
    """
    published = _patiently(client, watch, lambda: client.publish(project.id, items, batch=batch))
    watch.log(
        f"{project.name} at {client.url} asks {published.new} new items ({published.known} were there), "
        f"and waits for {wanted} labels"
    )
    with watch.progress("people label", wanted) as bar:
        shown = 0
        while True:
            found = _patiently(client, watch, lambda: client.batch(project.id, batch))
            bar.advance(min(found.labels, wanted) - shown)
            shown = min(found.labels, wanted)
            if found.labels >= wanted:
                lines = _patiently(client, watch, lambda: list(client.labels(project.id, batch=batch)))
                if len({line.label for line in lines}) >= wanted:  # nobody took one back meanwhile
                    return lines
            if found.wanted < wanted:
                raise StoreError(
                    f"{client.url}: project {project.name} can bring {found.wanted} labels that count of these "
                    f"{found.items} items, not {wanted}; wait for fewer, or ask about more prompts"
                )
            time.sleep(POLL_SECONDS)


def source_of(client: FeedbackClient, project: Project, policy: str | None, lines: Sequence[Line]) -> Source:
    """What to note beside records made from these labels."""
    labels = tuple(dict.fromkeys(line.label for line in lines))
    return Source(store=client.url, project=project.name, project_id=project.id, policy=policy, labels=labels)


def read_source(folder: Path) -> Source | None:
    """What an artifact's folder says of the labels it was made from; None where it was made from none of a store."""
    try:
        return Source.model_validate_json((folder / SOURCE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _patiently(client: FeedbackClient, watch: Watch, call: Callable[[], T]) -> T:
    """The call's result, however long the server is away."""
    told = False
    while True:
        try:
            result = call()
        except Unreachable:
            if not told:
                watch.log(f"{client.url} does not answer; waiting for it (Ctrl-C loses nothing)")
                told = True
            time.sleep(POLL_SECONDS)
        else:
            if told:
                watch.log(f"{client.url} answers again")
            return result
