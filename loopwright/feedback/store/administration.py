"""What managers and administrators change. Each change leaves its line in the audit log, in the same transaction.

`by` is the account that does it. Secrets (tokens, invitations) are in what is returned, never in the log.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from loopwright.errors import StoreError
from loopwright.feedback.forms import Asked
from loopwright.feedback.kinds import read_answer
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import exclusions, lineage, people, projects
from loopwright.feedback.store import items as store_items
from loopwright.feedback.store.chain import append
from loopwright.feedback.store.items import Item, Published, Score
from loopwright.feedback.store.people import Account, Role
from loopwright.feedback.store.projects import Project
from loopwright.feedback.store.reports import events_of_uids, find_items, get_item, managed_projects
from loopwright.feedback.store.slots import offer_again
from loopwright.feedback.store.tables import accounts, artifacts, audits, events, items, members, uses
from loopwright.schemas import Message

ROWS_AT_ONCE = 1_000


def note(connection: Connection, by: str, action: str, *, now: float, **about: Any) -> None:
    """Add a line to the audit log. What names a project is shown to its managers."""
    append(connection, audits, account=by, action=action, about=about, at=now)


# -- projects ----------------------------------------------------------------------------------------------------------


def make_project(
    connection: Connection, by: str, name: str, config: ProjectConfig, *, guideline: str = "", now: float
) -> Project:
    """Raises StoreError where the name is taken."""
    made = projects.create_project(connection, name, config, guideline=guideline, now=now)
    written = made.config.model_dump(mode="json")
    note(connection, by, "project made", now=now, project=made.id, name=name, config=written)
    return made


def change_project(
    connection: Connection,
    by: str,
    project: str,
    *,
    config: ProjectConfig | None = None,
    state: str | None = None,
    now: float,
) -> Project:
    """Raises StoreError where the labels that are there would mean something else, or the state is none."""
    before = projects.get_project(connection, project)
    after = projects.change_project(connection, project, config=config, state=state)
    old, new = before.config.model_dump(mode="json"), after.config.model_dump(mode="json")
    changed: dict[str, Any] = {name: [old[name], new[name]] for name in new if old[name] != new[name]}
    if before.state != after.state:
        changed["state"] = [before.state, after.state]
    note(connection, by, "project changed", now=now, project=project, changed=changed)
    return after


def write_guideline(connection: Connection, by: str, project: str, text: str, *, now: float) -> int:
    """The version."""
    version = projects.add_guideline(connection, project, text, now=now)
    note(connection, by, "guideline written", now=now, project=project, version=version)
    return version


def set_member(connection: Connection, by: str, project: str, account: str, role: str, *, now: float) -> None:
    """Raises StoreError where there is no such account."""
    people.get_account(connection, account)
    projects.add_member(connection, project, account, role)
    note(connection, by, "member set", now=now, project=project, member=account, role=role)


def remove_member(connection: Connection, by: str, project: str, account: str, *, now: float) -> None:
    """What they said stays. Raises StoreError where they are no member."""
    mine = (members.c.project == project) & (members.c.account == account)
    if not connection.execute(delete(members).where(mine)).rowcount:
        raise StoreError("there is no such member of this project")
    note(connection, by, "member removed", now=now, project=project, member=account)


# -- items -------------------------------------------------------------------------------------------------------------


def publish(
    connection: Connection,
    by: str,
    project: Project,
    new: Sequence[Item],
    *,
    batch: str | None = None,
    overlap: int | None = None,
    now: float,
) -> Published:
    """Raises DataError where an item does not fit the project; then none went in."""
    done = store_items.publish(connection, project, new, now=now, batch=batch, overlap=overlap)
    note(connection, by, "items published", now=now, project=project.id, batch=batch, **done._asdict())
    return done


def withdraw(connection: Connection, by: str, project: Project, keys: Sequence[str], *, now: float) -> int:
    """Ask no more about these. How many there were. Raises StoreError where a key is not there."""
    found = _items(connection, project, keys)
    count = store_items.withdraw(connection, project, list(found.values()))
    note(connection, by, "items withdrawn", now=now, project=project.id, items=sorted(found.values()), count=count)
    return count


def set_gold(
    connection: Connection, by: str, project: Project, key: str, gold: Mapping[str, Any] | None, *, now: float
) -> None:
    """Say what the right answer to an item is, in the form's words, by the places of its responses; None: unsay it.

    Raises:
        StoreError: there is no such item, or it was withdrawn.
        ValueError: the answer is none to this item.
    """
    (id,) = _items(connection, project, [key]).values()
    item = get_item(connection, project.id, id)
    assert item is not None
    if item.state == "withdrawn":
        raise StoreError(f"item {key} was withdrawn; nobody is asked about it")
    if item.state == "own":
        raise StoreError(f"item {key} is of somebody's conversation; it is asked of nobody else")
    if gold is not None:
        prompt = tuple(Message.model_validate(turn) for turn in item.prompt)
        places = tuple(range(len(item.responses)))
        read_answer(project.config.kind, gold, Asked(prompt, tuple(item.responses), places, project.config))
        state = "gold"
    else:
        state = "open" if item.labels + item.leases < item.overlap else "taken"
    values = {"gold": None if gold is None else dict(gold), "state": state}
    connection.execute(update(items).where(items.c.id == id).values(values))
    if gold is None:
        offer_again(connection, id)
    note(connection, by, "gold set" if gold is not None else "gold removed", now=now, project=project.id, item=id)


def set_skill(connection: Connection, by: str, project: Project, key: str, skill: str | None, *, now: float) -> None:
    """Give an item to those with a skill only; None: to everybody. Raises StoreError where there is no such item."""
    (id,) = _items(connection, project, [key]).values()
    connection.execute(update(items).where(items.c.id == id).values(skill=skill))
    offer_again(connection, id)
    note(connection, by, "skill set", now=now, project=project.id, item=id, skill=skill)


def set_scores(
    connection: Connection,
    by: str,
    project: Project,
    scores: Mapping[str, Sequence[Score]],
    reward_model: str,
    *,
    now: float,
) -> int:
    """Note what a reward model thinks of the responses of items, by key. How many.

    Raises:
        StoreError: a key is not there.
        DataError: an item has another number of responses.
    """
    _items(connection, project, list(scores))
    count = store_items.set_scores(connection, project, scores, reward_model)
    note(connection, by, "scores set", now=now, project=project.id, items=count, reward_model=reward_model)
    return count


def _items(connection: Connection, project: Project, keys: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(keys), ROWS_AT_ONCE):
        found |= find_items(connection, project.id, keys[start : start + ROWS_AT_ONCE])
    if missing := next((key for key in keys if key not in found), None):
        raise StoreError(f"project {project.name} has no item {missing}")
    return found


# -- labels ------------------------------------------------------------------------------------------------------------


def exclude(connection: Connection, by: str, project: str, what: Mapping[str, Any], *, uid: str, now: float) -> None:
    """See `exclusions.exclude`. Raises ValueError where it names no annotator, day or guideline."""
    exclusions.exclude(connection, project, what, by, uid=uid, now=now)
    note(connection, by, "labels excluded", now=now, project=project, **what)


def restore(connection: Connection, by: str, project: str, exclusion: str, *, uid: str, now: float) -> None:
    """Raises StoreError where there is no such exclusion in force."""
    exclusions.restore(connection, project, exclusion, by, uid=uid, now=now)
    note(connection, by, "labels restored", now=now, project=project, exclusion=exclusion)


def register_artifact(  # noqa: PLR0913 -- one argument a column
    connection: Connection,
    by: str,
    project: str,
    id: str,
    kind: str,
    *,
    parents: Mapping[str, str],
    made_from: Sequence[str],
    where: str | None,
    now: float,
) -> int:
    """Note an artifact, and the labels of this project (uids) that it was made from. How many labels are new to it.

    Doing it twice does nothing; for labels of several projects, do it in each.

    Raises:
        StoreError: a label is not there, or the artifact is another project's, or known with another kind or other
            parents.
    """
    known = connection.execute(select(artifacts).where(artifacts.c.id == id)).first()
    if known is not None and known.account != by and not _has_artifact(connection, by, id):
        raise StoreError(f"artifact {id} is another project's; give yours its own id")
    if known is not None and (known.kind, dict(known.parents)) != (kind, dict(parents)):
        raise StoreError(f"artifact {id} is known already, as a {known.kind} of other parents; give yours its own id")
    found: dict[str, int] = {}
    for start in range(0, len(made_from), ROWS_AT_ONCE):
        found |= events_of_uids(connection, project, made_from[start : start + ROWS_AT_ONCE])
    if missing := next((uid for uid in made_from if uid not in found), None):
        raise StoreError(f"there is no label {missing} in this project")
    lineage.register(connection, id, kind, parents, where=where, by=by, now=now)
    there = set(connection.execute(select(uses.c.event).where(uses.c.artifact == id)).scalars())
    rows = [{"artifact": id, "event": event} for event in sorted(set(found.values()) - there)]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        connection.execute(insert(uses), rows[start : start + ROWS_AT_ONCE])
    if known is None or rows:
        note(connection, by, "artifact registered", now=now, project=project, artifact=id, labels=len(rows))
    return len(rows)


def _has_artifact(connection: Connection, account: str, artifact: str) -> bool:
    """Whether somebody manages a project from whose labels an artifact was made."""
    if people.get_account(connection, account).role == "admin":
        return True
    made = select(uses.c.event).join(events, events.c.id == uses.c.event)
    made = made.where(uses.c.artifact == artifact, events.c.project.in_(managed_projects(connection, account)))
    return connection.execute(made.limit(1)).first() is not None


# -- people ------------------------------------------------------------------------------------------------------------


def invite(  # noqa: PLR0913 -- one argument a column
    connection: Connection,
    by: str,
    project: str | None,
    role: str,
    *,
    skills: Sequence[str] = (),
    expires: float,
    now: float,
) -> str:
    """The secret of the link, shown now and never again."""
    secret = people.invite(connection, by=by, project=project, role=role, skills=skills, expires=expires, now=now)
    note(connection, by, "invited", now=now, project=project, role=role, skills=list(skills))
    return secret


def revoke_invitation(connection: Connection, by: str, project: str | None, invitation: str, *, now: float) -> None:
    """Its link works no more. Raises StoreError where there is none, or somebody used it."""
    people.revoke_invitation(connection, project, invitation)
    note(connection, by, "invitation revoked", now=now, project=project, invitation=invitation)


def make_account(
    connection: Connection, by: str, name: str, role: Role, *, skills: Sequence[str] = (), now: float
) -> Account:
    """An account for a program: it has no password, only tokens. Raises StoreError where the name is taken."""
    made = people.create_account(connection, name, role=role, skills=skills, now=now)
    note(connection, by, "account made", now=now, account=made.id, name=name, role=role)
    return made


def change_account(connection: Connection, by: str, account: str, values: Mapping[str, Any], *, now: float) -> None:
    """Set skills, hourly_rate, role or disabled.

    Raises:
        StoreError: there is no such account, nobody is behind it, or nobody would administer any more.
    """
    _is_somebody(people.get_account(connection, account))
    people.change_account(connection, account, **values)
    left = select(func.count()).where(accounts.c.role == "admin", accounts.c.disabled.is_(False))
    if not connection.execute(left).scalar():
        raise StoreError("this is the last administrator; make another one first")
    note(connection, by, "account changed", now=now, account=account, **values)


def make_token(  # noqa: PLR0913 -- one argument a column
    connection: Connection,
    by: str,
    account: str,
    name: str,
    scopes: Sequence[str],
    *,
    expires: float | None = None,
    now: float,
) -> str:
    """What the program sends, shown now and never again.

    Raises:
        StoreError: there is no such account, nobody is behind it, or a scope is none or is of administrators only.
    """
    owner = people.get_account(connection, account)
    _is_somebody(owner)
    if "admin" in scopes and owner.role != "admin":
        raise StoreError(f"{owner.name} is no administrator, so a token of theirs cannot have the scope admin")
    token = people.create_token(connection, account, name, scopes, expires=expires, now=now)
    note(connection, by, "token made", now=now, account=account, name=name, scopes=sorted(scopes))
    return token


def revoke_token(connection: Connection, by: str, token: str, *, now: float) -> None:
    people.revoke_token(connection, token, now=now)
    note(connection, by, "token revoked", now=now, token=token)


def _is_somebody(account: Account) -> None:
    if account.role == "imported":
        raise StoreError(f"{account.name} only names who gave imported labels; nobody can work as them")


def labels_read(connection: Connection, by: str, project: str, *, now: float, **which: Any) -> None:
    """Somebody looked at what people said, by name."""
    note(connection, by, "labels read", now=now, project=project, **which)
