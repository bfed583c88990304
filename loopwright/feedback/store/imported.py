"""What other tools gathered, as label events of annotators of their own, whom nobody can log in as."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, case, select, update

from loopwright.errors import StoreError
from loopwright.feedback.forms import Answer
from loopwright.feedback.imported import Given, Refuse, account_name, answer_to, said_at
from loopwright.feedback.store.chain import append
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.exclusions import count_anew, exclusions
from loopwright.feedback.store.items import portions
from loopwright.feedback.store.labels import pulls
from loopwright.feedback.store.people import create_account, find_account
from loopwright.feedback.store.projects import Project, add_member, member_role
from loopwright.feedback.store.tables import current_labels, events, items
from loopwright.schemas import Judgement, Record

LABELS_A_COMMIT = 500  # half a second, in which nobody else writes


class Imported(NamedTuple):
    new: int
    known: int  # were imported before


def import_labels(
    database: Database, project: Project, given: Iterable[Given], *, tool: str, refuse: Refuse, now: float
) -> Imported:
    """Note what people said elsewhere of items that are published. Done twice, or cut off and done again, it is once.

    Each takes a slot of its item, and counts as any other label. One that says otherwise of an item than the same
    annotator did before is refused.

    Args:
        tool: whose labels they are; it is in the annotators' names.
    """
    done = Imported(0, 0)
    for portion in portions(given, LABELS_A_COMMIT):
        part, refused = database.write(partial(_portion, project=project, given=portion, tool=tool, now=now))
        done = Imported(done.new + part.new, done.known + part.known)
        for one, why in refused:
            for row in one.rows:
                refuse(row, why)
    return done


def _portion(
    connection: Connection,
    project: Project,
    given: Sequence[Given],
    tool: str,
    now: float,
) -> tuple[Imported, list[tuple[Given, str]]]:
    """How many, and what was refused and why."""
    keys = [one.item.key for one in given]
    rows = connection.execute(select(items).where(items.c.project == project.id, items.c.key.in_(keys)))
    found = {row.key: row for row in rows}
    people: dict[str | None, str] = {}
    refused: list[tuple[Given, str]] = []
    new = known = 0
    for one in given:
        if one.annotator not in people:
            people[one.annotator] = _account(connection, project, account_name(tool, one.annotator), now=now)
        account, item = people[one.annotator], found[one.item.key]
        uid = _uid(project, account, one, item)
        if connection.execute(select(events.c.id).where(events.c.uid == uid)).first() is not None:
            known += 1
        elif (before := _label_of(connection, item.id, account)) is not None:
            refused.append((one, f"whoever said this said otherwise of the same answers before (label {before})"))
        else:
            _append(connection, project, one, item, account, uid=uid, now=now)
            new += 1
    if exclusions(connection, project.id):  # of an annotator whose file comes again with more labels, for instance
        ids = [row.id for row in found.values()]
        count_anew(connection, project.id, current_labels.c.item.in_(ids))
    return Imported(new, known), refused


def _append(
    connection: Connection, project: Project, one: Given, item: Row[tuple], account: str, *, uid: str, now: float
) -> None:
    answer, asked, ordered = answer_to(one, item.responses, project.config)
    first_won, longer_won = pulls(answer, asked) if ordered else (None, None)
    record = one.rows[0].record
    append(
        connection, events, uid=uid, type="label", project=project.id, item=item.id, account=account,
        answer=_written(answer), order_shown=list(asked.order) if ordered else None,
        seconds=getattr(record, "seconds", None), vote=answer.vote(asked), first_won=first_won, longer_won=longer_won,
        at=said_at(record, now),
    )  # fmt: skip
    full = (items.c.state == "open") & (items.c.labels + items.c.leases + 1 >= items.c.overlap)
    more = {"labels": items.c.labels + 1, "state": case((full, "taken"), else_=items.c.state)}
    connection.execute(update(items).where(items.c.id == item.id).values(more))


def _account(connection: Connection, project: Project, name: str, *, now: float) -> str:
    found = find_account(connection, name) or create_account(connection, name, role="imported", now=now)
    if found.role != "imported":
        raise StoreError(f"there is an account {name} that was not imported; rename the annotator in the file")
    if member_role(connection, project.id, found.id) is None:
        add_member(connection, project.id, found.id)
    return found.id


def _uid(project: Project, account: str, one: Given, item: Row[tuple]) -> str:
    """The same for the same answer of the same person to the same item, in whatever order it was shown."""
    stored = one._replace(rows=tuple(row._replace(record=_unordered(row.record)) for row in one.rows))
    answer, _, _ = answer_to(stored, item.responses, project.config)
    said = json.dumps([project.id, account, item.key, _written(answer)], sort_keys=True)
    return f"imported-{hashlib.sha256(said.encode()).hexdigest()[:40]}"


def _unordered(record: Record) -> Record:
    return record.model_copy(update={"order_shown": None}) if isinstance(record, Judgement) else record


def _written(answer: Answer) -> dict[str, Any]:
    return answer.model_dump(mode="json", exclude_defaults=True)


def _label_of(connection: Connection, item: int, account: str) -> str | None:
    mine = (current_labels.c.item == item) & (current_labels.c.account == account)
    return connection.execute(select(current_labels.c.uid).where(mine)).scalar()
