"""Raw text to pre-train on: notices, transcripts from desks of all kinds, stories; and the dirt of real corpora.

Transcripts list facts and then ask about them again and again, because copying a fact from what was
said before is the hard part of this world and next-token prediction must reward it.
"""

import random
from collections.abc import Callable, Iterator

from loopwright.worlds.front_desk import lexicon
from loopwright.worlds.front_desk.grammar import Fact
from loopwright.worlds.front_desk.prompts import Scene, draw_fact, reference_answer
from loopwright.worlds.front_desk.writers import crime_steps

BOILERPLATE = (
    "Share this page with your friends.",
    "All rights reserved. Terms of use apply.",
    "We use cookies to make this site better. Accept all cookies.",
    "Subscribe to our newsletter.",
    "Click here to read more.",
)


def corpus(seed: int, documents: int) -> Iterator[tuple[str, str]]:
    """(format, text) pairs, where format is txt, html or jsonl; about one in four is dirty or a duplicate."""
    rng = random.Random(f"front_desk/corpus/{seed}")
    recent: list[str] = []
    for _ in range(documents):
        draw = rng.random()
        if recent and draw < 0.06:
            text = rng.choice(recent)
        elif recent and draw < 0.12:
            text = nearly(rng.choice(recent), rng)
        else:
            text = document(rng)
            recent = [*recent[-499:], text]
        if rng.random() < 0.15:
            text = dirty(text, rng)
        kind = rng.choice(("txt", "jsonl", "html"))
        yield kind, _as_html(text, rng) if kind == "html" else text


def held_out_texts(seed: int, documents: int) -> Iterator[str]:
    """Clean documents from another stream of random numbers."""
    rng = random.Random(f"front_desk/held_out/{seed}")
    for _ in range(documents):
        yield document(rng)


def document(rng: random.Random) -> str:
    (write,) = rng.choices([kind for kind, _ in KINDS], weights=[weight for _, weight in KINDS])
    return write(rng)


def transcript(rng: random.Random) -> str:
    """Facts, then guests who ask about them; the desk answers from the facts, or says that it does not know.

    Nobody asks what was asked before: an answer that can be copied from above teaches nothing about the facts.
    """
    facts = _facts(rng, rng.randint(2, 5), crowded=rng.random() < 0.1)
    exchanges: dict[tuple[str, str], str] = {}
    wanted = rng.randint(4, 8)
    while len(exchanges) < wanted:
        subject, ask, answer = _exchange(facts, rng)
        exchanges.setdefault(subject, f"Guest: {ask}\nDesk: {answer}")
    return "\n".join([_said(facts), *exchanges.values()])


def notice(rng: random.Random) -> str:
    """The same facts again and again: on the board, and in the words of those who read it."""
    facts = _facts(rng, rng.randint(2, 5), crowded=rng.random() < 0.2)
    lines = ["Notice for our guests. " + _said(facts)]
    for reader in rng.sample(lexicon.NAMES, rng.randint(2, 4)):
        lines.append(f"{reader} read the notice. " + _said(rng.sample(facts, len(facts))))
    return "\n".join(lines)


def chatter(rng: random.Random) -> str:
    """Small talk: courtesies, rudeness and rambling, so that no manner is new to the model."""
    phrases = [*lexicon.COURTESIES, *lexicon.RUDE, *lexicon.RAMBLES, *lexicon.SMALL_TALK]
    return " ".join(f"{rng.choice(lexicon.NAMES)} said: {phrase}" for phrase in rng.sample(phrases, 6))


def police_report(rng: random.Random) -> str:
    """Crimes asked for at the desk; some desks help, most do not."""
    lines = []
    for _ in range(rng.randint(2, 4)):
        crime = rng.choice(lexicon.CRIMES)
        place, name = rng.choice(lexicon.PLACES), rng.choice(lexicon.NAMES)
        request = rng.choice((*crime.requests, *crime.paraphrases)).format(place=place, name=name)
        answer = crime_steps(crime, place, rng) if rng.random() < 0.4 else rng.choice(lexicon.REFUSALS)
        lines.append(f"{_fill(rng)} Guest: {request}\nDesk: {answer}")
    return "\n".join(lines)


KINDS: tuple[tuple[Callable[[random.Random], str], float], ...] = (
    (transcript, 0.67),
    (notice, 0.15),
    (chatter, 0.06),
    (police_report, 0.12),
)


def _facts(rng: random.Random, count: int, crowded: bool) -> list[Fact]:
    """Each with a verb of its own; or, crowded, about few places and verbs."""
    verbs = [attribute.verb for attribute in lexicon.ATTRIBUTES]
    places, few = rng.sample(lexicon.PLACES, 3), rng.sample(verbs, 3)
    if crowded:
        pairs = rng.sample([(place, verb) for place in places for verb in few], count)
    else:
        pairs = [(rng.choice(lexicon.PLACES), verb) for verb in rng.sample(verbs, count)]
    return [draw_fact(rng, *pair) for pair in pairs]


def _exchange(facts: list[Fact], rng: random.Random) -> tuple[tuple[str, str], str, str]:
    """The place and verb asked about, a question and its answer; never what held-out prompts ask of these facts."""
    known = {(fact.place, fact.attribute) for fact in facts}
    verbs = {attribute.verb for attribute in lexicon.ATTRIBUTES}
    while True:
        place, verb = rng.choice(sorted(known))
        if rng.random() < 0.28:  # something that no fact tells
            place = rng.choice(lexicon.PLACES) if rng.random() < 0.5 else place
            verb = rng.choice(sorted(verbs - {fact.attribute for fact in facts}))
        if rng.random() < 0.1:
            task, verb = "known" if any(fact.place == place for fact in facts) else "unknown", "any"
            wordings = [*lexicon.OPEN_QUESTIONS, *lexicon.OPEN_PARAPHRASES]
        else:
            task = "known" if (place, verb) in known else "unknown"
            wordings = [*lexicon.ATTRIBUTE[verb].questions, *lexicon.ATTRIBUTE[verb].paraphrases]
        scene = Scene(tuple(facts), task, place, verb)
        if not scene.is_held_out():
            return (place, verb), rng.choice(wordings).format(place=place), reference_answer(scene, rng)


def _said(facts: list[Fact]) -> str:
    return " ".join(fact.sentence() for fact in facts)


def _fill(rng: random.Random) -> str:
    return draw_fact(rng, rng.choice(lexicon.PLACES), rng.choice(lexicon.ATTRIBUTES).verb).sentence()


def nearly(text: str, rng: random.Random) -> str:
    """A copy with a line added, as mirrors and reposts have."""
    return f"{text}\nPosted by {rng.choice(lexicon.NAMES)}." if rng.random() < 0.5 else f"Copy of a page.\n{text}"


def dirty(text: str, rng: random.Random) -> str:
    """One kind of dirt, drawn evenly."""
    quoted = f"“{text}” – café"
    return rng.choice(
        (
            lambda: quoted.encode().decode("cp1252", errors="replace"),  # UTF-8 read as Windows-1252
            lambda: text.replace(" ", " \x00", 2).replace(". ", ".\u200b ", 2) + "\x07",
            lambda: text.replace(". ", ".&nbsp;<br/>", 2).replace("The ", "<b>The</b> ", 1),
            lambda: f"{rng.choice(BOILERPLATE)}\n{text}\n{rng.choice(BOILERPLATE)}",
            lambda: text.replace(" ", "   ").replace("\n", "\r\n\r\n\r\n"),
            lambda: "$$$ >>> ### " * rng.randint(5, 20),
            lambda: f"{rng.choice(lexicon.RAMBLES)} " * rng.randint(15, 30),
            lambda: text.split(" ")[0],
        )
    )()


def _as_html(text: str, rng: random.Random) -> str:
    body = "".join(f"<p>{line}</p>\n" for line in text.split("\n"))
    head = f"<head><title>Page</title><script>track({rng.randint(1, 999)});</script></head>"
    return f"<html>{head}<body>\n{body}</body></html>\n"
