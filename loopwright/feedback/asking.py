"""A run asks people: what it publishes, how it waits, what it takes home."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

from pydantic import AfterValidator, PositiveInt, TypeAdapter

from loopwright.errors import ConfigError, StoreError
from loopwright.feedback.client import Batch, FeedbackClient, Line, Project, checked_url
from loopwright.feedback.connection import Unreachable, shown
from loopwright.feedback.items import OFF_TOPIC, POLICIES, Item
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


def _kinds_there_are(wait: Mapping[str, int]) -> Mapping[str, int]:
    kinds = {form.makes[0] for form in FORMS.values()}
    if not wait or not kinds >= set(wait):
        raise ValueError(f"name some of {', '.join(sorted(kinds))} and how many, such as {{comparisons: 500}}")
    return wait


StoreUrl = Annotated[str, AfterValidator(_address)]  # of a server, without a password
Wait = Annotated[Mapping[str, PositiveInt], AfterValidator(_kinds_there_are)]  # of each kind, how many must be there
Names = str | tuple[str, ...]  # of projects: one, or one for each kind


class Source(Record):
    """The store and the labels that an artifact was made from."""

    store: str  # its URL
    project: str
    project_id: str
    policy: str | None  # whose answers were judged: an artifact id
    labels: tuple[str, ...]  # uids, in the order they were given


_SOURCES = TypeAdapter(tuple[Source, ...])


class Bar(Protocol):
    def advance(self, n: int = 1, **shown: float) -> None: ...


class Watch(Protocol):
    """Where a person sees how far it is; the runtime of a stage is one."""

    def progress(self, description: str, total: int, start: int = 0) -> AbstractContextManager[Bar]: ...

    def log(self, message: str) -> None: ...


class Question(NamedTuple):
    """What one project's people are asked, and how many labels must come of it."""

    project: Project
    items: Sequence[Item]
    wanted: int


def projects_for(client: FeedbackClient, names: Names, wait: Mapping[str, int], stage: str) -> list[Project]:
    """The projects that are to be asked, one for each kind that is waited for, in that order.

    Raises:
        ConfigError: they cannot make what is waited for, or two make the same.
        StoreError: there is none of a name that the token may manage.
    """
    found: dict[str, Project] = {}
    for name in (names,) if isinstance(names, str) else names:
        project = client.project(name)
        if project.kind not in FORMS:
            raise ConfigError(
                f"{stage}.project = {name} is of a kind that this program does not know ({shown(project.kind)}); use "
                "the program that serves it, or name another project"
            )
        kind = FORMS[project.kind].makes[0]
        if kind not in wait:
            raise ConfigError(
                f"{stage}.wait: a {project.kind} project such as {name} makes {kind}, not {', '.join(wait)}; wait for "
                "those, or name another project"
            )
        if kind in found:
            raise ConfigError(f"{stage}.project: {found[kind].name} and {name} both make {kind}; ask one of them")
        found[kind] = project
    if missing := next((kind for kind in wait if kind not in found), None):
        raise ConfigError(f"{stage}.wait: none of the projects makes {missing}; name one that does, beside the others")
    return [found[kind] for kind in wait]


def may_be_written(wait: Mapping[str, int]) -> bool:
    """Whether projects in which people write what is judged can make all of it."""
    return set(wait) <= {form.makes[0] for form in FORMS.values() if form.written}


def items_to_judge(
    kind: str,
    messages: Sequence[Message],
    responses: Sequence[str],
    *,
    policy: str | None,
    tags: Mapping[str, Any],
    off_topic: Sequence[int] = (),
    policies: Sequence[str] = (),
) -> Iterator[Item]:
    """What a project of this kind asks about the answers to one prompt: every pair, each answer, or all together.

    Equal answers count once; a prompt with too few different ones gives nothing, and any where people write themselves.

    Args:
        policies: who wrote each response, where several did.
    """
    if FORMS[kind].written:
        return
    fewest, most = FORMS[kind].responses
    places = [place for place, response in enumerate(responses) if response not in responses[:place]]
    together = [places] if most > 2 else combinations(places, most)
    for chosen in together:
        if len(chosen) >= fewest:
            strange = [number for number, place in enumerate(chosen) if place in off_topic]
            own: dict[str, list[Any]] = {OFF_TOPIC: strange} if strange else {}
            own |= {POLICIES: [policies[place] for place in chosen]} if policies else {}
            yield Item(
                key=key_of(policy, messages, [responses[place] for place in chosen]),
                prompt=tuple(messages),
                responses=tuple(responses[place] for place in chosen),
                tags={**tags, **own},
                policy=policy,
            )


def key_of(policy: str | None, messages: Sequence[Message], responses: Sequence[str]) -> str:
    """The same for the same question about the same policy: a run that goes on asks nothing twice."""
    asked = [policy, [[message.role, message.content] for message in messages], list(responses)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:40]


def ask(client: FeedbackClient, questions: Sequence[Question], *, batch: str, watch: Watch) -> list[list[Line]]:
    """Publish the items, wait until enough labels of the batch count in each project, and take all that are there.

    Where people write what is judged nothing is published: what a policy answers them is a batch of the policy's id.
    It may be killed at any moment and begun again: what is published stays, and so does what people said.

    Raises:
        StoreError: a batch cannot bring as many labels, or the server refuses.
    """
    for project, items, wanted in questions:
        published = _patiently(client, watch, partial(client.publish, project.id, items, batch=batch))
        written, asks = FORMS[project.kind].written, f"asks {published.new} new items ({published.known} were there)"
        what = "has people talk with a model" if written else asks
        watch.log(f"{project.name} at {client.url} {what}, and waits for {wanted} labels")
    told: dict[str, str] = {}  # project's id -> whom its people talk with in the policy's place, as it was said
    with watch.progress("people label", sum(one.wanted for one in questions)) as bar:
        before = 0
        while True:
            found = [_patiently(client, watch, partial(client.batch, one.project.id, batch)) for one in questions]
            there = {
                FORMS[one.project.kind].makes[0]: state.labels for one, state in zip(questions, found, strict=True)
            }
            counted = sum(min(state.labels, one.wanted) for one, state in zip(questions, found, strict=True))
            bar.advance(counted - before, **there)
            before = counted
            if counted == sum(one.wanted for one in questions):
                lines = [_patiently(client, watch, partial(_lines, client, one.project, batch)) for one in questions]
                said = (len({line.label for line in part}) for part in lines)
                if all(count >= one.wanted for one, count in zip(questions, said, strict=True)):
                    return lines  # nobody took one back meanwhile
            for one, state in zip(questions, found, strict=True):
                if FORMS[one.project.kind].written:
                    missing = _who_is_missing(client.url, one.project, batch, state)
                    if missing and missing != told.get(one.project.id):
                        watch.log(missing)
                    told[one.project.id] = missing
                elif state.wanted < one.wanted:
                    raise StoreError(
                        f"{client.url}: project {one.project.name} can bring {state.wanted} labels that count of these "
                        f"{state.items} items, not {one.wanted}; wait for fewer, or ask about more prompts"
                    )
            time.sleep(POLL_SECONDS)


def _who_is_missing(url: str, project: Project, policy: str, state: Batch) -> str:
    """What to do where people talk, but not with the policy that is waited for; empty where they do."""
    if state.items:
        return ""
    talk = "nobody has talked with it yet" if state.answering is None else f"people talk with {shown(state.answering)}"
    return (
        f"{project.name} at {url}: labels count of what {policy} answers, but {talk}; serve it (loopwright "
        f"serve-model) as the model that the annotation server calls {shown(str(project.config.get('responder')))}"
    )


def _lines(client: FeedbackClient, project: Project, batch: str) -> list[Line]:
    return list(client.labels(project.id, batch=batch))


def source_of(client: FeedbackClient, project: Project, policy: str | None, lines: Sequence[Line]) -> Source:
    """What to note beside records made from these labels."""
    labels = tuple(dict.fromkeys(line.label for line in lines))
    return Source(store=client.url, project=project.name, project_id=project.id, policy=policy, labels=labels)


def write_sources(folder: Path, sources: Sequence[Source]) -> None:
    """Beside the records that were made from these labels; one a project."""
    (folder / SOURCE).write_bytes(_SOURCES.dump_json(tuple(sources), indent=1) + b"\n")


def read_sources(folder: Path) -> tuple[Source, ...]:
    """What an artifact's folder says of the labels it was made from; nothing where it was made from none of a store."""
    try:
        text = (folder / SOURCE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    return _SOURCES.validate_json(text if text.startswith("[") else f"[{text}]")  # of one project: once without a list


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
