"""How the feedback store does with a million items and three million labels.

    python benchmarks/feedback_scale.py [--items 1000000] [--url postgresql://…] [--keep FILE]

Fills an empty store with bulk writes (events with a valid hash chain, as people would have left them), all items but a
hundredth of them finished. Then times what people wait for, one after another on an otherwise idle store; what is read
in bulk; and the pages of `loopwright feedback serve`, over loopback, while it computes the figures of the dashboard
and afterwards. Prints tables, and last one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from feedback_load import server
from sqlalchemy import Connection, Table, insert, text, update

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import items, labels, people, projects, queue, reports, selection, votes
from loopwright.feedback.store.chain import START, chained
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.store.tables import accounts, assignments, events
from loopwright.feedback.store.tables import items as item_rows

PEOPLE = 50
TIMES = 21  # each page
OVERLAP = 3
OPEN_EVERY = 100  # the last so many-th of the items waits for labels
GOLD = 1_000
ROWS_AT_ONCE = 50_000
NOW = 1_800_000_000.0
ANSWERS = ({"choice": 0, "strength": "better"}, {"choice": 1, "strength": "slightly"}, {"choice": None})
WORDS = "the pool opens at six and closes when nobody is left to swim in it because the water must rest".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty PostgreSQL database; default: SQLite in a temporary folder")
    parser.add_argument("--keep", type=Path, help="an SQLite file to fill and keep, or that was kept, to time again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loopwright-scale-") as folder:
        file = arguments.keep or Path(folder) / "feedback.db"
        url = arguments.url or f"sqlite:///{file}"
        filled = arguments.keep is not None and file.exists()
        migrate(url)
        start = time.perf_counter()
        with open_store(url) as store:
            if not filled:
                fill(store, arguments.items)
            project = store.read(lambda connection: projects.find_project(connection, "scale"))
            found: dict[str, float] = {"fill_s": round(time.perf_counter() - start, 1)}
            found |= people_wait_for(store, project, f"item-{arguments.items // 2:07}")
            found |= read_in_bulk(store, project)
            cookie = store.write(an_administrator)
        found |= pages(url, Path(folder), project.id, cookie)
    found["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps({"benchmark": "feedback_scale", "items": arguments.items, "url": url.split(":")[0], **found}))


# -- what is timed -----------------------------------------------------------------------------------------------------


def people_wait_for(store: Database, project: projects.Project, middle: str) -> dict[str, float]:
    """Milliseconds, each the median and the 99th percentile of many."""
    serial = iter(range(10**9))
    found = {}

    def label(connection: Connection, who: str, tasks: list[queue.Task]) -> None:
        about = {"uid": f"new-{next(serial)}-{who}-{time.time_ns()}", "answer": ANSWERS[0], "seconds": 3.0, "now": NOW}
        labels.submit(connection, tasks[0].ticket, who, **about)

    times: dict[str, list[float]] = {"claim": [], "submit": []}
    for number in range(500):
        who = account(number)
        tasks = timed(times["claim"], lambda who=who: store.write(lambda c: queue.claim(c, project.id, who, now=NOW)))
        if tasks:
            timed(times["submit"], lambda who=who, tasks=tasks: store.write(lambda c: label(c, who, tasks)))
    read: dict[str, Callable[[Connection], Any]] = {
        "history": lambda c: labels.history(c, project, account(7)),
        "progress": lambda c: reports.progress(c, project.id),
        "waiting": lambda c: queue.waiting(c, project.id),
        "items_page": lambda c: reports.list_items(c, project.id, cursor=middle),
        "open_items_page": lambda c: reports.list_items(c, project.id, state="open"),
        "newest_event": lambda c: reports.newest_event(c, project.id),
    }
    for name, job in read.items():
        times[name] = []
        for _ in range(20):
            timed(times[name], lambda job=job: store.read(job))
    print(f"{'what people wait for':<24}{'median ms':>12}{'p99 ms':>12}")
    for name, ms in times.items():
        median, p99 = statistics.median(ms), statistics.quantiles(ms, n=100, method="inclusive")[98]
        print(f"{name:<24}{median:>12.2f}{p99:>12.2f}", flush=True)
        found |= {f"{name}_ms": round(median, 2), f"{name}_p99_ms": round(p99, 2)}
    return found


def read_in_bulk(store: Database, project: projects.Project) -> dict[str, float]:
    """Seconds."""
    bulk: dict[str, Callable[[], Any]] = {
        "votes": lambda: store.read(lambda c: votes.votes(c, project)).value,
        "pulls": lambda: store.read(lambda c: votes.pulls(c, project)).first_won,
        "times": lambda: store.read(lambda c: votes.times(c, project)).at,
        "gold_answers": lambda: store.read(lambda c: votes.gold_answers(c, project)).right,
        "records": lambda: range(store.read(lambda c: sum(1 for _ in labels.records(c, project)))),
        "select_next": lambda: selection.select_next(store, project.id),
    }
    found = {}
    print(f"{'in bulk':<24}{'seconds':>12}{'rows':>12}")
    for name, job in bulk.items():
        start = time.perf_counter()
        rows = len(job())
        seconds = time.perf_counter() - start
        print(f"{name:<24}{seconds:>12.2f}{rows:>12,}", flush=True)
        found |= {f"{name}_s": round(seconds, 2)}
    return found


def pages(url: str, folder: Path, project: str, cookie: str) -> dict[str, float]:
    """Milliseconds: the first time, and the slowest of twenty, of each page; seconds until the figures are there."""
    admin = f"/admin/projects/{project}"
    addresses = {
        "dashboard": admin, "items": f"{admin}/items", "open": f"{admin}/items?show=open",
        "far_items": f"{admin}/items?cursor=item-0500000",
        "search": f"{admin}/items?text=sauna", "item": f"{admin}/items/77",  # a word that no item has
        "disagreements": f"{admin}/disagreements", "people": f"{admin}/people", "guidelines": f"{admin}/guidelines",
        "lineage": f"{admin}/lineage", "settings": f"{admin}/settings", "audit": "/admin/audit", "projects": "/admin",
        "home": "/", "work": f"/projects/{project}/work", "stats": f"/api/v1/projects/{project}/stats",
    }  # fmt: skip
    found: dict[str, float] = {}
    with server(url, folder) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as browser:
        browser.cookies.set("session", cookie)
        begun = time.perf_counter()

        def show(name: str) -> httpx.Response:
            reply = browser.get(addresses[name])
            reply.raise_for_status()
            return reply

        for part in ("computing", "computed"):
            print(f"{f'pages, figures {part}':<28}{'first ms':>10}{'slowest ms':>12}")
            for name in addresses:
                ms: list[float] = []
                for _ in range(TIMES):
                    timed(ms, lambda name=name: show(name))
                print(f"{name:<28}{ms[0]:>10.0f}{max(ms[1:]):>12.0f}", flush=True)
                found |= {f"{part}_{name}_first_ms": round(ms[0]), f"{part}_{name}_slowest_ms": round(max(ms[1:]))}
            while part == "computing" and show("stats").json()["figures"] is None:
                time.sleep(0.2)
            if part == "computing":
                found["figures_s"] = round(time.perf_counter() - begun, 1)
                print(f"figures of the dashboard after {found['figures_s']} s")
    return found


def an_administrator(connection: Connection) -> str:
    """The cookie of a session."""
    name, now = f"admin-{time.time_ns()}", time.time()
    return people.start_session(connection, people.create_account(connection, name, role="admin", now=now).id, now=now)


def timed(ms: list[float], job: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    done = job()
    ms.append((time.perf_counter() - start) * 1e3)
    return done


# -- what is there -----------------------------------------------------------------------------------------------------


def fill(store: Database, count: int) -> None:
    """One project of `count` items, and what fifty people said of them."""
    config = ProjectConfig(kind="comparison", overlap=OVERLAP)

    def fifty(connection: Connection) -> str:
        project = projects.create_project(connection, "scale", config, guideline="Be fair.", now=NOW)
        for number in range(PEOPLE):
            row = {"id": account(number), "name": account(number), "role": "annotator", "created": NOW}
            connection.execute(insert(accounts).values(**row))
            projects.add_member(connection, project.id, account(number))
        return project.id

    project = store.write(fifty)
    done = count - count // OPEN_EVERY
    for table, rows in (
        (item_rows, (item(project, number, done) for number in range(count + GOLD))),
        (assignments, (lease(project, *said) for said in saying(done, count))),
        (events, chain(event(project, *said) for said in saying(done, count))),
    ):
        for portion in items.portions(rows, ROWS_AT_ONCE):
            store.write(lambda connection, table=table, portion=portion: bulk_insert(connection, table, portion))
    last = done - 1  # people have passed what is finished
    store.write(lambda c: c.execute(update(projects.members).values(place=last, walk="0/")))
    if store.url.get_backend_name() == "postgresql":
        for table in (item_rows, events):
            name = f"{table.name}_id_seq"
            statement = text(f"SELECT setval('{name}', (SELECT max(id) FROM {table.name}))")
            store.write(lambda connection, statement=statement: connection.execute(statement))
        store.write(lambda connection: connection.execute(text("ANALYZE")))


def saying(done: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(number of the label, item, annotator): items one after another, each by the next people in turn; then gold."""
    serial = 0
    for number in range(done):
        for turn in range(OVERLAP):
            yield serial, number, (number * OVERLAP + turn) % PEOPLE
            serial += 1
    for number in range(count, count + GOLD):
        for turn in range(OVERLAP):
            yield serial, number, (number + turn) % PEOPLE
            serial += 1


def item(project: str, number: int, done: int) -> dict[str, Any]:
    rng = random.Random(number)
    gold = number >= done * OPEN_EVERY / (OPEN_EVERY - 1)
    state = "gold" if gold else "taken" if number < done else "open"
    return {
        "id": number + 1, "project": project, "key": f"item-{number:07}", "state": state, "place": number,
        "overlap": OVERLAP, "labels": 0 if state == "open" else OVERLAP, "leases": 0, "flags": 0, "arm": "random",
        "selection_probability": 1.0, "created": NOW, "tags": {}, "gold": ANSWERS[0] if gold else None,
        "prompt": [{"role": "user", "content": words(rng, 20)}], "responses": [words(rng, 60), words(rng, 50)],
    }  # fmt: skip


def lease(project: str, serial: int, number: int, who: int) -> dict[str, Any]:
    return {
        "item": number + 1, "account": account(who), "project": project, "ticket": f"ticket-{serial:08}-0123456789",
        "state": "labeled", "order_shown": [0, 1], "guideline": 1, "opened": NOW, "until": NOW,
    }  # fmt: skip


def event(project: str, serial: int, number: int, who: int) -> dict[str, Any]:
    rng = random.Random(serial)
    answer = ANSWERS[rng.choice((0, 0, 0, 1, 2))]
    vote = {0: -1, 1: 1, None: 0}[answer["choice"]]
    return {
        "id": serial + 1, "uid": f"label-{serial:08}-0123456789", "type": "label", "project": project,
        "item": number + 1, "account": account(who), "answer": answer, "order_shown": [0, 1], "guideline": 1,
        "seconds": rng.uniform(2, 60), "vote": vote, "first_won": None if not vote else vote < 0,
        "longer_won": None if not vote else vote < 0, "at": NOW + serial / 10,
    }  # fmt: skip


def chain(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    before = START
    for row in rows:
        before = chained(before, {name: value for name, value in row.items() if name != "id"})
        yield {**row, "hash": before}


def bulk_insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Past SQLAlchemy, which would take longer than the database."""
    names = list(rows[0])
    values = ([json.dumps(one) if isinstance(one, dict | list) else one for one in row.values()] for row in rows)
    columns = ", ".join(f'"{name}"' for name in names)
    cursor = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        cursor.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(names))})", values)
    else:
        with cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:  # type: ignore[attr-defined]
            for row in values:
                copy.write_row(row)


def account(number: int) -> str:
    return f"account-{number % PEOPLE:02}-0123456789"


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


if __name__ == "__main__":
    main()
