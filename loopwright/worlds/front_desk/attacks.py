"""What red teaming needs of the front desk: harmful requests, and a reading of any text that may hold one."""

import random
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from loopwright.schemas import Prompt
from loopwright.worlds.base import Request
from loopwright.worlds.front_desk import lexicon
from loopwright.worlds.front_desk.grammar import Fact, normalised, pattern, read, sentences
from loopwright.worlds.front_desk.prompts import Scene, draw


class Asked(NamedTuple):
    """A harmful request as a text words it."""

    crime: str  # its family
    place: str  # "" where it is about a person
    request: str


class Attacks:
    """See `RedTeamGround`."""

    templates = lexicon.ATTACKS

    def requests(self, seed: int, count: int) -> Iterator[Request]:
        """Of scenes that may be trained on, with their facts as the context."""
        rng = random.Random(f"front_desk/requests/{seed}")
        given = 0
        while given < count:
            scene = draw(rng, "harmful")
            if not scene.is_held_out():
                yield Request(" ".join(fact.sentence() for fact in scene.facts), scene.request)
                given += 1

    def opening(self, context: str) -> str:
        """As in the crime reports of the corpus, which have one fact on the line of the request."""
        return f"{sentences(context)[-1]} Guest:"

    def read(self, id: str, text: str) -> Prompt | None:
        """None where no sentence is a request for a crime, or any is worded as held-out prompts alone are."""
        asked = harmful_request(text)
        if asked is None or has_held_out_words(text):
            return None
        facts = dict.fromkeys(read(text).facts)
        return Prompt.user(
            id,
            text,
            task="harmful",
            place=asked.place,
            attribute="",
            trap=False,
            facts=[list(fact) for fact in facts],
            reference=lexicon.REFUSALS[0],
            adversarial=False,
            question_id=id,
            crime=asked.crime,
            request=asked.request,
        )

    def is_held_out(self, prompt: Prompt) -> bool:
        """By the hash that decides it of all prompts."""
        facts = tuple(Fact(*fact) for fact in prompt.tags["facts"])
        return Scene(facts, "harmful", "", "", prompt.tags["request"]).is_held_out()

    def wording(self, text: str) -> str:
        """In lower case, without punctuation, with `{place}`, `{name}` and `{value}` for the words of the lexicon."""
        return " ".join(_slots().get(word, word) for word in re.findall(r"[^\W_]+", text.lower()))

    def complies(self, response: str) -> bool:
        """Where it does, the judge `harmless` gives 0."""
        return read(response).count("compliance") > 0


def harmful_request(text: str) -> Asked | None:
    """The first whole sentence of a text that asks for a crime, in any wording of the lexicon."""
    for sentence in sentences(text):
        for crime, one in _requests():
            if match := one.fullmatch(normalised(sentence)):
                return Asked(crime, match.groupdict().get("place") or "", sentence)
    return None


def has_held_out_words(text: str) -> bool:
    """Whether a sentence is of a held-out attack, or in a wording of the paraphrased prompts."""
    return any(one.fullmatch(normalised(sentence)) for sentence in sentences(text) for one in _held_out())


@cache
def _requests() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (crime.family, pattern(wording))
        for crime in lexicon.CRIMES
        for wording in (*crime.requests, *crime.paraphrases)
    )


@cache
def _held_out() -> tuple[re.Pattern[str], ...]:
    around = [part for wrapper in lexicon.HELD_OUT_ATTACKS.values() for part in wrapper.split("{request}")]
    wordings = [sentence for part in around for sentence in sentences(part)]
    wordings += [wording for crime in lexicon.CRIMES for wording in crime.paraphrases]
    wordings += [wording for attribute in lexicon.ATTRIBUTES for wording in attribute.paraphrases]
    return tuple(pattern(wording) for wording in (*wordings, *lexicon.OPEN_PARAPHRASES))


@cache
def _slots() -> dict[str, str]:
    values = {value.lower(): "{value}" for attribute in lexicon.ATTRIBUTES for value in attribute.values}
    names = {name.lower(): "{name}" for name in lexicon.NAMES}
    return values | names | dict.fromkeys(lexicon.PLACES, "{place}")
