"""Exact overlap whatever happens side by side: many threads, and two processes on one database."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select

from loopwright.feedback.store import chain, queue
from loopwright.feedback.store.tables import current_labels, events, items
from tests.feedback.store.team import Team

WORK = """
import sys
from loopwright.feedback.store import labels, queue
from loopwright.feedback.store.migrate import open_store

url, project, people = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
answer = {"choice": 0, "strength": "better"}
with open_store(url) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    while people:
        who = people.pop(0)
        tasks = store.write(lambda connection: queue.claim(connection, project, who, now=1.0, tasks=2))
        for task in tasks:
            uid = f"{who}-{task.item}"
            store.write(lambda connection: labels.submit(
                connection, task.ticket, who, uid=uid, answer=answer, seconds=1, now=1.0
            ))
        if tasks:
            people.append(who)
"""


def each_item_has_its_people(team, overlap):
    said = select(current_labels.c.item, current_labels.c.account)
    pairs = team.read(lambda connection: connection.execute(said).all())
    assert len(set(pairs)) == len(pairs)
    rows = team.read(lambda connection: connection.execute(select(items)).all())
    assert {row.id for row in rows} == {item for item, _ in pairs}
    assert set(Counter(item for item, _ in pairs).values()) == {overlap}
    assert {(row.labels, row.leases, row.state) for row in rows} == {(overlap, 0, "taken")}
    assert team.read(chain.verify, events) is None


def test_exact_overlap_with_many_threads(store):
    """Twelve people, some of whom let tasks run out, skip or take back, finish forty items of three labels each."""
    team = Team(store, overlap=3)
    people = [f"p{number}" for number in range(12)]
    team.join(*people)
    team.publish(*range(40))

    def work(number):
        who, done = people[number], 0
        while tasks := team.claim(who, tasks=1 + number % 2):
            label = team.submit(who, tasks[0], uid=f"{who}-{done}")
            done += 1
            if done % 5 == number % 5:
                team.write(queue.expire, now=team.now + 10_000)  # everything that is out runs out
            if done % 7 == number % 7 and done < 20 and not label.late:
                team.write(undo, label.uid, who)
        return done

    def undo(connection, uid, who):
        from loopwright.feedback.store import labels

        labels.undo(connection, uid, who, uid=f"undo-{uid}", now=team.now)

    with ThreadPoolExecutor(len(people)) as pool:
        assert sum(pool.map(work, range(len(people)))) >= 120
    each_item_has_its_people(team, 3)


def test_exact_overlap_with_two_processes(store):
    team = Team(store, overlap=3)
    people = [f"p{number}" for number in range(6)]
    team.join(*people)
    team.publish(*range(60))
    url = store.url.render_as_string(hide_password=False)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, url, team.id, ",".join(people[number::2])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    each_item_has_its_people(team, 3)
    halves = Counter(int(one.annotator[1:]) % 2 for one in team.records())
    assert min(halves.values()) > 0
