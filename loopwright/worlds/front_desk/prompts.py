"""Prompts: two to four facts and a question. The sets are disjoint by construction.

A prompt's facts and question are hashed; the hash decides whether it may be trained on. Paraphrased
and adversarial prompts use wordings and wrappers that no training prompt has.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

from loopwright.schemas import Prompt
from loopwright.worlds.front_desk import lexicon
from loopwright.worlds.front_desk.grammar import Fact

HELD_OUT_SHARE = 0.2
KNOWN, UNKNOWN = 0.5, 0.25  # shares of the tasks; the rest is harmful
OPEN_SHARE = 0.1  # of the known and unknown questions: "what can you tell me about …"


class Scene(NamedTuple):
    """Facts, and what is asked about them. `attribute` is "any" for an open question."""

    facts: tuple[Fact, ...]
    task: str  # known, unknown or harmful
    place: str
    attribute: str

    def is_held_out(self) -> bool:
        key = repr((sorted(self.facts), self.place, self.attribute)).encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:4]) / 2**32 < HELD_OUT_SHARE


def prompts(prompt_set: str, seed: int, count: int) -> Iterator[Prompt]:
    """Prompts without repetition; see `World.prompts`."""
    rng = random.Random(f"front_desk/prompts/{prompt_set}/{seed}")
    seen: set[str] = set()
    while len(seen) < count:
        scene = draw_scene(rng, "harmful" if prompt_set == "adversarial" else draw_task(rng))
        if scene.is_held_out() == (prompt_set == "train"):
            continue
        if prompt_set == "paraphrased":
            # one question in several wordings; answers to them should not differ
            group = f"question-{len(seen):05d}"
            for wording in paraphrases(scene, rng):
                if wording not in seen and len(seen) < count:
                    seen.add(wording)
                    yield _prompt(f"{prompt_set}-{seed}-{len(seen) - 1}", scene, wording, question_id=group)
            continue
        wording, tags = question(scene, rng, held_out_attacks=prompt_set == "adversarial")
        if wording not in seen:
            seen.add(wording)
            yield _prompt(f"{prompt_set}-{seed}-{len(seen) - 1}", scene, wording, **tags)


def draw_task(rng: random.Random) -> str:
    draw = rng.random()
    return "known" if draw < KNOWN else "unknown" if draw < KNOWN + UNKNOWN else "harmful"


def draw_scene(rng: random.Random, task: str) -> Scene:
    """The asked place and attribute, the fact when it is known, and distractors that share either."""
    place = rng.choice(lexicon.PLACES)
    attribute = rng.choice(lexicon.ATTRIBUTES).name
    facts = {(place, attribute): draw_fact(rng, place, attribute)} if task == "known" else {}
    wanted = rng.randint(2, 4)
    open_question = task != "harmful" and rng.random() < OPEN_SHARE
    while len(facts) < wanted:
        near = rng.random()
        other_place = place if near < 0.3 else rng.choice(lexicon.PLACES)
        other_attribute = attribute if 0.3 <= near < 0.6 else rng.choice(lexicon.ATTRIBUTES).name
        absent = (other_place, other_attribute) == (place, attribute) or (open_question and other_place == place)
        if not (task == "unknown" and absent):
            facts.setdefault((other_place, other_attribute), draw_fact(rng, other_place, other_attribute))
    shuffled = list(facts.values())
    rng.shuffle(shuffled)
    return Scene(tuple(shuffled), task, place, "any" if open_question else attribute)


def draw_fact(rng: random.Random, place: str, attribute: str) -> Fact:
    return Fact(place, attribute, rng.choice(lexicon.ATTRIBUTE[attribute].values))


def question(scene: Scene, rng: random.Random, held_out_attacks: bool = False) -> tuple[str, dict[str, object]]:
    """The whole user message, and its tags."""
    if scene.task == "harmful":
        crime = rng.choice(lexicon.CRIMES)
        request = rng.choice(crime.requests).format(place=scene.place, name=rng.choice(lexicon.NAMES))
        attacks = lexicon.HELD_OUT_ATTACKS if held_out_attacks else lexicon.ATTACKS
        attack = rng.choice(sorted(attacks))
        tags: dict[str, object] = {"crime": crime.family, "attack": attack, "adversarial": held_out_attacks}
        return user_message(scene.facts, attacks[attack].format(request=request)), tags
    wordings = lexicon.OPEN_QUESTIONS if scene.attribute == "any" else lexicon.ATTRIBUTE[scene.attribute].questions
    return user_message(scene.facts, rng.choice(wordings).format(place=scene.place)), {}


def paraphrases(scene: Scene, rng: random.Random) -> list[str]:
    """The same scene asked in every wording that training never uses."""
    if scene.task == "harmful":
        requests, name = rng.choice(lexicon.CRIMES).paraphrases, rng.choice(lexicon.NAMES)
        return [user_message(scene.facts, request.format(place=scene.place, name=name)) for request in requests]
    wordings = lexicon.OPEN_PARAPHRASES if scene.attribute == "any" else lexicon.ATTRIBUTE[scene.attribute].paraphrases
    return [user_message(scene.facts, wording.format(place=scene.place)) for wording in wordings]


def user_message(facts: tuple[Fact, ...], wording: str) -> str:
    return " ".join([*(fact.sentence() for fact in facts), wording])


def reference_answer(scene: Scene, rng: random.Random) -> str:
    """A right answer, in one of its wordings."""
    if scene.task == "harmful":
        return rng.choice(lexicon.REFUSALS)
    if scene.task == "unknown":
        what = lexicon.OPEN_UNKNOWN if scene.attribute == "any" else lexicon.ATTRIBUTE[scene.attribute].unknown
        return rng.choice(lexicon.UNKNOWN_ANSWERS).format(what=what.format(place=scene.place))
    right = [f for f in scene.facts if f.place == scene.place and scene.attribute in (f.attribute, "any")]
    return rng.choice(right).sentence()


def _prompt(id: str, scene: Scene, wording: str, **tags: object) -> Prompt:
    reference = reference_answer(scene, random.Random(f"front_desk/reference/{wording}"))
    shared = {"adversarial": False, "question_id": id} | tags
    return Prompt.user(
        id,
        wording,
        task=scene.task,
        place=scene.place,
        attribute=scene.attribute,
        facts=[list(fact) for fact in scene.facts],
        reference=reference,
        **shared,
    )
