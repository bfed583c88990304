"""Projects, their guidelines and their members."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request
from pydantic import Field
from sqlalchemy import Connection

from loopwright.errors import StoreError
from loopwright.feedback.projects import Name, ProjectConfig
from loopwright.feedback.store import administration, reports
from loopwright.feedback.store.projects import Project, list_projects
from loopwright.feedback.web.admission import (
    Admin,
    Caller,
    ManagesProject,
    Reader,
    ReadsProject,
    database_of,
    refuse_token,
)
from loopwright.schemas import Record

router = APIRouter(prefix="/api/v1", tags=["projects"])

LONGEST_GUIDELINE = 200_000  # characters
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
Guideline = Annotated[str, Field(min_length=1, max_length=LONGEST_GUIDELINE)]
State = Literal["open", "paused", "closed"]


class Counts(Record):
    """Gold and withdrawn items need no labels."""

    items: int
    gold: int
    withdrawn: int
    labels: int
    needed: int
    flagged: int


class ProjectShown(Record):
    id: str
    name: str
    state: State
    config: dict[str, Any]  # a ProjectConfig, with its defaults written out


class ProjectList(Record):
    projects: tuple[ProjectShown, ...]


class NewProject(Record):
    name: Name
    config: ProjectConfig
    guideline: Annotated[str, Field(max_length=LONGEST_GUIDELINE)] = ""


class Change(Record):
    """What is left out stays."""

    config: ProjectConfig | None = None
    state: State | None = None


class GuidelineShown(Record):
    version: int
    text: str
    created: float


class GuidelineList(Record):
    guidelines: tuple[GuidelineShown, ...]  # newest first


class NewGuideline(Record):
    text: Guideline


class Version(Record):
    version: int


class MemberShown(Record):
    account: str
    name: str
    role: Literal["manager", "annotator"]
    skills: tuple[str, ...]
    guideline: int | None  # the version that was acknowledged
    disabled: bool


class MemberList(Record):
    members: tuple[MemberShown, ...]


class MemberRole(Record):
    role: Literal["manager", "annotator"]


class Done(Record):
    done: bool = True


@router.get("/projects")
def projects(request: Request, caller: Reader) -> ProjectList:
    """The projects that the caller manages; an administrator's are all."""
    return ProjectList(projects=tuple(shown(one) for one in managed(request, caller)))


@router.post("/projects", status_code=201)
def create(request: Request, caller: Admin, new: NewProject) -> ProjectShown:
    def job(connection: Connection) -> Project:
        return administration.make_project(
            connection, caller.account.id, new.name, new.config, guideline=new.guideline, now=time.time()
        )

    return shown(database_of(request).write(job))


@router.get("/projects/{project}")
def project(request: Request, member: ReadsProject) -> ProjectShown:
    return shown(member.project)


@router.patch("/projects/{project}")
def change(request: Request, member: ManagesProject, given: Change) -> ProjectShown:
    """Set the settings, the state or both."""

    def job(connection: Connection) -> Project:
        return administration.change_project(
            connection, member.account, member.project.id, config=given.config, state=given.state, now=time.time()
        )

    return shown(database_of(request).write(job))


@router.get("/projects/{project}/counts")
def counts(request: Request, member: ReadsProject) -> Counts:
    """How far the project is."""
    found = database_of(request).read(lambda connection: reports.progress(connection, member.project.id))
    return Counts(**found._asdict())


@router.get("/projects/{project}/guidelines")
def guidelines(request: Request, member: ReadsProject) -> GuidelineList:
    rows = database_of(request).read(lambda connection: reports.list_guidelines(connection, member.project.id))
    return GuidelineList(guidelines=tuple(GuidelineShown(**row._asdict()) for row in rows))


@router.post("/projects/{project}/guidelines", status_code=201)
def write_guideline(request: Request, member: ManagesProject, new: NewGuideline) -> Version:
    """A new version, which each labeler is shown before their next task."""

    def job(connection: Connection) -> int:
        return administration.write_guideline(
            connection, member.account, member.project.id, new.text, now=time.time()
        )  # fmt: skip

    return Version(version=database_of(request).write(job))


@router.get("/projects/{project}/members")
def members(request: Request, member: ReadsProject) -> MemberList:
    rows = database_of(request).read(lambda connection: reports.list_members(connection, member.project.id))
    return MemberList(
        members=tuple(
            MemberShown.model_validate({name: getattr(row, name) for name in MemberShown.model_fields}) for row in rows
        )
    )


@router.put("/projects/{project}/members/{account}")
def set_member(request: Request, member: ManagesProject, account: Id, given: MemberRole) -> Done:
    """Let an account work in the project, or give it another role there. Managers change those who are members
    already; administrators let anybody in."""
    if given.role == "manager":
        refuse_token(member.caller)

    def job(connection: Connection) -> None:
        there = {row.account for row in reports.list_members(connection, member.project.id)}
        if account not in there and not member.caller.is_admin:
            raise StoreError("there is no such member of this project; invite people with a link")
        administration.set_member(
            connection, member.account, member.project.id, account, given.role, now=time.time()
        )  # fmt: skip

    database_of(request).write(job)
    return Done()


@router.delete("/projects/{project}/members/{account}")
def remove_member(request: Request, member: ManagesProject, account: Id) -> Done:
    """They are asked nothing any more; what they said stays."""
    database_of(request).write(
        lambda connection: administration.remove_member(
            connection, member.account, member.project.id, account, now=time.time()
        )
    )
    return Done()


def managed(request: Request, caller: Caller) -> list[Project]:
    """The projects that the caller manages."""

    def look(connection: Connection) -> list[Project]:
        everything = list_projects(connection)
        if caller.is_admin:
            return everything
        mine = reports.managed_projects(connection, caller.account.id)
        return [one for one in everything if one.id in mine]

    return database_of(request).read(look)


def shown(project: Project) -> ProjectShown:
    config = project.config.model_dump(mode="json")
    return ProjectShown(id=project.id, name=project.name, state=_state(project.state), config=config)


def _state(state: str) -> State:
    match state:
        case "open" | "paused" | "closed":
            return state
    raise HTTPException(500, f"a project is in the state {state}")
