"""How many people one server serves: simulated labelers over loopback, beside the server on the same cores.

    python benchmarks/feedback_load.py [--labelers 200] [--think 2] [--seconds 60] [--store URL] [--power-safe]

Each labeler asks for the next task as the screen does (rendered, and one more ahead), thinks, saves a draft, submits,
and again, over a connection of its own. Then programs: no HTML, no draft, no thinking; and so on until nothing is left.
At the end the store is asked whether each item has exactly as many labels as its overlap and as were acknowledged.

Prints a table and, last, one JSON line. Milliseconds of processor a label, of the server, the load and a PostgreSQL on
this machine, tell more than seconds where others use the cores. Bars: with 2 s of think time p99 of both calls under
100 ms; without, 200 labels a second; no error; exact overlap. Exit status 1 where the last two are not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store.items import Item, publish
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.store.people import create_account, create_token
from loopwright.feedback.store.projects import acknowledge, add_member, create_project
from loopwright.feedback.store.tables import events, items
from loopwright.schemas import Message

OVERLAP = 3
ITEMS_AT_ONCE = 5_000
REPORTED = (
    "labels", "labels_per_second", "next_p50_ms", "next_p99_ms", "draft_p99_ms", "submit_p50_ms", "submit_p99_ms",
    "errors", "processor_ms_a_label",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelers", type=int, default=200)
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds between task and label")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two parts")
    parser.add_argument("--items", type=int, default=8_000)
    parser.add_argument("--power-safe", action="store_true", help="SQLite: each commit waits for the disk")
    parser.add_argument("--store", help="an empty PostgreSQL database; default: SQLite in a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = args.store or f"sqlite:///{folder}/feedback.db"
        project, tokens = prepare(url, args.labelers, args.items)
        rows = {}
        with server(url, Path(folder), power_safe=args.power_safe) as (port, process):
            parts = (
                ("thinking", args.think, args.seconds),
                ("not thinking", 0.0, args.seconds),
                ("the rest", 0.0, math.inf),
            )
            for name, think, seconds in parts:
                before = processor_seconds(url, process.pid)
                rows[name] = asyncio.run(one_part(port, project, tokens, think, seconds))
                used = {who: seconds - before[who] for who, seconds in processor_seconds(url, process.pid).items()}
                each = {who: round(1e3 * seconds / max(rows[name]["labels"], 1), 2) for who, seconds in used.items()}
                rows[name]["processor_ms_a_label"] = each
                shown = "  ".join(f"{key} {rows[name][key]}" for key in REPORTED)
                print(f"{name:14} {shown}", flush=True)
        found = check(url, sum(row["labels"] for row in rows.values()))
        print(f"overlap        {found}")
    figures = {f"{name.replace(' ', '_')}": row for name, row in rows.items()}
    print(json.dumps({"benchmark": "feedback_load", "labelers": args.labelers, **figures, "overlap": found}))
    wrong = [name for name, count in found.items() if name.startswith("items_") and count]
    sys.exit(bool(wrong or found["acknowledged"] != found["stored"] or any(row["errors"] for row in rows.values())))


def prepare(url: str, labelers: int, count: int) -> tuple[str, list[str]]:
    """A project with items, and a token for each labeler."""
    migrate(url)
    now = time.time()
    with open_store(url) as database:
        config = ProjectConfig(kind="comparison", overlap=OVERLAP)
        project = database.write(lambda c: create_project(c, "load", config, guideline="Be fair.", now=now))

        def person(connection: Any, number: int) -> str:
            account = create_account(connection, f"labeler-{number:03}", role="simulated", now=now)
            add_member(connection, project.id, account.id)
            acknowledge(connection, project.id, account.id, 1)
            return create_token(connection, account.id, "load", ["label"], now=now)

        tokens = database.write(lambda c: [person(c, number) for number in range(labelers)])
        for start in range(0, count, ITEMS_AT_ONCE):
            portion = [an_item(number) for number in range(start, min(start + ITEMS_AT_ONCE, count))]
            database.write(lambda c, portion=portion: publish(c, project, portion, now=now))
    return project.id, tokens


def an_item(number: int) -> Item:
    """As long as answers of a chat are."""
    rng = random.Random(number)
    text = " ".join(rng.choice(("when", "the", "pool", "closes", "ask", "desk", "tomorrow")) for _ in range(120))
    prompt = (Message(role="user", content=f"Question {number}?"),)
    return Item(key=f"item-{number}", prompt=prompt, responses=(f"{text} {number} a", f"{text} {number} b"))


@contextmanager
def server(
    url: str, folder: Path, port: int = 0, *, power_safe: bool = False
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`loopwright feedback serve` in a process of its own."""
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    key = folder / "feedback.key"
    run = [sys.executable, "-m", "loopwright", "feedback"]
    where = ["--store", url, "--key", str(key), "--url", address]
    subprocess.run([*run, "init", *where], check=True, capture_output=True)
    more = ["--power-safe"] if power_safe else []
    process = subprocess.Popen([*run, "serve", *where, "--port", str(port), *more], stderr=subprocess.DEVNULL)
    try:
        wait_until_up(port, process)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def processor_seconds(url: str, server: int) -> dict[str, float]:
    """Used so far by the server, by this process, and by all of PostgreSQL."""
    found = {"server": used_by(psutil.Process(server)), "load": used_by(psutil.Process())}
    if url.startswith("postgresql"):
        with open_store(url) as database:
            query = select(func.pg_backend_pid())
            postmaster = psutil.Process(database.read(lambda c: c.execute(query).scalar_one())).parent()
        assert postmaster is not None
        ended = postmaster.cpu_times()
        found["database"] = ended.children_user + ended.children_system
        found["database"] += sum(used_by(one) for one in (postmaster, *postmaster.children()))
    return found


def used_by(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    import socket

    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server does not answer")


@dataclass
class Timings:
    """Seconds of each call, and what went wrong."""

    next: list[float] = field(default_factory=list)
    draft: list[float] = field(default_factory=list)
    submit: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def one_part(port: int, project: str, tokens: list[str], think: float, seconds: float) -> dict[str, Any]:
    """All labelers at once, for so long."""
    timings, start = Timings(), time.perf_counter()
    until = start + seconds
    await asyncio.gather(*(labeler(port, project, token, think, until, timings) for token in tokens))
    took = time.perf_counter() - start
    return {
        "labels": len(timings.submit),
        "labels_per_second": round(len(timings.submit) / took, 1),
        **{f"next_p{share}_ms": percentile(timings.next, share) for share in (50, 99)},
        "draft_p99_ms": percentile(timings.draft, 99),
        **{f"submit_p{share}_ms": percentile(timings.submit, share) for share in (50, 99)},
        "errors": len(timings.errors),
        "first_errors": timings.errors[:3],
    }


async def labeler(port: int, project: str, token: str, think: float, until: float, timings: Timings) -> None:
    """One person's work."""
    rng = random.Random(token)
    await asyncio.sleep(rng.uniform(0, 5 * think))  # people do not begin in the same instant
    connection = Connection(port, token)
    wanted = {"tasks": 2, "html": True} if think else {"tasks": 1}
    while time.perf_counter() < until:
        tasks = await timed(timings.next, timings, connection, "POST", f"/api/v1/projects/{project}/tasks", wanted)
        if tasks is None:
            continue
        if not tasks["tasks"]:
            break
        address = f"/api/v1/tasks/{tasks['tasks'][0]['ticket']}"
        choice, strength = rng.randrange(2), rng.choice(("significantly", "better", "slightly", "negligibly"))
        answer = {"choice": choice, "strength": strength}
        if think:
            await asyncio.sleep(rng.uniform(0.5, 1.5) * think)
            await timed(timings.draft, timings, connection, "PUT", f"{address}/draft", {"draft": answer})
        given = {"uid": os.urandom(12).hex(), "answer": answer, "seconds": think}
        await timed(timings.submit, timings, connection, "POST", f"{address}/label", given)
    connection.close()


async def timed(
    seconds: list[float], timings: Timings, connection: Connection, method: str, path: str, body: dict[str, Any]
) -> Any:
    """The reply; None where it is an error."""
    began = time.perf_counter()
    status, reply = await connection.ask(method, path, body)
    if status != 200:
        timings.errors.append(f"{path}: {status} {reply}")
        return None
    seconds.append(time.perf_counter() - began)
    return reply


class Connection:
    """HTTP/1.1 over one connection that stays open: a load generator must cost less than what it loads."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return await self.ask("POST", path, body)

    async def ask(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        text = json.dumps(body).encode()
        writer.write(f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        reply = json.loads(await reader.readexactly(length))
        return int(head[9:12]), reply

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def percentile(seconds: list[float], share: int) -> float:
    """In milliseconds."""
    ordered = sorted(seconds)
    return round(1e3 * ordered[min(len(ordered) * share // 100, len(ordered) - 1)], 1) if ordered else 0.0


def check(url: str, acknowledged: int) -> dict[str, int]:
    """What the store holds against what was acknowledged."""
    with open_store(url) as database:
        said = select(func.count()).where(events.c.type == "label")
        over = select(func.count()).where(items.c.labels + items.c.leases > items.c.overlap)
        under = select(func.count()).where(items.c.labels < items.c.overlap)
        per_item = select(events.c.item, func.count().label("count")).where(events.c.type == "label")
        counted = per_item.group_by(events.c.item).subquery()
        wrong = select(func.count()).where(items.c.id == counted.c.item, items.c.labels != counted.c.count)
        return {
            "acknowledged": acknowledged,
            "stored": database.read(lambda c: c.execute(said).scalar_one()),
            "items_under_assigned": database.read(lambda c: c.execute(under).scalar_one()),
            "items_over_assigned": database.read(lambda c: c.execute(over).scalar_one()),
            "items_miscounted": database.read(lambda c: c.execute(wrong).scalar_one()),
        }


if __name__ == "__main__":
    main()
