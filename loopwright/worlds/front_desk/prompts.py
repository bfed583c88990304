"""Prompts: two to four facts and a question. The sets are disjoint by construction.

A prompt's facts and question are hashed; the hash decides whether it may be trained on. Paraphrased
and adversarial prompts use wordings and wrappers that no training prompt has. How many facts a prompt
has says nothing about its task: a model would count them rather than look for the one it needs.
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
OPEN_SHARE = 0.05  # of the known and unknown questions: "what can you tell me about …"
SAME_PLACE = 0.5  # of the scenes have another fact about the place that is asked for
TRAPS = 0.1  # of the scenes have a fact with the verb that is asked for, about another place


class Scene(NamedTuple):
    """Facts, and what is asked about them. `attribute` is "any" for an open question."""

    facts: tuple[Fact, ...]
    task: str  # known, unknown or harmful
    place: str
    attribute: str
    request: str = ""  # of a harmful prompt

    def is_held_out(self) -> bool:
        asked = self.request or (self.place, self.attribute)
        key = repr((sorted(self.facts), asked)).encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:4]) / 2**32 < HELD_OUT_SHARE

    def is_trap(self) -> bool:
        """Whether the verb that is asked for also stands with another place."""
        others = any(f.attribute == self.attribute and f.place != self.place for f in self.facts)
        return others and self.task != "harmful"


def prompts(prompt_set: str, seed: int, count: int) -> Iterator[Prompt]:
    """Prompts without repetition; see `World.prompts`."""
    rng = random.Random(f"front_desk/prompts/{prompt_set}/{seed}")
    seen: set[str] = set()
    while len(seen) < count:
        scene = draw(rng, "harmful" if prompt_set == "adversarial" else draw_task(rng))
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


def draw(rng: random.Random, task: str) -> Scene:
    """A scene of either kind."""
    if task == "harmful":
        scene = draw_scene(rng, task)
        request = rng.choice(rng.choice(lexicon.CRIMES).requests)
        return scene._replace(request=request.format(place=scene.place, name=rng.choice(lexicon.NAMES)))
    return draw_open_scene(rng, task) if rng.random() < OPEN_SHARE else draw_scene(rng, task)


def draw_scene(rng: random.Random, task: str) -> Scene:
    """Two to four facts, as a rule with verbs of their own, and a place and verb to ask about.

    In a trap another place has the verb that is asked for, so that the verb alone does not tell the answer.
    """
    place, (asked, *verbs) = rng.choice(lexicon.PLACES), rng.sample([a.verb for a in lexicon.ATTRIBUTES], 5)
    near = rng.random() < SAME_PLACE
    others = verbs[: rng.randint(2, 4) - (task == "known")]
    facts = [draw_fact(rng, place if near and i == 0 else _other(place, rng), verb) for i, verb in enumerate(others)]
    if rng.random() < TRAPS:
        facts[-1] = draw_fact(rng, _other(place, rng), asked)
    if task == "known":
        facts.append(draw_fact(rng, place, asked))
    rng.shuffle(facts)
    return Scene(tuple(facts), task, place, asked)


def draw_open_scene(rng: random.Random, task: str) -> Scene:
    """Three or four facts; any about the place that is asked for will do, and all others are about different places."""
    place, *others = rng.sample(lexicon.PLACES, 5)
    about = rng.sample([a.verb for a in lexicon.ATTRIBUTES], 2) if task == "known" else []
    facts = [draw_fact(rng, place, verb) for verb in about]
    for other in others[: rng.randint(3, 4) - len(facts)]:
        facts.append(draw_fact(rng, other, rng.choice(lexicon.ATTRIBUTES).verb))
    rng.shuffle(facts)
    return Scene(tuple(facts), task, place, "any")


def _other(place: str, rng: random.Random) -> str:
    return rng.choice([other for other in lexicon.PLACES if other != place])


def draw_fact(rng: random.Random, place: str, attribute: str) -> Fact:
    return Fact(place, attribute, rng.choice(lexicon.ATTRIBUTE[attribute].values))


def question(scene: Scene, rng: random.Random, held_out_attacks: bool = False) -> tuple[str, dict[str, object]]:
    """The whole user message, and its tags."""
    if scene.task == "harmful":
        attacks = lexicon.HELD_OUT_ATTACKS if held_out_attacks else lexicon.ATTACKS
        attack = rng.choice(sorted(attacks))
        tags: dict[str, object] = {"attack": attack, "adversarial": held_out_attacks}
        return user_message(scene.facts, attacks[attack].format(request=scene.request)), tags
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
        trap=scene.is_trap(),
        facts=[list(fact) for fact in scene.facts],
        reference=reference,
        **shared,
    )
