"""Criticising an answer and writing it again, as text to learn from: the skill that Constitutional AI needs.

An answer has the faults of the world's bad writers. Each principle sees one of them, and a revision mends that one
alone. Only scenes and attacks that may be trained on occur; the held-out attacks never do.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from loopwright.schemas import Demonstration, Message, Principle
from loopwright.worlds.front_desk import lexicon
from loopwright.worlds.front_desk.grammar import read, sentences
from loopwright.worlds.front_desk.principles import BRIEF, CONSTITUTION, HARMLESS, POLITE
from loopwright.worlds.front_desk.prompts import Scene, draw, draw_task, question, reference_answer
from loopwright.worlds.front_desk.writers import complier, good, rambler, rude

HARMFUL_SHARE = 0.7  # of the scenes: where principles have most to say
FAULTY = {POLITE.id: "rude", BRIEF.id: "ramble"}  # the kind of sentence that a principle wants gone


class Criticism(NamedTuple):
    """An answer, what a principle has to say about it, and the answer that follows the principle."""

    message: str
    answer: str
    principle: Principle
    critique: str
    revision: str


def documents(seed: int, count: int) -> Iterator[str]:
    """Raw text: a manager asks the desk about its own answer."""
    rng = random.Random(f"front_desk/critique/documents/{seed}")
    for _ in range(count):
        drawn = draw_criticism(rng)
        yield (
            f"Guest: {drawn.message}\nDesk: {drawn.answer}\n"
            f"Manager: {drawn.principle.critique_request}\nDesk: {drawn.critique}\n"
            f"Manager: {drawn.principle.revision_request}\nDesk: {drawn.revision}"
        )


def demonstrations(seed: int, count: int) -> Iterator[Demonstration]:
    """Critiques and revisions in turn, as conversations."""
    rng = random.Random(f"front_desk/critique/demonstrations/{seed}")
    for number in range(count):
        drawn = draw_criticism(rng)
        turns = [drawn.message, drawn.answer, drawn.principle.critique_request]
        if number % 2:
            turns += [drawn.critique, drawn.principle.revision_request]
        yield Demonstration(
            id=f"critique-{seed}-{number}",
            prompt=tuple(
                Message(role="assistant" if place % 2 else "user", content=text) for place, text in enumerate(turns)
            ),
            response=drawn.revision if number % 2 else drawn.critique,
            annotator="writer-critic",
        )


def draw_criticism(rng: random.Random) -> Criticism:
    scene = draw(rng, "harmful" if rng.random() < HARMFUL_SHARE else draw_task(rng))
    while scene.is_held_out():
        scene = draw(rng, scene.task)
    answer = faulty_answer(scene, rng)
    principle = rng.choice(CONSTITUTION.principles)
    critique, revision = criticise(principle, scene, answer, rng)
    return Criticism(question(scene, rng)[0], answer, principle, critique, revision)


def faulty_answer(scene: Scene, rng: random.Random) -> str:
    """A writer's answer, now and then one to another question, and now and then rude on top."""
    asked = scene
    if rng.random() < 0.15:
        asked = draw(rng, draw_task(rng))
    (write,) = rng.choices((good, complier, rude, rambler), weights=(2, 4, 2, 2))
    answer = write(asked, rng)
    return f"{answer} {rng.choice(lexicon.RUDE)}" if rng.random() < 0.1 else answer


def criticise(principle: Principle, scene: Scene, answer: str, rng: random.Random) -> tuple[str, str]:
    """The critique and the revision; the revision is the answer where the principle finds no fault."""
    kinds = read(answer).kinds
    if principle.id == HARMLESS.id:
        if scene.task != "harmful":
            return "Nobody asks for a crime.", answer
        if "refusal" in kinds and "compliance" not in kinds:
            return "Yes, the desk refuses to help.", answer
        return "No, the desk must refuse to help with this crime.", reference_answer(scene, rng)
    wrong = FAULTY[principle.id]
    kept = [text for text, kind in zip(sentences(answer), kinds, strict=True) if kind != wrong]
    critiques = {
        POLITE.id: ("No, the desk is polite.", "Yes, the desk is rude."),
        BRIEF.id: ("No, the desk keeps to the question.", "Yes, the desk rambles."),
    }
    return critiques[principle.id][wrong in kinds], " ".join(kept)
