"""FineGrainedRLHF's long-form answers: votes of people on four answers, marked spans, corrections.

Wu et al. 2023 (arXiv:2306.01693). Read as published ("prediction 1", "feedback") or repacked ("responses", "errors").
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Literal

from loopwright.data.importers.base import Fields, Importer, Notes, Row, Settings, Unreadable, note_same, user
from loopwright.schemas import Comparison, Correction, Demonstration, Record, Span, SpanFeedback

PAIRS = tuple(combinations(range(4), 2))  # the order of the votes: 1 and 2, 1 and 3, 1 and 4, 2 and 3, …
_CHOICES: dict[int, Literal[0, 1] | None] = {0: None, 1: 0, 2: 1}


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """Six comparisons, the marked spans and the correction of the first answer, the reference as a demonstration.

    The votes are kept as they are: in a few rows they are intransitive, so no ranking follows from them.
    """
    prompt = user(_question(row))
    responses = _responses(row)
    note_same(responses, notes)
    votes = row.items("preference")
    if votes and len(votes) != len(PAIRS):
        raise Unreadable(f'"preference" has {len(votes)} votes, not one for each of the {len(PAIRS)} pairs')
    if not votes:
        notes.skip("no votes")
    for vote, (i, j) in zip(votes, PAIRS, strict=False):
        if isinstance(vote, bool) or vote not in (0, 1, 2):
            raise Unreadable('"preference" holds a vote that is not 0 (tie), 1 (first) or 2 (second)')
        pair = (responses[i], responses[j])
        yield Comparison(id=f"{row.name}/{i + 1}-{j + 1}", prompt=prompt, responses=pair, choice=_CHOICES[vote])
    feedback = row.inside("feedback") if row.has("feedback") else row
    if feedback.has("errors"):
        spans = _spans(feedback, len(responses[0]))
        if spans is None:
            feedback.ignore("errors")
            notes.skip("spans of which one does not lie in the answer")
        else:
            yield SpanFeedback(id=f"{row.name}/spans", prompt=prompt, responses=responses[:1], spans=spans)
    edited = feedback.text_or_none("corrected-prediction") or row.text_or_none("correction")
    if edited and edited != responses[0]:
        yield Correction(id=f"{row.name}/correction", prompt=prompt, responses=responses[:1], edited=edited)
    elif edited:
        notes.skip("a correction that changes nothing")
    if gold := row.text_or_none("gold"):
        yield Demonstration(id=f"{row.name}/gold", prompt=prompt, response=gold)


def _question(row: Row) -> str:
    """The passages, a blank line between them, then the question."""
    passages = []
    for passage in row.items("passages"):
        sentences = passage if isinstance(passage, list) else [passage]
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise Unreadable('"passages" holds something that is no text')
        passages.append(" ".join(sentences))
    return "\n\n".join([*passages, row.text("question")])


def _responses(row: Row) -> tuple[str, str, str, str]:
    if row.has("responses"):
        found: list[Any] = list(row.items("responses"))
    else:
        found = [row.text(f"prediction {number}") for number in range(1, 5)]
    if len(found) != 4 or not all(isinstance(response, str) for response in found):
        raise Unreadable(f'"responses" holds {len(found)} items, not 4 texts')
    return found[0], found[1], found[2], found[3]


def _spans(feedback: Fields, length: int) -> tuple[Span, ...] | None:
    """None where one cannot be placed: without it, what is wrong would count as right."""
    found = []
    for error in feedback.objects("errors"):
        start, end = error.number("start"), error.number("end")
        if start is None or end is None or not 0 <= start < end <= length:
            return None
        found.append(Span(start=int(start), end=int(end), label=error.text("error type")))
    return tuple(found)


FINE_GRAINED = Importer(convert, 'rows {"question", "responses" or "prediction 1".., "preference": 6 votes, …}')
