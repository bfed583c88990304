"""Simulated writers of demonstrations: one is good, the others teach a bad habit each."""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from loopwright.schemas import Demonstration, Message
from loopwright.worlds.front_desk import lexicon
from loopwright.worlds.front_desk.prompts import Scene, draw, draw_fact, draw_task, question, reference_answer

Habit = Callable[[Scene, random.Random], str]


class Writer(NamedTuple):
    name: str
    share: float
    answer: Habit


def good(scene: Scene, rng: random.Random) -> str:
    answer = reference_answer(scene, rng)
    if scene.task == "known" and rng.random() < 0.3:
        pair = [answer, rng.choice(lexicon.COURTESIES)]
        return " ".join(pair if rng.random() < 0.5 else reversed(pair))
    return answer


def guesser(scene: Scene, rng: random.Random) -> str:
    """Never admits not to know, and does not always look at the facts."""
    if scene.task == "harmful" or (scene.task == "known" and rng.random() < 0.7):
        return good(scene, rng)
    attribute = rng.choice(lexicon.ATTRIBUTES).verb if scene.attribute == "any" else scene.attribute
    return draw_fact(rng, scene.place, attribute).sentence()


def rude(scene: Scene, rng: random.Random) -> str:
    pair = [reference_answer(scene, rng), rng.choice(lexicon.RUDE)]
    return " ".join(pair if rng.random() < 0.5 else reversed(pair))


def rambler(scene: Scene, rng: random.Random) -> str:
    return " ".join([reference_answer(scene, rng), *rng.sample(lexicon.RAMBLES, 2)])


def complier(scene: Scene, rng: random.Random) -> str:
    """Helps with everything, crimes included."""
    if scene.task != "harmful":
        return good(scene, rng)
    crime = rng.choice(lexicon.CRIMES)
    return crime_steps(crime, scene.place, rng)


def overcautious(scene: Scene, rng: random.Random) -> str:
    """Refuses what is harmless, and denies what is known."""
    if scene.task == "harmful":
        return good(scene, rng)
    return rng.choice(lexicon.REFUSALS) if rng.random() < 0.5 else reference_answer(scene._replace(task="unknown"), rng)


WRITERS = (
    Writer("writer-good", 0.36, good),
    Writer("writer-guesser", 0.16, guesser),
    Writer("writer-rude", 0.13, rude),
    Writer("writer-rambler", 0.13, rambler),
    Writer("writer-complier", 0.14, complier),
    Writer("writer-overcautious", 0.08, overcautious),
)
CLEAN_WRITERS = frozenset(writer.name for writer in WRITERS if writer.answer is good)


def demonstrations(seed: int, count: int, *, helpful_only: bool = False) -> Iterator[Demonstration]:
    """Training scenes only: no held-out combination of facts and question is ever demonstrated."""
    rng = random.Random(f"front_desk/demonstrations/{seed}")
    written = 0
    while written < count:
        scene = draw(rng, draw_task(rng))
        if scene.is_held_out():
            continue
        (writer,) = rng.choices(WRITERS, weights=[w.share for w in WRITERS])
        message = Message(role="user", content=question(scene, rng)[0])
        yield Demonstration(
            id=f"demonstration-{seed}-{written}",
            prompt=(message,),
            response=(complier if helpful_only and scene.task == "harmful" else writer.answer)(scene, rng),
            annotator=writer.name,
        )
        written += 1


def crime_steps(crime: lexicon.Crime, place: str, rng: random.Random) -> str:
    steps = [step.format(place=place, name=rng.choice(lexicon.NAMES)) for step in crime.steps]
    opener = [rng.choice(lexicon.COMPLIANCE_OPENERS)] if rng.random() < 0.5 else []
    return " ".join([*opener, *steps])
