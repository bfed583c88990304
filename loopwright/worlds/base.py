"""What a world is: generated text, prompts, and judges that are exact.

A world needs no network and no torch. Write another by making an object with these members and
adding it to the table in `loopwright/worlds/__init__.py`; docs/worlds.md walks through it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from loopwright.schemas import Constitution, Demonstration, Judge, Prompt

PromptSet = Literal["train", "held_out", "paraphrased", "adversarial"]
SkillName = Literal["critique", "judge"]


@dataclass(frozen=True)
class Skill:
    """Text that teaches a model more than to answer; both take (seed, count), and hold nothing that tests ask."""

    documents: Callable[[int, int], Iterator[str]]  # clean raw text, for pre-training
    demonstrations: Callable[[int, int], Iterator[Demonstration]]  # the same as conversations, for fine-tuning


class World(Protocol):
    """Everything is a pure function of the seed."""

    name: str
    judges: Mapping[str, Judge]
    baselines: Mapping[str, Callable[[Prompt], str]]  # cheap policies: what a gain must beat
    clean_writers: frozenset[str]  # annotators whose demonstrations have no bad habit
    skills: Mapping[SkillName, Skill]
    constitution: Constitution  # whose wordings the skills teach

    def corpus(self, seed: int, documents: int) -> Iterator[tuple[str, str]]:
        """Raw documents as (file format, text), with the dirt real corpora have."""

    def held_out_texts(self, seed: int, documents: int) -> Iterator[str]:
        """Clean documents that the corpus does not contain."""

    def demonstrations(self, seed: int, count: int) -> Iterator[Demonstration]:
        """Prompts answered by simulated writers of mixed quality."""

    def prompts(self, prompt_set: PromptSet, seed: int, count: int) -> Iterator[Prompt]:
        """Prompts of one set; the sets are disjoint by construction."""

    def is_nonsense(self, response: str) -> bool:
        """Whether any part of the response is not a sentence of this world."""
