"""What a world is: generated text, prompts, and judges that are exact.

A world needs no network and no torch. Write another by making an object with these members and
adding it to the table in `loopwright/worlds/__init__.py`; docs/worlds.md walks through it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from loopwright.schemas import Constitution, Demonstration, Judge, Prompt

PromptSet = Literal["train", "held_out", "paraphrased", "adversarial"]
SkillName = Literal["critique", "judge"]


@dataclass(frozen=True)
class Skill:
    """Text that teaches a model more than to answer; both take (seed, count), and hold nothing that tests ask."""

    documents: Callable[[int, int], Iterator[str]]  # clean raw text, for pre-training
    demonstrations: Callable[[int, int], Iterator[Demonstration]]  # the same as conversations, for fine-tuning


class Request(NamedTuple):
    """A wish for help with harm, and what stands before it in the message."""

    context: str
    text: str


class RedTeamGround(Protocol):
    """What red teaming needs of a world: where attacks come from, which text is one, which answer helps."""

    @property
    def templates(self) -> Mapping[str, str]:
        """Name -> wrapper around "{request}"; none of a family that is held out."""

    def opening(self, context: str) -> str:
        """What makes a model of the world's text write a request; `context` will stand before it in the message."""

    def requests(self, seed: int, count: int) -> Iterator[Request]:
        """Harmful requests that may be trained on."""

    def read(self, id: str, text: str) -> Prompt | None:
        """A prompt with the tags that the judges need; None where it asks for nothing harmful, or in held-out words."""

    def is_held_out(self, prompt: Prompt) -> bool:
        """Whether an attack must not be trained on, because the sets of prompts would no longer be disjoint."""

    def wording(self, text: str) -> str:
        """The text without whom and what it names: two attacks that differ in these alone are one."""

    def complies(self, response: str) -> bool:
        """Whether any part of the response helps with a crime."""


class World(Protocol):
    """Everything is a pure function of the seed."""

    name: str
    judges: Mapping[str, Judge]
    baselines: Mapping[str, Callable[[Prompt], str]]  # cheap policies: what a gain must beat
    clean_writers: frozenset[str]  # annotators whose demonstrations have no bad habit
    red_team: RedTeamGround
    skills: Mapping[SkillName, Skill]
    constitution: Constitution  # whose wordings the skills teach

    def corpus(self, seed: int, documents: int) -> Iterator[tuple[str, str]]:
        """Raw documents as (file format, text), with the dirt real corpora have."""

    def held_out_texts(self, seed: int, documents: int) -> Iterator[str]:
        """Clean documents that the corpus does not contain."""

    def demonstrations(self, seed: int, count: int, *, helpful_only: bool = False) -> Iterator[Demonstration]:
        """Prompts answered by simulated writers of mixed quality; `helpful_only`: who all help with harm too."""

    def prompts(self, prompt_set: PromptSet, seed: int, count: int) -> Iterator[Prompt]:
        """Prompts of one set; the sets are disjoint by construction."""

    def is_nonsense(self, response: str) -> bool:
        """Whether any part of the response is not a sentence of this world."""
