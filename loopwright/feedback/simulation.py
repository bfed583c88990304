"""Simulated annotators at work on a feedback server: through the API that people's screens use, and nothing else.

They see a task as a person does. What its answers are truly worth they hear from judges, who know the prompt by its
words; each annotator's faults come on top (`annotators`).
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from loopwright.errors import ConfigError, LoopwrightError
from loopwright.feedback.annotators import TIE, SimulatedAnnotator, Verdict, reading_seconds
from loopwright.feedback.client import FeedbackClient, Task
from loopwright.feedback.projects import ProjectConfig
from loopwright.schemas import Judge, Message, Prompt

CAN = ("comparison", "ranking", "rating", "thumb")
IDLE_SECONDS = 0.2  # between two questions for work, where there is none
GOOD = 0.5  # felt worth from which a thumb goes up


class Labeler(NamedTuple):
    """An annotator with the token of an account that is a member of the project."""

    annotator: SimulatedAnnotator
    token: str


class World(NamedTuple):
    """What the answers are worth."""

    prompts: Mapping[tuple[Message, ...], Prompt]  # by their messages: judges also read a prompt's tags
    judges: Mapping[str, Judge]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], judges: Mapping[str, Judge]) -> "World":
        return cls({prompt.messages: prompt for prompt in prompts}, judges)


def work(  # noqa: PLR0913 -- where, who, and how fast
    url: str,
    project: str,
    config: ProjectConfig,
    labelers: Sequence[Labeler],
    world: World,
    *,
    seed: int = 0,
    think_seconds: float = 0.0,
    most: int | None = None,
    stay: Callable[[], bool] = lambda: False,
) -> int:
    """Let everybody label side by side until nothing is left for them; how many labels they gave.

    Args:
        project: its id.
        think_seconds: mean time on a task, beside the seconds that an annotator says it took; 0: full speed.
        most: labels that each gives; None: any number.
        stay: asked where nothing is left: whether to wait for more.

    Raises:
        ConfigError: the project asks for what simulated annotators cannot do.
        StoreError: the server is away, or refuses.
    """
    if config.kind not in CAN:
        raise ConfigError(f"simulated annotators can {', '.join(CAN)}; a {config.kind} project needs people")
    done = [0] * len(labelers)
    failed: list[LoopwrightError] = []

    def one(number: int) -> None:
        annotator = labelers[number].annotator
        try:
            with FeedbackClient(url, token=labelers[number].token) as client:
                while not failed and (most is None or done[number] < most):
                    found = client.tasks(project)
                    if found.new_guideline is not None:
                        client.saw_guideline(project, found.new_guideline)
                    if found.tasks:
                        done[number] += respond(client, found.tasks[0], config, annotator, world, seed, think_seconds)
                    elif stay():
                        time.sleep(IDLE_SECONDS)
                    else:
                        return
        except LoopwrightError as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(labelers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(done)


def respond(  # noqa: PLR0913 -- who, where, what, and how fast
    client: FeedbackClient,
    task: Task,
    config: ProjectConfig,
    annotator: SimulatedAnnotator,
    world: World,
    seed: int,
    think_seconds: float,
) -> bool:
    """Label a task, or skip one whose prompt the judges do not know; whether it was labeled."""
    rng = random.Random(f"{seed}/{annotator.id}/{task.prompt}/{task.answers}")  # the same task, the same answer
    if think_seconds:
        time.sleep(rng.uniform(0.5, 1.5) * think_seconds)
    prompt = world.prompts.get(task.prompt)
    if prompt is None:
        client.skip(task.ticket, "cannot_judge", note="no judge knows this prompt")
        return False
    given = answer(task, config, annotator, prompt, world.judges, rng)
    verdicts = len(given["scores"]) if "scores" in given else 1 + len(given.get("criteria", ()))
    client.label(task.ticket, given, seconds=reading_seconds(task.answers, rng, verdicts))
    return True


def answer(
    task: Task,
    config: ProjectConfig,
    annotator: SimulatedAnnotator,
    prompt: Prompt,
    judges: Mapping[str, Judge],
    rng: random.Random,
) -> dict[str, Any]:
    """What the form of the task's kind sends, answers known by the place at which they are shown."""
    in_order = range(len(task.answers))

    def felt(criterion: str | None) -> list[float]:
        return annotator.felt(prompt, task.answers, judges, criterion, in_order, rng)

    known = [
        name for name in config.criterion_names if name in judges and judges[name](prompt, task.answers[0]) is not None
    ]
    if task.kind == "comparison":
        overall = Verdict.of(felt(None))
        if overall.choice is None:
            return {"choice": None}
        said = {name: Verdict.of(felt(name)) for name in known}
        return {**overall._asdict(), **Verdict.by_criterion(said), "reason": "It is better."}
    if task.kind == "ranking":
        return {"ranks": ranks_of(felt(None)), "criteria": {name: ranks_of(felt(name)) for name in known}}
    if task.kind == "rating":
        names = config.criterion_names or ("overall",)
        return {"scores": {name: on_scale(felt(name if name in judges else None)[0], config, name) for name in names}}
    return {"good": felt(None)[0] >= GOOD}


def ranks_of(felt: Sequence[float]) -> list[int]:
    """1 for the best; what feels the same is a tie."""
    return [1 + sum(other > own + TIE for other in felt) for own in felt]


def on_scale(felt: float, config: ProjectConfig, criterion: str) -> int:
    """A worth in [0, 1] as a level of the project's scale, in the criterion's direction."""
    low, high = config.scale
    level = min(int(max(felt, 0.0) * (high - low + 1)), high - low)
    return low + level if config.is_high_good(criterion) else high - level
