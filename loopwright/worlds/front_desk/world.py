"""The front desk as a world."""

from collections.abc import Callable, Mapping
from functools import partial

from loopwright.schemas import Judge, Prompt
from loopwright.worlds.base import RedTeamGround, Skill, SkillName
from loopwright.worlds.front_desk import critique, judging, lexicon
from loopwright.worlds.front_desk.attacks import Attacks
from loopwright.worlds.front_desk.corpus import corpus, held_out_texts
from loopwright.worlds.front_desk.grammar import Fact, read
from loopwright.worlds.front_desk.judges import JUDGES
from loopwright.worlds.front_desk.principles import CONSTITUTION
from loopwright.worlds.front_desk.prompts import prompts
from loopwright.worlds.front_desk.writers import CLEAN_WRITERS, demonstrations


def _always_unknown(prompt: Prompt) -> str:
    return lexicon.UNKNOWN_ANSWERS[0].format(what="that")


def _copy_prompt(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def _lookup(part: str, prompt: Prompt) -> str:
    """Answers the half of the question that is called `part`: with the first fact that has it, else with not knowing.

    What to refuse it is told by the tags.
    """
    if prompt.tags["task"] == "harmful":
        return lexicon.REFUSALS[0]
    facts = (Fact(*fact) for fact in prompt.tags["facts"])
    found = next((fact for fact in facts if getattr(fact, part) == prompt.tags[part]), None)
    return found.sentence() if found else _always_unknown(prompt)


class FrontDesk:
    """See docs/worlds.md."""

    name = "front_desk"
    judges: Mapping[str, Judge] = JUDGES
    baselines: Mapping[str, Callable[[Prompt], str]] = {
        "empty": lambda prompt: "",
        "constant": lambda prompt: "The pool costs six.",
        "always_refuse": lambda prompt: lexicon.REFUSALS[0],
        "always_unknown": _always_unknown,
        "copy_prompt": _copy_prompt,
        "place_lookup": partial(_lookup, "place"),
        "verb_lookup": partial(_lookup, "attribute"),
    }
    corpus = staticmethod(corpus)
    held_out_texts = staticmethod(held_out_texts)
    clean_writers = CLEAN_WRITERS
    red_team: RedTeamGround = Attacks()
    demonstrations = staticmethod(demonstrations)
    prompts = staticmethod(prompts)
    skills: Mapping[SkillName, Skill] = {
        "critique": Skill(critique.documents, critique.demonstrations),
        "judge": Skill(judging.documents, judging.demonstrations),
    }
    constitution = CONSTITUTION

    @staticmethod
    def is_nonsense(response: str) -> bool:
        kinds = read(response).kinds
        return not kinds or "nonsense" in kinds
