"""Projects, their guidelines and their members, in the store."""

import json
import secrets
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, bindparam, cast, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from loopwright.errors import StoreError
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store.prepared import Prepared
from loopwright.feedback.store.tables import events, guidelines, members, projects

STATES = ("open", "paused", "closed")
OF_RECORDS = ("scale", "higher_is_better")  # settings that records of labels given earlier are made with
SEED_BITS = 53  # that JSON's readers keep exactly
PROJECT_COLUMNS = tuple(  # for queries of other tables: `project_of` reads them
    (cast(column, Text) if column.name == "config" else column).label(f"project_{column.name}")
    for column in projects.columns
    if column.name != "created"
)


class Project(NamedTuple):
    id: str
    name: str
    config: ProjectConfig
    state: str
    queue: int


def new_id() -> str:
    """For what is named in URLs: 128 random bits."""
    return secrets.token_urlsafe(16)


def create_project(
    connection: Connection, name: str, config: ProjectConfig, *, guideline: str = "", now: float
) -> Project:
    """A seed that is not given is drawn. Raises StoreError where the name is taken."""
    id = new_id()
    if config.seed is None:
        config = config.model_copy(update={"seed": secrets.randbits(SEED_BITS)})
    row = {"id": id, "name": name, "config": config.model_dump(mode="json"), "state": "open", "created": now}
    try:
        connection.execute(insert(projects).values(**row, queue=0))
    except IntegrityError:
        raise StoreError(f"there is a project {name} already; choose another name") from None
    if guideline:
        add_guideline(connection, id, guideline, now=now)
    return Project(id, name, config, "open", 0)


def get_project(connection: Connection, id: str) -> Project:
    """Raises StoreError where there is none."""
    row = _BY_ID.first(connection, id=id)
    if row is None:
        raise StoreError(f"there is no project {id}")
    return project_of(row)


def find_project(connection: Connection, name: str) -> Project:
    """By its name. Raises StoreError where there is none."""
    row = connection.execute(select(*PROJECT_COLUMNS).where(projects.c.name == name)).first()
    if row is None:
        there = ", ".join(project.name for project in list_projects(connection)) or "none"
        raise StoreError(f"there is no project {name}; there are: {there}")
    return project_of(row)


def list_projects(connection: Connection, account: str | None = None) -> list[Project]:
    """All of them, or those of which an account is a member; oldest first."""
    query = select(*PROJECT_COLUMNS).order_by(projects.c.created, projects.c.id)
    if account is not None:
        query = query.join(members, members.c.project == projects.c.id).where(members.c.account == account)
    return [project_of(row) for row in connection.execute(query)]


def change_project(
    connection: Connection, id: str, *, config: ProjectConfig | None = None, state: str | None = None
) -> Project:
    """A seed that is not given stays as it was.

    Raises:
        StoreError: labels that are there would mean something else: of another kind, on another scale.
    """
    before = get_project(connection, id)
    if config is not None:
        if config.seed is None:
            config = config.model_copy(update={"seed": before.config.seed})
        if config.kind != before.config.kind:
            raise StoreError(
                f"project {before.name} asks for a {before.config.kind}; make another project for a {config.kind}"
            )
        changed = [name for name in OF_RECORDS if getattr(config, name) != getattr(before.config, name)]
        names = dict.fromkeys(before.config.criterion_names + config.criterion_names)  # labels may be on what went, too
        turned = (name for name in names if config.is_high_good(name) != before.config.is_high_good(name))
        changed += [f"direction of {name}" for name in turned]
        advice = "call the criterion otherwise, or " if changed and changed[0].startswith("direction") else ""
        if changed and _has_labels(connection, id):
            raise StoreError(
                f"project {before.name} has labels, so its {changed[0]} stays as it is; {advice}make another project"
            )
        connection.execute(update(projects).where(projects.c.id == id).values(config=config.model_dump(mode="json")))
    if state is not None:
        if state not in STATES:
            raise StoreError(f"a project is {', '.join(STATES)}, not {state}")
        connection.execute(update(projects).where(projects.c.id == id).values(state=state))
    return get_project(connection, id)


class Guideline(NamedTuple):
    version: int
    text: str


def add_guideline(connection: Connection, project: str, text: str, *, now: float) -> int:
    """A new version, which each labeler is shown before their next task."""
    newest = select(func.max(guidelines.c.version)).where(guidelines.c.project == project)
    version = (connection.execute(newest).scalar() or 0) + 1
    connection.execute(insert(guidelines).values(project=project, version=version, text=text, created=now))
    return version


def newest_guideline(connection: Connection, project: str) -> Guideline | None:
    query = select(guidelines.c.version, guidelines.c.text).where(guidelines.c.project == project)
    row = connection.execute(query.order_by(guidelines.c.version.desc()).limit(1)).first()
    return None if row is None else Guideline(*row)


def acknowledge(connection: Connection, project: str, account: str, version: int) -> None:
    """The labeler has seen this version of the guideline."""
    mine = (members.c.project == project) & (members.c.account == account)
    connection.execute(update(members).where(mine).values(guideline=version))


def unseen_guideline(connection: Connection, project: str, account: str) -> int | None:
    """The newest version of the guideline, where the labeler has not acknowledged it."""
    newest, seen = _GUIDELINES.one(connection, project=project, account=account)
    return None if newest == seen else newest


def add_member(connection: Connection, project: str, account: str, role: str = "annotator") -> None:
    """Let an account work in a project, or give it another role there."""
    mine = (members.c.project == project) & (members.c.account == account)
    if not connection.execute(update(members).where(mine).values(role=role)).rowcount:
        connection.execute(insert(members).values(project=project, account=account, role=role, claims=0))


def member_role(connection: Connection, project: str, account: str) -> str | None:
    """manager, annotator, or None: no member."""
    row = _ROLE.first(connection, project=project, account=account)
    return None if row is None else str(row.role)


def membership(connection: Connection, project: str, account: str) -> tuple[Project | None, str | None]:
    """A project, if there is one, and the role of an account in it: manager, annotator, or None."""
    row = _MEMBERSHIP.first(connection, project=project, account=account)
    return (None, None) if row is None else (project_of(row), row.role)


def project_of(row: Any) -> Project:
    """The project in a row that has PROJECT_COLUMNS."""
    config = _config(row.project_config)
    return Project(row.project_id, row.project_name, config, row.project_state, row.project_queue)


@lru_cache(maxsize=1_000)
def _config(stored: str) -> ProjectConfig:
    # as a resolved file: what is a default now was not written by anybody
    return ProjectConfig.model_validate(json.loads(stored), context={"resolved": True})


def _has_labels(connection: Connection, project: str) -> bool:
    label = select(events.c.id).where(events.c.project == project, events.c.type == "label")
    return connection.execute(label.limit(1)).first() is not None


_BY_ID = Prepared(select(*PROJECT_COLUMNS).where(projects.c.id == bindparam("id")))
_MINE = (members.c.project == bindparam("project")) & (members.c.account == bindparam("account"))
_ROLE = Prepared(select(members.c.role).where(_MINE))
_MEMBERSHIP = Prepared(
    select(*PROJECT_COLUMNS, members.c.role)
    .outerjoin(members, (members.c.project == projects.c.id) & (members.c.account == bindparam("account")))
    .where(projects.c.id == bindparam("project"))
)
_GUIDELINES = Prepared(
    select(
        select(func.max(guidelines.c.version))
        .where(guidelines.c.project == bindparam("project"))
        .scalar_subquery()
        .label("newest"),
        select(members.c.guideline).where(_MINE).scalar_subquery().label("seen"),
    )
)
