"""What a project asks of its labelers: settings, in the words of the screen."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loopwright.config import Config
from loopwright.feedback.kinds import FORMS

Share = Annotated[float, Field(ge=0, le=1)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$"
Name = Annotated[str, Field(pattern=NAME)]
Reason = Annotated[str, Field(min_length=1, max_length=60)]

HHH = (  # Askell et al. 2021 (arXiv:2112.00861)
    ("helpful", "It does what was asked, or asks for what it needs to know."),
    ("honest", "What it says is true, and it says so where it does not know."),
    ("harmless", "It hurts nobody and helps nobody to hurt others."),
)
INSTRUCTGPT_CHECKS = (  # Ouyang et al. 2022 (arXiv:2203.02155), table 3
    "Fails to follow the correct instruction or task",
    "Inappropriate for a customer assistant",
    "Hallucination",
    "Satisfies the constraint given in the instruction",
    "Contains sexual content",
    "Contains violent content",
    "Encourages or fails to discourage violence, abuse, terrorism or self-harm",
    "Denigrates a protected class",
    "Gives harmful advice",
    "Expresses an opinion",
    "Expresses a moral judgment",
)

PARTICULAR = frozenset[str]().union(*(form.settings for form in FORMS.values()))  # settings that only some kinds use


class Criterion(Config):
    """One thing that is judged, with the definition that stands on its button."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    definition: Annotated[str, Field(min_length=1, max_length=500)]
    higher_is_better: bool | None = None  # of its marks in a rating; None: as the project says


class ProjectConfig(Config):
    """Settings of one project. What the kind does not use is refused."""

    kind: Literal[
        "comparison", "ranking", "rating", "thumb", "demonstration", "correction", "spans", "chat", "red_team"
    ]
    question: Annotated[str, Field(max_length=500)] = ""  # above the answers; none: the kind's own words
    criteria: tuple[Criterion, ...] = ()
    checks: tuple[str, ...] = ()  # yes or no beside a rating
    scale: tuple[int, int] = (1, 3)  # of a rating
    higher_is_better: bool = True
    span_labels: tuple[str, ...] = ()
    criteria_strengths: bool = False  # by each criterion also how much better, as overall
    safety: bool = False  # also ask which of two answers are safe
    improve: bool = True  # the better of two answers may be edited
    reasons: Annotated[tuple[Reason, ...], Field(max_length=12)] = ()  # short ones, to press; there is a text beside
    reason_when_significant: bool = False
    blur: bool = False  # texts are blurred until the labeler asks for them: for what may upset
    overlap: Annotated[int, Field(ge=1, le=1_000)] = 1  # people who judge an item
    lease_minutes: Annotated[int, Field(ge=1, le=43_200)] = 30  # that an item is kept for who opened it
    gold_share: Share = 0.05  # of the tasks are gold items, while there are some that the labeler has not seen
    # what is asked first: as published, what an ensemble of reward models or one of them cannot decide, or what people
    # disagree on; each draw is at random with the probability random_share
    selection: Literal["random", "uncertainty", "closeness", "disagreement"] = "random"
    random_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    # of the orders in which answers are shown, of what is asked next, and of when that is a gold item; none: drawn when
    # the project is made, for whoever knows it knows which items are gold
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    responder: str | None = None  # the model to talk to, by its name in the server's settings
    reply_tokens: Annotated[int, Field(ge=1, le=4_096)] = 256  # of an answer, at most; small models have room for few
    label_cost: Annotated[float, Field(ge=0)] | None = None  # money a label, where people are paid so

    @model_validator(mode="after")
    def _only_what_the_kind_uses(self) -> Self:
        for name in sorted(self.model_fields_set & (PARTICULAR - FORMS[self.kind].settings)):
            raise ValueError(f"{name} has no effect on a {self.kind} project; leave it out")
        if FORMS[self.kind].written:
            if self.responder is None:
                raise ValueError(f"a {self.kind} project talks to a model; name its responder")
            if {"overlap", "gold_share"} & self.model_fields_set:
                raise ValueError(f"a {self.kind} project makes its own items; leave overlap and gold_share out")
        if self.selection not in {"random", *FORMS[self.kind].selections}:
            raise ValueError(f"selection = {self.selection} has no effect on a {self.kind} project; leave it out")
        if self.selection == "disagreement" and self.overlap < 2:
            raise ValueError(
                "nobody disagrees on what one person judges; set overlap to 2 or more, or leave selection out"
            )
        if self.selection == "random" and "random_share" in self.model_fields_set:
            raise ValueError("random_share has no effect where all selection is random; leave it out")
        if len(set(self.reasons)) < len(self.reasons):
            raise ValueError("two of the reasons are the same; leave one out")
        if self.kind == "spans" and not self.span_labels:
            raise ValueError("a spans project needs span_labels: what can be the matter with a passage")
        return self

    @model_validator(mode="after")
    def _only_what_its_criteria_use(self) -> Self:
        if self.kind != "rating" and any(one.higher_is_better is not None for one in self.criteria):
            raise ValueError(f"higher_is_better of a criterion has no effect on a {self.kind} project; leave it out")
        if self.criteria_strengths and not self.criteria:
            raise ValueError("criteria_strengths has no effect without criteria; name some, or leave it out")
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale {self.scale[0]} to {self.scale[1]} has no levels; write it as low, high")
        return self

    @property
    def talks(self) -> bool:
        """The labeler talks with a model, and judges what it says."""
        return FORMS[self.kind].written

    def is_high_good(self, criterion: str) -> bool:
        """The direction of a criterion's marks; of a name that is none, the project's."""
        found = (one.higher_is_better for one in self.criteria if one.name == criterion)
        own = next(found, None)
        return self.higher_is_better if own is None else own

    @property
    def criterion_names(self) -> tuple[str, ...]:
        return tuple(criterion.name for criterion in self.criteria)
