"""What is asked: items come in once, and wait in a queue."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, bindparam, func, insert, select, update

from loopwright.errors import DataError, StoreError
from loopwright.feedback.forms import Asked
from loopwright.feedback.items import Item, Score
from loopwright.feedback.kinds import check_item, read_answer
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.projects import Project
from loopwright.feedback.store.tables import items, projects, tallies
from loopwright.schemas import Message

__all__ = [
    "Item", "Published", "Score", "asked", "change_items", "portions", "publish", "publish_all", "queue_ends",
    "reorder", "set_scores", "withdraw",
]  # fmt: skip

ROWS_AT_ONCE = 1_000
ITEMS_A_COMMIT = 10_000  # a second or two, in which nobody else writes

T = TypeVar("T")


class Published(NamedTuple):
    new: int
    known: int  # were there before, under the same key


def publish(
    connection: Connection,
    project: Project,
    new: Iterable[Item],
    *,
    now: float,
    batch: str | None = None,
    overlap: int | None = None,
) -> Published:
    """Put items at the end of the queue, in an order drawn from the project's seed.

    All of them or none. They are read one after another, so that any number fits in memory; but nobody else can write
    meanwhile: publish very many in portions (`publish_all`).

    Raises:
        DataError: an item does not fit the project's kind; its place and key are named.
        StoreError: the project's items are made in conversations.
    """
    if project.config.talks:
        raise StoreError(f"project {project.name} makes its own items, in conversations; publish to another project")
    first = queue_ends(connection, project)[1] + 1
    fresh = total = 0
    for portion in portions(new, ROWS_AT_ONCE):
        for number, item in enumerate(portion, total):
            _check(project, item, f"items[{number}] {item.key}")
        total += len(portion)
        wanted = {item.key: item for item in reversed(portion)}  # a key that is given twice: the first counts
        known = select(items.c.key).where(items.c.project == project.id, items.c.key.in_(wanted))
        for key in connection.execute(known).scalars():
            del wanted[key]
        rows = [
            {
                **item.model_dump(mode="json"),
                "project": project.id,
                "batch": batch,
                "arm": "random",
                "overlap": overlap or project.config.overlap,
                "state": "open" if item.gold is None else "gold",
                "place": place,
                "created": now,
            }
            for place, item in enumerate((item for item in portion if wanted.get(item.key) is item), first + fresh)
        ]
        if rows:
            connection.execute(_NEW, rows)
            fresh += len(rows)
    _shuffle(connection, project, first)
    return Published(fresh, total - fresh)


def publish_all(
    database: Database,
    project: Project,
    new: Iterable[Item],
    *,
    now: float,
    batch: str | None = None,
    overlap: int | None = None,
) -> Published:
    """As `publish`, in portions, each kept once it is there: people work on meanwhile.

    Cut off, it goes on from where it was: what is known is left out. At the end the order is drawn anew for all of
    them that nobody was given yet.
    """
    done = Published(0, 0)
    _, last = database.read(partial(queue_ends, project=project))
    for portion in portions(new, ITEMS_A_COMMIT):
        part = partial(publish, project=project, new=portion, now=now, batch=batch, overlap=overlap)
        published = database.write(part)
        done = Published(done.new + published.new, done.known + published.known)
    if done.new > ITEMS_A_COMMIT:
        database.write(partial(_shuffle_for_all, project=project, first=last + 1))
    return done


def reorder(connection: Connection, project: Project, order: Iterable[Mapping[str, Any]]) -> None:
    """Ask in another order from now on.

    Args:
        order: the open items to ask first: `id`, and what else of `arm`, `selection_probability` and `drawn_from` is
            to be noted (all of them name the same columns). What is left out comes after, in the order it had.
    """
    listed = [dict(row) for row in order]
    if not listed:
        return
    first, _ = queue_ends(connection, project)
    change_items(connection, [{**row, "place": place} for place, row in enumerate(listed, first - len(listed))])
    start_anew(connection, project.id)


def queue_ends(connection: Connection, project: Project) -> tuple[int, int]:
    """The first and the last place in the queue; 0 and -1 where there are none."""
    # of each state by itself, they stand at the ends of the index
    mine = (items.c.project == tallies.c.project) & (items.c.state == tallies.c.state)
    lowest, highest = (select(end(items.c.place)).where(mine).scalar_subquery() for end in (func.min, func.max))
    query = select(func.min(lowest), func.max(highest)).where(tallies.c.project == project.id)
    first, last = connection.execute(query).one()
    return (0, -1) if first is None else (first, last)


def set_scores(
    connection: Connection, project: Project, scores: Mapping[str, Sequence[Score]], reward_model: str
) -> int:
    """Note what reward models think of the responses of items, by key; how many items there were.

    Args:
        reward_model: the artifact id of who gave the scores.

    Raises:
        DataError: an item has another number of responses; nothing is noted then.
    """
    changed = []
    for keys in portions(scores, ROWS_AT_ONCE):
        query = select(items.c.id, items.c.key, items.c.responses).where(items.c.project == project.id)
        for id, key, responses in connection.execute(query.where(items.c.key.in_(keys))):
            if len(responses) != len(scores[key]):
                raise DataError(f"item {key} has {len(responses)} responses, but {len(scores[key])} scores")
            noted = [score.model_dump(mode="json") for score in scores[key]]
            changed.append({"of_item": id, "new_scores": noted, "new_reward_model": reward_model})
    for portion in portions(changed, ROWS_AT_ONCE):
        connection.execute(_SCORED, portion)
    return len(changed)


def withdraw(connection: Connection, project: Project, ids: Sequence[int]) -> int:
    """Ask no more about these; what was said of them stays. How many there were."""
    mine = (items.c.project == project.id) & (items.c.state != "withdrawn")
    return sum(
        connection.execute(update(items).where(mine, items.c.id.in_(portion)).values(state="withdrawn")).rowcount
        for portion in portions(ids, ROWS_AT_ONCE)
    )


def change_items(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set columns of many items: rows of `id` and what is to be set, all naming the same columns."""
    if rows:
        names = rows[0].keys() - {"id"}
        change = update(items).where(items.c.id == bindparam("of_id"))
        change = change.values({name: bindparam(f"new_{name}") for name in names})
        for portion in portions(rows, ROWS_AT_ONCE):
            connection.execute(
                change, [{"of_id": row["id"], **{f"new_{name}": row[name] for name in names}} for row in portion]
            )


def portions(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """One after another, as lists."""
    left = iter(rows)
    while portion := list(islice(left, size)):
        yield portion


def asked(project: Project, row: Any, order: Sequence[int]) -> Asked:
    """An item's row as somebody saw it."""
    prompt = tuple(Message.model_validate(message) for message in row.prompt)
    return Asked(prompt, tuple(row.responses), tuple(order), project.config)


def _check(project: Project, item: Item, where: str) -> None:
    check_item(project.config.kind, item.responses, where)
    if not item.prompt and project.config.kind == "demonstration":
        raise DataError(f"{where}: has no prompt; a demonstration answers one")
    if item.gold is not None:
        asked = Asked(item.prompt, item.responses, tuple(range(len(item.responses))), project.config)
        try:
            vote = read_answer(project.config.kind, item.gold, asked).vote(asked)
        except ValueError as error:
            raise DataError(f"{where}: its gold answer is none: {' '.join(str(error).split())}") from None
        if vote is None:
            raise DataError(
                f"{where}: answers cannot be held against its gold answer; ask for a clear best, or leave it out"
            )


def _shuffle(connection: Connection, project: Project, first: int) -> None:
    """Draw the order anew of what waits from a place on, and was given to nobody yet."""
    untouched = (items.c.state.in_(("open", "gold"))) & (items.c.labels == 0) & (items.c.leases == 0)
    query = select(items.c.id, items.c.place).where(items.c.project == project.id, items.c.place >= first, untouched)
    rows = connection.execute(query.order_by(items.c.place)).all()
    places = [row.place for row in rows]
    random.Random(f"{project.config.seed}/queue/{first}").shuffle(places)
    change_items(connection, [{"id": row.id, "place": place} for row, place in zip(rows, places, strict=True)])


def _shuffle_for_all(connection: Connection, project: Project, first: int) -> None:
    _shuffle(connection, project, first)
    start_anew(connection, project.id)


def start_anew(connection: Connection, project: str) -> None:
    """Items moved: everybody goes through the queue from its start."""
    connection.execute(update(projects).where(projects.c.id == project).values(queue=projects.c.queue + 1))


_NEW = insert(items)
_SCORED = (
    update(items)
    .where(items.c.id == bindparam("of_item"))
    .values(scores=bindparam("new_scores"), reward_model=bindparam("new_reward_model"))
)
