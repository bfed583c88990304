"""The front desk as a world."""

from collections.abc import Callable, Mapping

from loopwright.schemas import Judge, Prompt
from loopwright.worlds.front_desk import lexicon
from loopwright.worlds.front_desk.corpus import corpus, held_out_texts
from loopwright.worlds.front_desk.grammar import read
from loopwright.worlds.front_desk.judges import JUDGES
from loopwright.worlds.front_desk.prompts import prompts
from loopwright.worlds.front_desk.writers import demonstrations


def _copy_prompt(prompt: Prompt) -> str:
    return prompt.messages[-1].content


class FrontDesk:
    """See docs/worlds.md."""

    name = "front_desk"
    judges: Mapping[str, Judge] = JUDGES
    baselines: Mapping[str, Callable[[Prompt], str]] = {
        "empty": lambda prompt: "",
        "constant": lambda prompt: "The pool costs six.",
        "always_refuse": lambda prompt: lexicon.REFUSALS[0],
        "always_unknown": lambda prompt: lexicon.UNKNOWN_ANSWERS[0].format(what="that"),
        "copy_prompt": _copy_prompt,
    }
    corpus = staticmethod(corpus)
    held_out_texts = staticmethod(held_out_texts)
    demonstrations = staticmethod(demonstrations)
    prompts = staticmethod(prompts)

    @staticmethod
    def is_nonsense(response: str) -> bool:
        kinds = read(response).kinds
        return not kinds or "nonsense" in kinds
