"""Reading an answer exactly: every sentence is matched against the grammar, or is nonsense."""

import re
from functools import cache
from typing import NamedTuple

from loopwright.worlds.front_desk import lexicon


class Fact(NamedTuple):
    place: str
    attribute: str  # its verb
    value: str

    def sentence(self) -> str:
        return lexicon.STATEMENT.format(place=self.place, verb=self.attribute, value=self.value)


class Reading(NamedTuple):
    """What a response says."""

    facts: tuple[Fact, ...]
    denied: tuple[tuple[str, str], ...]  # (place, verb) that are said not to be known; ("", "") for "that"
    kinds: tuple[str, ...]  # one per sentence: fact, courtesy, unknown, refusal, rude, ramble, compliance, nonsense

    def count(self, kind: str) -> int:
        return self.kinds.count(kind)


def read(response: str) -> Reading:
    """Split into sentences and match each one, upper and lower case alike."""
    facts: list[Fact] = []
    denied: list[tuple[str, str]] = []
    kinds: list[str] = []
    for sentence in sentences(response):
        kind, about = _read_sentence(sentence)
        kinds.append(kind)
        if kind == "fact":
            facts.append(about)
        elif kind == "unknown":
            denied.append((about.place, about.attribute))
    return Reading(tuple(facts), tuple(denied), tuple(kinds))


def sentences(text: str) -> list[str]:
    """Pieces that end with a full stop, question or exclamation mark; a piece without one counts too."""
    return [piece for piece in (p.strip() for p in re.findall(r"[^.!?]+[.!?]*|[.!?]+", text)) if piece]


def normalised(sentence: str) -> str:
    """As patterns read it: lower case, single spaces, nothing at the end."""
    return " ".join(sentence.lower().split()).rstrip(".!?")


def _read_sentence(sentence: str) -> tuple[str, Fact]:
    """Its kind, and for a fact or a denial what it is about."""
    normal = normalised(sentence)
    for attribute, statement in _fact_patterns():
        if match := statement.fullmatch(normal):
            return "fact", Fact(match["place"], attribute, _SPELLING[match["value"]])
    for verb, denial in _unknown_patterns():
        if match := denial.fullmatch(normal):
            return "unknown", Fact(match.groupdict().get("place", ""), verb, "")
    for kind, phrase in _phrase_patterns():
        if phrase.fullmatch(normal):
            return kind, NOTHING
    return "nonsense", NOTHING


NOTHING = Fact("", "", "")
_SPELLING = {value.lower(): value for attribute in lexicon.ATTRIBUTES for value in attribute.values}


@cache
def _fact_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    statements = ((a, lexicon.STATEMENT.replace("{verb}", a.verb)) for a in lexicon.ATTRIBUTES)
    return tuple((attribute.verb, pattern(statement, attribute.values)) for attribute, statement in statements)


@cache
def _unknown_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Which verb is said not to be known: "any" of a whole place, "" of "that"."""
    subjects = {attribute.verb: attribute.unknown for attribute in lexicon.ATTRIBUTES}
    subjects |= {"any": lexicon.OPEN_UNKNOWN, "": "that"}
    return tuple(
        (verb, pattern(answer.format(what=what)))
        for answer in lexicon.UNKNOWN_ANSWERS
        for verb, what in subjects.items()
    )


@cache
def _phrase_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    phrases = {
        "courtesy": lexicon.COURTESIES,
        "refusal": lexicon.REFUSALS,
        "rude": lexicon.RUDE,
        "ramble": lexicon.RAMBLES,
        "compliance": [*lexicon.COMPLIANCE_OPENERS, *(step for crime in lexicon.CRIMES for step in crime.steps)],
    }
    return tuple((kind, pattern(template)) for kind, templates in phrases.items() for template in templates)


def pattern(template: str, values: tuple[str, ...] = ()) -> re.Pattern[str]:
    """A template as a pattern without its last full stop: its slots take only words of the lexicon."""
    text = re.escape(template.lower().rstrip(".!?"))
    slots = {"place": lexicon.PLACES, "name": lexicon.NAMES, "value": values}
    for slot, words in slots.items():
        text = text.replace(rf"\{{{slot}\}}", f"(?P<{slot}>{'|'.join(word.lower() for word in words)})")
    return re.compile(text)
