"""What people say about answers.

Every record names who judged, in which order the answers were shown, how long it took, and which
policy wrote them. Indices always refer to `responses` as stored, never to the order shown.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from loopwright.schemas.base import Record
from loopwright.schemas.prompts import Message

AI = "ai:"  # how the annotator begins that is a model; what follows is its id. No account of a person begins so
IMPORTED = (
    "imported:"  # how one begins whose labels another tool gathered; what follows is the tool, "/" and their name
)


def is_ai(annotator: str | None) -> bool:
    """Whether a judgement is a model's, which counts as no person's."""
    return annotator is not None and annotator.startswith(AI)


class Judgement(Record):
    """The fields that every kind of feedback shares."""

    id: str
    prompt: tuple[Message, ...] = ()  # empty: the responses are judged as plain text
    responses: tuple[str, ...]
    annotator: str | None = None  # a person's name, "ai:" and the id of a model, or "imported:", a tool, "/" and a name
    order_shown: tuple[int, ...] | None = None  # order_shown[0] is the index of the response shown first
    seconds: float | None = Field(default=None, ge=0)
    guideline: str | None = None
    policy: str | None = None  # artifact id of the policy that wrote the responses, or of the newest of several
    policies: tuple[str, ...] = ()  # who wrote each response, where several policies did: artifact ids
    off_topic: tuple[int, ...] = ()  # responses that the policy wrote to another prompt, put in as examples of that
    reward_model: str | None = None
    selection_probability: float | None = Field(default=None, gt=0, le=1)
    created: str | None = None  # when it was judged, ISO 8601; a simulated annotator has a simulated clock
    rationale: str | None = None  # why, in the annotator's words
    reasons: tuple[str, ...] = ()  # why, in words that the project offers

    @model_validator(mode="after")
    def _order_is_a_permutation(self) -> Self:
        if self.order_shown is not None and sorted(self.order_shown) != list(range(len(self.responses))):
            raise ValueError(
                f"order_shown {list(self.order_shown)} is not a permutation of the {len(self.responses)} responses"
            )
        return self

    @model_validator(mode="after")
    def _a_policy_each(self) -> Self:
        if self.policies and len(self.policies) != len(self.responses):
            raise ValueError(f"policies names {len(self.policies)}, but there are {len(self.responses)} responses")
        return self

    @model_validator(mode="after")
    def _off_topic_are_responses(self) -> Self:
        if stray := set(self.off_topic) - set(range(len(self.responses))):
            raise ValueError(f"off_topic names response {min(stray)}, but there are {len(self.responses)}, from 0")
        return self


Strength = Literal["significantly", "better", "slightly", "negligibly"]  # Llama 2, sec. 3.2.1 (arXiv:2307.09288)


class Comparison(Judgement):
    """Two answers, and which one is better."""

    responses: tuple[str, str]
    choice: Literal[0, 1] | None  # index of the better response; None is a tie
    strength: Strength | None = None  # how much better it was said to be; "negligibly" also says: unsure
    margin: float | None = Field(default=None, ge=0)  # the same as a number, where one was given
    probability: float | None = Field(default=None, ge=0, le=1)  # that the first is better: several votes, or a judge
    weight: float = Field(default=1.0, gt=0)  # how often it counts
    both_bad: bool = False  # a tie of two answers that nobody should get
    safe: tuple[bool, bool] | None = None  # which of the responses are safe (Llama 2's three bins, and the fourth)
    criteria: dict[str, Literal[0, 1] | None] = {}
    strengths: dict[str, Strength] = {}  # how much better by a criterion, where that was asked

    @model_validator(mode="after")
    def _strengths_are_of_choices(self) -> Self:
        if stray := sorted(name for name in self.strengths if self.criteria.get(name) is None):
            raise ValueError(f"strengths names {stray[0]}, by which criteria calls neither answer better")
        return self

    @model_validator(mode="after")
    def _both_bad_is_a_tie(self) -> Self:
        if self.both_bad and self.choice is not None:
            raise ValueError(f"both_bad is a tie, but choice is {self.choice}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _choice_follows_probability(self) -> Self:
        if self.probability is not None:
            likelier = None if self.probability == 0.5 else int(self.probability < 0.5)
            if likelier != self.choice:
                raise ValueError(
                    f"probability {self.probability:g} of the first response contradicts choice {self.choice}; "
                    "choice is 0 above one half, 1 below and null at it"
                )
        return self

    def swap(self) -> Self:
        """The same judgement with the responses stored in the other order."""

        def other(choice: Literal[0, 1] | None) -> Literal[0, 1] | None:
            return None if choice is None else (1 if choice == 0 else 0)

        return self.model_copy(
            update={
                "responses": (self.responses[1], self.responses[0]),
                "policies": self.policies[::-1],
                "choice": other(self.choice),
                "probability": None if self.probability is None else 1 - self.probability,
                "safe": None if self.safe is None else (self.safe[1], self.safe[0]),
                "criteria": {name: other(choice) for name, choice in self.criteria.items()},
                "off_topic": tuple(1 - i for i in reversed(self.off_topic)),
                "order_shown": None if self.order_shown is None else tuple(1 - i for i in self.order_shown),
            }
        )


class Ranking(Judgement):
    """Several answers in order; equal ranks are ties. Rank 1 is the best."""

    responses: tuple[str, ...] = Field(min_length=2)
    ranks: tuple[int, ...]  # ranks[i] belongs to responses[i]
    criterion: str | None = None  # None: overall

    @model_validator(mode="after")
    def _one_rank_each(self) -> Self:
        if len(self.ranks) != len(self.responses) or min(self.ranks) < 1:
            raise ValueError(
                f"ranks {list(self.ranks)} must give each of the {len(self.responses)} responses a rank from 1 (best)"
            )
        return self


class Rating(Judgement):
    """One answer on a scale, per criterion. The scale stores its direction, and that of a criterion of its own."""

    responses: tuple[str]
    scores: dict[str, int]  # criterion -> value
    scale_low: int = 1
    scale_high: int = 3
    higher_is_better: bool
    directions: dict[str, bool] = {}  # criterion -> whether higher is better, where it is not as above
    checks: dict[str, bool] = {}  # yes or no beside the scores, such as "fails the instruction" (InstructGPT, table 3)

    @model_validator(mode="after")
    def _on_the_scale(self) -> Self:
        for criterion, score in self.scores.items():
            if not self.scale_low <= score <= self.scale_high:
                raise ValueError(f"{criterion} = {score} is not on the scale {self.scale_low}..{self.scale_high}")
        return self

    @model_validator(mode="after")
    def _directions_are_of_scores(self) -> Self:
        if stray := sorted(self.directions.keys() - self.scores.keys()):
            raise ValueError(f"directions names {stray[0]}, which has no score")
        return self

    def is_high_good(self, criterion: str) -> bool:
        """The direction of a criterion's scores."""
        return self.directions.get(criterion, self.higher_is_better)


class Thumb(Judgement):
    """One answer, liked or not."""

    responses: tuple[str]
    good: bool


class Attack(Judgement):
    """A red-team prompt, the model's answer to it, and whether that broke what the model should keep to."""

    responses: tuple[str]
    broke: bool
    harm: int | None = Field(default=None, ge=0, le=3)  # how bad the answer is: 0 not, 3 very


class Correction(Judgement):
    """What a person made of an answer. The edited answer is better than the one it was made from.

    Where other answers stand beside it, that one was chosen before them: edited > chosen > rejected (Llama 3,
    sec. 4.2.1, arXiv:2407.21783).
    """

    responses: tuple[str, ...] = Field(min_length=1)
    chosen: int = Field(default=0, ge=0)  # index of the response that was edited
    edited: str

    @model_validator(mode="after")
    def _one_of_them_was_edited(self) -> Self:
        if self.chosen >= len(self.responses):
            raise ValueError(f"chosen names response {self.chosen}, but there are {len(self.responses)}, from 0")
        if self.edited == self.responses[self.chosen]:
            raise ValueError("edited is the response as it was; an answer nobody changed is no correction")
        return self


class Span(Record):
    """A passage of an answer, in characters of its raw text, and what is the matter with it."""

    start: int = Field(ge=0)
    end: int  # exclusive
    label: str

    @model_validator(mode="after")
    def _has_characters(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"span {self.start}..{self.end} is empty; end is exclusive")
        return self


class SpanFeedback(Judgement):
    """One answer with the passages that a person marked (Wu et al. 2023, arXiv:2306.01693); none: nothing wrong."""

    responses: tuple[str]
    spans: tuple[Span, ...] = ()

    @model_validator(mode="after")
    def _spans_lie_in_the_response(self) -> Self:
        for span in self.spans:
            if span.end > len(self.responses[0]):
                raise ValueError(
                    f"span {span.start}..{span.end} ends after the response's {len(self.responses[0])} characters"
                )
        return self
