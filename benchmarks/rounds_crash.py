"""Kill -9 a run of rounds that asks people, and the server they work at: the outcome is that of a run in peace.

    python benchmarks/rounds_crash.py [--kills 12] [--seed 0]

The two rounds of crash_rounds.yaml, with labels from a feedback server at which simulated people work over HTTP. A
random time after the run comes to a stage, its process, the server or both are killed and started again; who got no
answer sends the same again. Each stage is aimed at in turn, those in which people are waited for three times. In the
end every question was asked once, every label that was acknowledged is there once and in the run, and a second run on
the same store that nobody kills asks nothing more and comes to the same, bit for bit, times and memory aside. Prints a
table, and one JSON line last; exit status 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crash import ROOT, outcome
from feedback_crash import Server, check
from feedback_load import OVERLAP

from loopwright.config import read_yaml
from loopwright.data.readers import read_records
from loopwright.feedback.annotators import SimulatedAnnotator, team
from loopwright.feedback.client import FeedbackClient
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.simulation import World, respond
from loopwright.feedback.store.migrate import open_store
from loopwright.feedback.store.people import create_account, create_token
from loopwright.feedback.store.projects import create_project
from loopwright.feedback.store.simulated import hire
from loopwright.schemas import Comparison, Prompt
from loopwright.schemas.steps import stage_of
from loopwright.tracking.artifacts import current_artifacts
from loopwright.worlds import WORLDS

RECIPE = ROOT / "benchmarks" / "crash_rounds.yaml"
PROMPTS, PEOPLE, ATTEMPTS = 10, 4, 1_000  # a round; who label; requests until a server that was killed is up again
THINK_SECONDS = 0.3  # of a person, over a question
LONGEST_SECONDS = {"feedback": 6.0, None: 1.0}  # from the beginning of a stage to the kill, drawn below these
PATIENCE_SECONDS = 300.0  # without a word of the run
CONFIG = ProjectConfig(kind="comparison", overlap=OVERLAP, gold_share=0.0, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, started = random.Random(arguments.seed), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="loopwright-crash-") as name:
        scene = Scene(Path(name))
        print(f"{'kill':>4} {'after':>8}  {'killed in':<14} victim")
        killed = [scene.kill(number, *aim, rng) for number, aim in enumerate(aims(arguments.kills), start=1)]
        scene.finish("killed")
        asked = scene.questions()
        scene.finish("peace")
        wrong = scene.wrong(asked)
    print("; ".join(wrong) or "each question asked once, each label there once, and bit for bit what peace comes to")
    found = {"benchmark": "rounds_crash", "kills": len(killed), "killed_in": sorted(set(killed)), "wrong": wrong}
    print(json.dumps(found | {"labels": len(asked) * OVERLAP, "seconds": round(time.perf_counter() - started, 1)}))
    sys.exit(bool(wrong))


def aims(kills: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The stage and the victims of each kill: one a stage, all three of those that ask people; again where more."""
    schedule = read_yaml(RECIPE)["rounds"]["schedule"]
    steps = [f"{number}.{stage}" for number, stages in schedule.items() for stage in stages]
    every = [("run",), ("server",), ("run", "server")]
    plan = [
        (step, victims)
        for place, step in enumerate(steps)
        for victims in (every if stage_of(step) == "feedback" else [every[place % 3]])
    ]
    yield from (plan[i * len(plan) // kills] if kills < len(plan) else plan[i % len(plan)] for i in range(kills))


class Scene:
    """A store, its server, the people who work there, and the run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, f"sqlite:///{folder / 'feedback.db'}"
        self.server = Server(self.store, folder)
        self.url = f"http://127.0.0.1:{self.server.port}"
        with open_store(self.store) as database:
            now = time.time()
            self.project = database.write(lambda c: create_project(c, "desk", CONFIG, now=now)).id
            team_hired = hire(database, self.project, team(PEOPLE, 0), now=now)
            admin = database.write(lambda c: create_account(c, "admin", role="admin", now=now)).id
            scopes = ["read", "publish"]
            self.token = database.write(lambda c: create_token(c, admin, "run", scopes, now=now))
        self.people = [Person(self, one.annotator, one.token) for one in team_hired]
        self.serving = self.server.start()
        for one in self.people:
            one.start()
        self.run = Run(self, "killed")

    def kill(self, number: int, step: str, victims: tuple[str, ...], rng: random.Random) -> str:
        """Kill them while the run is in this step or soon after; what it was in."""
        if not self.run.comes_to(step):
            self.finish("killed")  # it was past that: from the start again, with what is there
            self.run = Run(self, "killed")
            self.run.comes_to(step)
        delay = rng.random() * LONGEST_SECONDS.get(stage_of(step), LONGEST_SECONDS[None])
        time.sleep(delay)
        if "run" in victims:
            self.run.kill()
        if "server" in victims:
            self.serving.kill()
            self.serving.wait()
        said = self.run.step
        print(f"{number:>4} {delay:>6.1f} s  {said:<14} {' and '.join(victims)}", flush=True)
        if "server" in victims:
            self.serving = self.server.start()
        if "run" in victims:
            self.run = Run(self, "killed")
        return said

    def finish(self, name: str) -> None:
        """See the run of that name to its end."""
        run = self.run if name == self.run.name and self.run.process.poll() is None else Run(self, name)
        run.comes_to(None)
        if run.process.returncode:
            raise SystemExit(f"the run failed:\n{run.said[-3000:]}")

    def questions(self) -> list[tuple[str, str]]:
        """Key and policy of each item."""
        from sqlalchemy import select

        from loopwright.feedback.store.tables import items

        with open_store(self.store) as database:
            return [(row.key, row.policy) for row in database.read(lambda c: c.execute(select(items)).all())]

    def wrong(self, asked: list[tuple[str, str]]) -> list[str]:
        """What is wrong in the store and in the two runs."""
        for one in self.people:
            one.leaves = True
        for one in self.people:
            one.join()
        self.serving.kill()
        self.serving.wait()
        runs = [self.folder / name for name in ("killed", "peace")]
        outcomes = [outcome(run) for run in runs]
        found = [f"{part} differs from peace" for part in outcomes[0] if outcomes[0][part] != outcomes[1][part]]
        made = current_artifacts(runs[0])
        feedback = [step for step in made if stage_of(step) == "feedback"]
        said = [one.id for step in feedback for one in _labels(made[step].path)]
        policies = [policy for _, policy in asked]
        if any(policies.count(made[step].manifest.parents["policy"]) != PROMPTS for step in feedback):
            found.append(f"{len(asked)} questions asked, not {PROMPTS} a round")
        if self.questions() != asked:
            found.append("the run in peace asked something")
        if sorted(said) != sorted(uid for one in self.people for uid in one.acknowledged):
            found.append("the labels of the run are not those that were acknowledged")
        return found + check(self.store, self.people)  # type: ignore[arg-type]


class Person(threading.Thread):
    """Labels whatever there is, and sends again what was not answered."""

    unanswered = None  # as the check of the store asks for it: nothing is, in the end

    def __init__(self, scene: Scene, annotator: SimulatedAnnotator, token: str) -> None:
        super().__init__(daemon=True)
        self.scene, self.annotator, self.token = scene, annotator, token
        self.acknowledged: list[str] = []
        self.leaves = False

    def run(self) -> None:
        world = None
        with Remembering(self.scene.url, self.token, self.acknowledged) as client:
            while not self.leaves:
                world = world or _world(self.scene.folder / "killed")
                tasks = client.tasks(self.scene.project).tasks if world else ()
                if tasks:
                    respond(client, tasks[0], CONFIG, self.annotator, world, 0, THINK_SECONDS)
                else:
                    time.sleep(0.2)


class Remembering(FeedbackClient):
    """A client that notes which labels were acknowledged."""

    def __init__(self, url: str, token: str, acknowledged: list[str]) -> None:
        super().__init__(url, token=token, attempts=ATTEMPTS)
        self._acknowledged = acknowledged

    def label(self, *args: Any, **kwargs: Any) -> str:
        uid = super().label(*args, **kwargs)
        self._acknowledged.append(uid)
        return uid


class Run:
    """`loopwright run` in a process of its own."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.name, self.said, self.step = name, "", "starting"
        wait = f"{{comparisons: {PROMPTS * OVERLAP}}}"  # everything that can be said
        feedback = (
            f"{{prompts: {PROMPTS}, responses_per_prompt: 2, store: '{scene.url}', project: desk, wait: {wait}, "
            "sampling: {max_new_tokens: 16}, prompts_at_once: 4, save_batches: 1}"
        )
        settings = [part for key in ("v1", "v2") for part in ("--set", f"rounds.schedule.{key}.feedback={feedback}")]
        command = [sys.executable, "-m", "loopwright", "run", str(RECIPE), *settings, "--out", str(scene.folder / name)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"LOOPWRIGHT_FEEDBACK_TOKEN": scene.token},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._begun: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def comes_to(self, step: str | None) -> bool:
        """Wait until it begins this step; None: until it ends. False where it ended before."""
        last = time.monotonic(), len(self.said)
        while step not in self._begun:
            if not self._listener.is_alive():
                self.process.wait()
                return step is None
            if len(self.said) > last[1]:
                last = time.monotonic(), len(self.said)
            if time.monotonic() - last[0] > PATIENCE_SECONDS:
                raise SystemExit(f"the run stands still:\n{self.said[-3000:]}")
            time.sleep(0.01)
        return True

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line.decode(errors="replace")
            if line.startswith(b"["):
                self.step = line.decode().split()[-1]
                self._begun.append(self.step)


def _labels(folder: Path) -> list[Comparison]:
    return read_records(folder / "comparisons.jsonl", Comparison).records


def _world(run: Path) -> World | None:
    found = next(run.glob("artifacts/world-*/prompts_train.jsonl"), None)
    return None if found is None else World.of(read_records(found, Prompt).records, WORLDS["front_desk"].judges)


if __name__ == "__main__":
    main()
