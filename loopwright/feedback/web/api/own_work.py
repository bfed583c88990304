"""What labelers see of themselves: their answers, their progress, the guideline they read, their preferences."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator, Field, model_validator
from sqlalchemy import Connection

from loopwright.errors import StoreError
from loopwright.feedback.store import labels as store_labels
from loopwright.feedback.store import own_work
from loopwright.feedback.store.people import change_account
from loopwright.feedback.store.projects import acknowledge, newest_guideline, unseen_guideline
from loopwright.feedback.web.admission import Labeler, LabelsInProject, database_of
from loopwright.feedback.web.api.labeling import Done, Html, as_html
from loopwright.schemas import Message, Record

router = APIRouter(prefix="/api/v1", tags=["labeling"])

ACTIONS = (  # of the screen that have a key of their own; 1 to 9 and 0 choose, Escape leaves
    "submit", "skip", "flag", "undo", "previous", "next", "up", "down", "reason", "mark", "edit", "diff", "raw", "blur",
    "lock", "guideline", "history", "keys",
)  # fmt: skip
Key = Annotated[
    str, Field(pattern=r"^([!-/:-@\[-~]|Enter|Arrow(Up|Down|Left|Right)|Page(Up|Down)|Home|End|F[0-9]{1,2})$")
]


def _few(given: Any) -> Any:
    """Checked first: each wrong one of very many would be told."""
    if isinstance(given, dict) and len(given) > len(ACTIONS):
        raise ValueError(f"there are {len(ACTIONS)} actions")
    return given


class LabelShown(Record):
    """One's own label."""

    label: str
    ticket: str | None
    at: float
    seconds: float | None
    frozen: bool  # something was made from it: it can be changed no more
    answer: dict[str, Any]
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]


class History(Record):
    labels: tuple[LabelShown, ...]


class Progress(Record):
    """One's own; nobody is compared with others."""

    today: int  # labels since the time that was asked about
    project: int
    seconds: float | None  # a label, the median of the newest


class GuidelineShown(Record):
    version: int | None  # none: the project has no guideline
    html: Html | None
    seen: bool  # this version was acknowledged


class Seen(Record):
    version: Annotated[int, Field(ge=1)]


class Preferences(Record):
    """Of the labeler's screen."""

    theme: Literal["system", "light", "dark"] = "system"
    layout: Literal["columns", "rows"] = "columns"
    text: Literal["rendered", "raw"] = "rendered"
    lock: bool = False  # both answers scroll together
    keys: Annotated[dict[str, Key], BeforeValidator(_few)] = {}  # action -> key, where it is not the usual one

    @model_validator(mode="after")
    def _each_key_does_one_thing(self) -> Self:
        if stray := set(self.keys) - set(ACTIONS):
            raise ValueError(f"{min(stray)} is no action; there are {', '.join(ACTIONS)}")
        if len(set(self.keys.values())) < len(self.keys):
            raise ValueError("one key is given to two actions")
        return self


@router.get("/projects/{project}/history")
def history(request: Request, member: LabelsInProject) -> History:
    """The caller's own newest labels, newest first."""

    def look(connection: Connection) -> tuple[list[store_labels.Said], dict[int, own_work.Kept]]:
        said = store_labels.history(connection, member.project, member.account)
        return said, own_work.kept(connection, [one.id for one in said])

    said, kept = database_of(request).read(look)
    return History(
        labels=tuple(
            LabelShown(
                label=one.uid, ticket=one.ticket, at=one.at, seconds=kept[one.id].seconds, frozen=kept[one.id].frozen,
                answer=one.answer, prompt=one.asked.prompt,
                answers=tuple(one.asked.responses[place] for place in one.asked.order),
            )
            for one in said
        )
    )  # fmt: skip


@router.get("/projects/{project}/progress")
def progress(
    request: Request, member: LabelsInProject, since: Annotated[float, Query(ge=0, allow_inf_nan=False)]
) -> Progress:
    """How far the caller is.

    `since` is when the caller's day began: only their browser knows in which time zone they are.
    """
    found = database_of(request).read(
        lambda connection: own_work.progress(connection, member.project.id, member.account, since=since)
    )
    return Progress(today=found.since, project=found.project, seconds=found.seconds)


@router.get("/projects/{project}/guideline")
def guideline(request: Request, member: LabelsInProject) -> GuidelineShown:
    """The newest version of the project's guideline."""

    def look(connection: Connection) -> GuidelineShown:
        newest = newest_guideline(connection, member.project.id)
        if newest is None:
            return GuidelineShown(version=None, html=None, seen=True)
        seen = unseen_guideline(connection, member.project.id, member.account) is None
        return GuidelineShown(version=newest.version, html=as_html(newest.text), seen=seen)

    return database_of(request).read(look)


@router.post("/projects/{project}/guideline/seen")
def guideline_seen(request: Request, member: LabelsInProject, seen: Seen) -> Done:
    """Acknowledge a version of the guideline. The tasks that the caller has open are judged by it from now on."""

    def job(connection: Connection) -> None:
        newest = newest_guideline(connection, member.project.id)
        if newest is None or newest.version != seen.version:
            raise StoreError("there is another guideline by now; read that one")
        acknowledge(connection, member.project.id, member.account, seen.version)
        own_work.judge_by(connection, member.project.id, member.account, seen.version)

    database_of(request).write(job)
    return Done()


@router.get("/preferences")
def preferences(request: Request, caller: Labeler) -> Preferences:
    """The caller's; what was never set is as usual."""
    return preferences_of(caller.account.preferences)


@router.put("/preferences")
def set_preferences(request: Request, caller: Labeler, given: Preferences) -> Done:
    """Replace the caller's preferences."""
    database_of(request).write(
        lambda connection: change_account(connection, caller.account.id, preferences=given.model_dump(mode="json"))
    )
    return Done()


def preferences_of(stored: dict[str, Any]) -> Preferences:
    return Preferences.model_validate(stored)
