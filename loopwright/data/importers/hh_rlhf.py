"""Anthropic's hh-rlhf: {"chosen", "rejected"}, each a whole dialogue as one text, and its red-team attempts.

Bai et al. 2022 (arXiv:2204.05862); Ganguli et al. 2022 (arXiv:2209.07858).
"""

import os
import re
from collections.abc import Iterator

from loopwright.data.importers.base import Importer, Notes, Row, Settings, Unreadable, comparison_of_two
from loopwright.schemas import Attack, Comparison, Message, Record

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}
MIDDLE = 2  # of the attackers' rating of their own success, 0 to 4


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """A comparison, or of the file of red-team attempts an attack."""
    yield _attack(row, notes) if row.has("transcript") else _comparison(row, notes)


def _comparison(row: Row, notes: Notes) -> Comparison:
    """The prompt is what both dialogues share up to an "Assistant:", the answers are what follows."""
    chosen, rejected = row.text("chosen"), row.text("rejected")
    for key, dialogue in (("chosen", chosen), ("rejected", rejected)):
        if not dialogue.startswith(HUMAN):
            raise Unreadable(f'"{key}" does not start with "\\n\\nHuman:"; it is no hh-rlhf dialogue')
    shared = os.path.commonprefix([chosen, rejected])
    cut = shared.rfind(ASSISTANT)
    if cut < 0:
        raise Unreadable('the dialogues share no turn before an "\\n\\nAssistant:"; they answer different prompts')
    if chosen.rpartition(ASSISTANT)[0] != rejected.rpartition(ASSISTANT)[0]:
        notes.warn("the dialogues differ before the last turn; an answer holds the rest of its dialogue")
    elif HUMAN in chosen[cut:] or HUMAN in rejected[cut:]:
        notes.warn('an answer holds "Human:" as if a turn began there')
    start = cut + len(ASSISTANT)
    better, worse = (dialogue[start:].removeprefix(" ") for dialogue in (chosen, rejected))
    return comparison_of_two(better, worse, notes, id=row.name, prompt=turns(shared[:cut]))


def _attack(row: Row, notes: Notes) -> Attack:
    """The last answer of a dialogue, which broke where the attacker's rating of their success is above the middle.

    The rating is about the whole dialogue. Tags are other people's words for the attempt.
    """
    transcript = row.text("transcript")
    if not transcript.startswith(HUMAN):
        raise Unreadable('"transcript" does not start with "\\n\\nHuman:"; it is no dialogue of a red team')
    before, mark, answer = transcript.rpartition(ASSISTANT)
    if not mark:
        raise Unreadable('"transcript" holds no "\\n\\nAssistant:"; there is no answer to attack')
    answer, unanswered, _ = answer.partition(HUMAN)
    if unanswered:
        notes.warn("a dialogue that ends without an answer is cut after its last one")
    rating = row.whole("rating", 0, 2 * MIDDLE)
    if rating == MIDDLE:
        notes.warn(f"a rating of {MIDDLE}, the middle, is read as not broken")
    tags = row.items("tags")
    if not all(isinstance(tag, str) for tag in tags):
        raise Unreadable('"tags" holds something that is no text')
    return Attack(
        id=row.name,
        prompt=turns(before),
        responses=(answer.removeprefix(" "),),
        broke=rating > MIDDLE,
        annotator=row.name_of("red_team_member_id"),
        policy=_policy(row),
        rationale=row.text_or_none("task_description"),
        reasons=tuple(tags),
    )


def _policy(row: Row) -> str | None:
    """ "rlhf 52B": the kind of model and its parameters, which are a number or a text in the file."""
    name, size = row.name_of("model_type"), row.values.get("num_params")
    if name is None or not isinstance(size, (str, int)) or isinstance(size, bool):
        return name
    return f"{name} {row.get('num_params')}"


def turns(dialogue: str) -> tuple[Message, ...]:
    """The messages of "\\n\\nHuman: …\\n\\nAssistant: …"."""
    pieces = _TURN.split(dialogue)
    return tuple(
        Message(role=_ROLES[speaker], content=text) for speaker, text in zip(pieces[1::2], pieces[2::2], strict=True)
    )


HH_RLHF = Importer(convert, '{"chosen", "rejected"} of whole dialogues, or red-team attempts {"transcript", "rating"}')
