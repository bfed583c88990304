"""Judgements as token rows, grouped so that each response is read once.

All that is said about one prompt stays together, in a batch and on one side of the held-out split: Ouyang et al. 2022
(arXiv:2203.02155, sec. 3.5) found that spreading them over batches overfits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import prompt_text, render_prompts
from loopwright.data.tokenizer import bos_prefix, encode_texts
from loopwright.feedback.pairs import Converted, Label, Listing, Preference
from loopwright.feedback.verdicts import same_wording
from loopwright.models.encoders import Cut, encode_and_cut_pairs
from loopwright.schemas import Correction, Judgement, Message


class Pair(NamedTuple):
    """Two responses of a group, in the order stored, and which is better."""

    first: int
    second: int
    choice: int | None  # 0: the first; None: a tie
    probability: float | None = None  # that the first is better, of a soft label
    margin: float = 0.0
    weight: float = 1.0
    annotator: str | None = None
    shown_first: int | None = None  # 0: the first

    def swap(self) -> Pair:
        """The same pair with its responses in the other order."""
        choice, shown = (None if place is None else 1 - place for place in (self.choice, self.shown_first))
        chance = None if self.probability is None else 1 - self.probability
        return self._replace(first=self.second, second=self.first, choice=choice, probability=chance, shown_first=shown)


class Listed(NamedTuple):
    """Responses of a group in order."""

    places: tuple[int, ...]
    ranks: tuple[int, ...]  # 1 is the best
    weight: float = 1.0


class Labelled(NamedTuple):
    """A label of one response of a group."""

    place: int
    kind: str  # thumb, safety or rating
    target: float
    weight: float = 1.0
    annotator: str | None = None


@dataclass
class Group:
    """A prompt, its responses, and what people said about them. Without a prompt: texts that comparisons connect."""

    key: str
    messages: tuple[Message, ...]
    responses: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    listings: list[Listed] = field(default_factory=list)
    labels: list[Labelled] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)  # response -> index
    rows: list[list[int]] = field(default_factory=list)  # token ids of prompt and response

    def index(self, response: str) -> int:
        """Where the response stands; added when it is new."""
        place = self.places.setdefault(response, len(self.responses))
        if place == len(self.responses):
            self.responses.append(response)
        return place

    def used(self) -> list[int]:
        """The responses that anything was said about."""
        judged = {place for pair in self.pairs for place in (pair.first, pair.second)}
        judged |= {place for listing in self.listings for place in listing.places}
        return sorted(judged | {label.place for label in self.labels})

    def forget_the_rest(self) -> None:
        """Keep only the responses that anything is said about."""
        used = self.used()
        number = {place: n for n, place in enumerate(used)}
        self.responses, self.rows = [self.responses[i] for i in used], [self.rows[i] for i in used]
        self.places = {response: n for n, response in enumerate(self.responses)}
        self.pairs = [pair._replace(first=number[pair.first], second=number[pair.second]) for pair in self.pairs]
        self.listings = [one._replace(places=tuple(number[place] for place in one.places)) for one in self.listings]
        self.labels = [one._replace(place=number[one.place]) for one in self.labels]

    def order_by_text(self) -> None:
        """Let the response whose text sorts first be the first of its pair: importers put the better one there."""
        self.pairs = [
            pair if self.responses[pair.first] <= self.responses[pair.second] else pair.swap() for pair in self.pairs
        ]

    def tokens(self) -> int:
        """Of the prompt and all responses, the prompt counted once."""
        return sum(map(len, self.rows)) - (len(self.rows) - 1) * len(self.prompt_ids)

    def weights(self) -> list[float]:
        """Of all that is said; safety labels stand beside it."""
        said: list[Any] = [*self.pairs, *self.listings, *(one for one in self.labels if one.kind != "safety")]
        return [one.weight for one in said]

    def weight(self) -> float:
        """The sum of `weights`."""
        return sum(self.weights())

    def weigh(self, *, by_prompt: bool, safety_weight: float) -> None:
        """Make the weights of all that is said add up to one (safety labels: to theirs), or let each keep its own."""
        total = self.weight() if by_prompt else 1.0
        safe = sum(one.weight for one in self.labels if one.kind == "safety") if by_prompt else 1.0
        self.pairs = [pair._replace(weight=pair.weight / total) for pair in self.pairs]
        self.listings = [listing._replace(weight=listing.weight / total) for listing in self.listings]
        self.labels = [
            one._replace(weight=one.weight * safety_weight / safe if one.kind == "safety" else one.weight / total)
            for one in self.labels
        ]

    def scale(self, factor: float) -> None:
        """Let all that is said count so many times as much."""
        self.pairs = [pair._replace(weight=pair.weight * factor) for pair in self.pairs]
        self.listings = [listing._replace(weight=listing.weight * factor) for listing in self.listings]
        self.labels = [label._replace(weight=label.weight * factor) for label in self.labels]


def keys_of(judgements: Sequence[Judgement]) -> list[str]:
    """What of each judgement no split may part: its prompt, or, without one, all texts that comparisons connect.

    White space and case make no other prompt or text.
    """
    connected = _connected([[same_wording(text) for text in _texts(j)] for j in judgements if not j.prompt])
    return [
        repr([(m.role, same_wording(m.content)) for m in j.prompt])
        if j.prompt
        else connected[same_wording(j.responses[0])]
        for j in judgements
    ]


def group(converted: Converted) -> list[Group]:
    """One group for each prompt, in the order first seen; weights are as they were given."""
    said: list[Any] = [*converted.pairs, *converted.listings, *converted.labels]
    connected = _connected([_responses(one) for one in said if not one.prompt])
    groups: dict[str, Group] = {}
    for one in said:
        responses = _responses(one)
        key = repr([(m.role, m.content) for m in one.prompt]) if one.prompt else connected[responses[0]]
        own = groups.setdefault(key, Group(key, one.prompt))
        places = [own.index(response) for response in responses]
        if isinstance(one, Preference):
            own.pairs.append(Pair(places[0], places[1], *one[2:]))
        elif isinstance(one, Listing):
            own.listings.append(Listed(tuple(places), one.ranks))
        else:
            own.labels.append(Labelled(places[0], one.kind, one.target, one.weight, one.annotator))
    return list(groups.values())


def that_fit(
    groups: Sequence[Group], *, max_length: int, by_prompt: bool = True, safety_weight: float = 0.0
) -> tuple[list[Group], int]:
    """What is said of rows that are neither empty nor longer than max_length, and how much was left out.

    What stays has no other responses than those it speaks of, and is weighed (`Group.weigh`). By prompt, one counts as
    the mean of what is said of it weighs beside the other prompts: where all weights are alike, as one.

    Args:
        groups: with their token rows.
    """
    kept: list[Group] = []
    skipped, means = 0, []
    for own in groups:
        fits = [0 < len(row) <= max_length for row in own.rows]
        before = len(own.pairs) + len(own.listings) + len(own.labels)
        own.pairs = [pair for pair in own.pairs if fits[pair.first] and fits[pair.second]]
        own.listings = [listing for listing in own.listings if all(fits[place] for place in listing.places)]
        own.labels = [label for label in own.labels if fits[label.place]]
        if not own.weight():  # safety labels stand beside something
            own.labels = []
        left = len(own.pairs) + len(own.listings) + len(own.labels)
        skipped += before - left
        if left:
            own.forget_the_rest()
            means.append(fmean(own.weights()))
            own.weigh(by_prompt=by_prompt, safety_weight=safety_weight)
            kept.append(own)
    if by_prompt and kept:
        usual = fmean(means)
        for own, mean in zip(kept, means, strict=True):
            own.scale(mean / usual)
    return kept, skipped


def as_continuations(groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, *, append_eos: bool) -> None:
    """Rows as a decoder reads them: the rendered prompt, the response, EOS."""
    end = [tokenizer.eos_token_id] if append_eos else []
    prompts = iter(render_prompts(tokenizer, [own.messages for own in groups if own.messages]))
    responses = iter(encode_texts(tokenizer, [response for own in groups for response in own.responses]))
    for own in groups:
        own.prompt_ids = next(prompts) if own.messages else bos_prefix(tokenizer)
        own.rows = [own.prompt_ids + next(responses) + end for _ in own.responses]


def as_text_pairs(groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, cut: Cut | None = None) -> int:
    """Rows as an encoder reads them: prompt and response as a pair of texts. Gives how many were cut."""
    prompts = [prompt_text(own.messages) if own.messages else None for own in groups for _ in own.responses]
    responses = [response for own in groups for response in own.responses]
    encoded, cuts = encode_and_cut_pairs(tokenizer, prompts, responses, cut)
    rows = iter(encoded)
    for own in groups:
        own.rows = [next(rows) for _ in own.responses]
    return cuts


def _texts(judgement: Judgement) -> tuple[str, ...]:
    return (*judgement.responses, judgement.edited) if isinstance(judgement, Correction) else judgement.responses


def _responses(one: Preference | Listing | Label) -> tuple[str, ...]:
    return (one.response,) if isinstance(one, Label) else one.responses


def _connected(sets: Sequence[Sequence[str]]) -> Mapping[str, str]:
    """For each text, one name for all that comparisons connect: no text is ever on both sides of a split."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for texts in sets:
        for other in texts:
            a, b = root(texts[0]), root(other)
            parent[max(a, b)] = min(a, b)
    return {text: root(text) for text in list(parent)}
