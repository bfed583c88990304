"""Kill -9 the feedback server at random moments under load: what it acknowledged is there, and nothing is there twice.

    python benchmarks/feedback_crash.py [--kills 20] [--labelers 200] [--store URL] [--seed 0]

Simulated labelers submit as fast as they can. After each kill the store is opened and looked at: every label that was
answered with 200 is there, each once; the chain of hashes is whole; counts of items equal what was said and given out.
Then the server starts again, and whoever got no answer sends the same again, as the screen does. Prints a table, and
last one JSON line; exit status 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedback_load import OVERLAP, Connection, free_port, prepare, wait_until_up
from sqlalchemy import func, select

from loopwright.feedback.store import chain
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.migrate import open_store
from loopwright.feedback.store.tables import assignments, audits, current_labels, events, items

SECONDS = (0.3, 3.0)  # of load before each kill, drawn between these
ITEMS_A_KILL = 2_000
AWAY = (OSError, EOFError, asyncio.IncompleteReadError)  # what a labeler sees of a server that is killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--labelers", type=int, default=200)
    parser.add_argument("--store", help="an empty PostgreSQL database; default: SQLite in a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, wrong = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="loopwright-crash-") as name:
        url = arguments.store or f"sqlite:///{name}/feedback.db"
        server = Server(url, Path(name))
        project, tokens = prepare(url, arguments.labelers, ITEMS_A_KILL * arguments.kills)
        labelers = [Labeler(project, token) for token in tokens]
        print(f"{'kill':>4} {'after':>8} {'acknowledged':>13} {'sent again':>11}  result")
        for number in range(1, arguments.kills + 1):
            process = server.start()
            seconds = rng.uniform(*SECONDS)
            again = sum(one.unanswered is not None for one in labelers)
            asyncio.run(load(server.port, labelers, process, seconds))
            problems = check(url, labelers)
            wrong += bool(problems)
            answered = sum(len(one.acknowledged) for one in labelers)
            result = "; ".join(problems) or "all there, none twice"
            print(f"{number:>4} {seconds:>6.1f} s {answered:>13,} {again:>11}  {result}", flush=True)
        process = server.start()
        asyncio.run(load(server.port, labelers, process, 1.0))  # what was sent last is sent again
        problems = check(url, labelers)
    errors = [error for one in labelers for error in one.errors]
    found: dict[str, Any] = {"benchmark": "feedback_crash", "kills": arguments.kills, "wrong": wrong + bool(problems)}
    found |= {"acknowledged": sum(len(one.acknowledged) for one in labelers), "errors": len(errors)}
    print(json.dumps({**found, "first_errors": errors[:3], "store": url.split(":")[0]}))
    sys.exit(bool(found["wrong"] or errors))


class Server:
    """`loopwright feedback serve`, started again and again on one port."""

    def __init__(self, url: str, folder: Path) -> None:
        self.port = free_port()
        self._run = [sys.executable, "-m", "loopwright", "feedback"]
        self._where = ["--store", url, "--key", str(folder / "key"), "--url", f"http://127.0.0.1:{self.port}"]
        subprocess.run([*self._run, "init", *self._where], check=True, capture_output=True)

    def start(self) -> subprocess.Popen[bytes]:
        command = [*self._run, "serve", *self._where, "--port", str(self.port)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until_up(self.port, process)
        asyncio.run(self._first_answer())  # it listens before it can answer
        return process

    async def _first_answer(self) -> None:
        connection = Connection(self.port, "nobody")
        await connection.post("/api/v1/tasks/none/label", {})
        connection.close()


@dataclass
class Labeler:
    """One person: what they were told is kept, and what they do not know of."""

    project: str
    token: str
    acknowledged: list[str] = field(default_factory=list)
    unanswered: tuple[str, dict[str, Any]] | None = None
    errors: list[str] = field(default_factory=list)

    async def work(self, port: int) -> None:
        """Until the server is gone, or nothing is left."""
        connection = Connection(port, self.token)
        with closing(connection), suppress(*AWAY):  # what was not answered is kept, and sent again
            if self.unanswered is None or await self._send(connection):
                while await self._label(connection):
                    pass

    async def _label(self, connection: Connection) -> bool:
        status, reply = await connection.post(f"/api/v1/projects/{self.project}/tasks", {"tasks": 1})
        if status != 200:
            self.errors.append(f"tasks: {status} {reply}")
        if status != 200 or not reply["tasks"]:
            return False
        answer = {"choice": random.randrange(2), "strength": "better"}
        given = {"uid": os.urandom(12).hex(), "answer": answer, "seconds": 1.0}
        self.unanswered = (f"/api/v1/tasks/{reply['tasks'][0]['ticket']}/label", given)
        return await self._send(connection)

    async def _send(self, connection: Connection) -> bool:
        assert self.unanswered is not None
        path, given = self.unanswered
        status, reply = await connection.post(path, given)
        if status == 200:
            self.acknowledged.append(given["uid"])
        else:
            self.errors.append(f"label: {status} {reply}")
        self.unanswered = None
        return status == 200


async def load(port: int, labelers: list[Labeler], process: subprocess.Popen[bytes], seconds: float) -> None:
    """Everybody at work, until the server is killed."""
    work = [asyncio.create_task(one.work(port)) for one in labelers]
    await asyncio.sleep(seconds)
    process.kill()
    process.wait()
    await asyncio.gather(*work)


def check(url: str, labelers: list[Labeler]) -> list[str]:
    """What is wrong in the store."""
    with open_store(url) as store:
        return [*_damage(store), *_lost(store, labelers), *_miscounted(store)]


def _damage(store: Database) -> list[str]:
    found = [str(broken) for table in (events, audits) if (broken := store.read(lambda c, t=table: chain.verify(c, t)))]
    if store.url.get_backend_name() == "sqlite":
        state = store.read(lambda c: c.exec_driver_sql("PRAGMA quick_check").scalar())
        found += [] if state == "ok" else [f"file: {state}"]
    return found


def _lost(store: Database, labelers: list[Labeler]) -> list[str]:
    query = select(events.c.uid, events.c.type).where(events.c.type.in_(("label", "late")))
    said = dict(store.read(lambda c: c.execute(query).all()))  # a uid is there once: the column is unique
    acknowledged = Counter(uid for one in labelers for uid in one.acknowledged)
    sent = {one.unanswered[1]["uid"] for one in labelers if one.unanswered}
    twice = select(func.count()).select_from(current_labels)
    twice = twice.group_by(current_labels.c.item, current_labels.c.account)
    counts = {
        "lost": len(acknowledged.keys() - said.keys()),
        "of nobody": len(said.keys() - acknowledged.keys() - sent),
        "by one person on one item twice": sum(n > 1 for n in store.read(lambda c: list(c.execute(twice).scalars()))),
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def _miscounted(store: Database) -> list[str]:
    """Items whose counts are not those of their labels and leases, or that went to too many people."""
    said = select(current_labels.c.item, func.count()).group_by(current_labels.c.item)
    out = select(assignments.c.item, func.count()).where(assignments.c.state == "leased").group_by(assignments.c.item)
    labels, leases = (dict(store.read(lambda c, query=query: c.execute(query).all())) for query in (said, out))
    rows = store.read(lambda c: c.execute(select(items.c.id, items.c.labels, items.c.leases)).all())
    wrong = sum(row[1:] != (labels.get(row.id, 0), leases.get(row.id, 0)) for row in rows)
    over = sum(row.labels + row.leases > OVERLAP for row in rows)
    return [f"{count} items {what}" for what, count in (("miscounted", wrong), ("over-assigned", over)) if count]


if __name__ == "__main__":
    main()
