"""What is asked, as it is published: by a run, from a file, to the store or over HTTP."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from loopwright.feedback.projects import Name
from loopwright.feedback.sendable import sendable
from loopwright.schemas import Message, Record

Id = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]+$")]  # PostgreSQL stores no NUL
Given = Annotated[dict[str, Any], AfterValidator(sendable)]
OFF_TOPIC = "off_topic"  # the tag that lists the responses which were written to another prompt
POLICIES = "policies"  # the tag that says who wrote each response, where several policies did


class Score(Record):
    """What reward models think of a response."""

    mean: float = Field(allow_inf_nan=False)
    std: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # among the models of an ensemble


class Item(Record):
    """One thing to judge, as it is published: a line of an items file, a sample of a policy."""

    key: Id  # published again under the same key, it is not asked again
    prompt: tuple[Message, ...] = ()
    responses: tuple[str, ...] = ()
    tags: Given = {}
    policy: Id | None = None  # artifact id of who wrote the responses
    reward_model: Id | None = None  # artifact id of who gave the scores
    scores: tuple[Score, ...] | None = None
    gold: Given | None = None  # the right answer in the form's words, by the places of `responses`
    skill: Name | None = None  # what a labeler must know

    @model_validator(mode="after")
    def _a_score_each(self) -> Self:
        if self.scores is not None and len(self.scores) != len(self.responses):
            raise ValueError(f"has {len(self.responses)} responses, but {len(self.scores)} scores")
        if not self.prompt and not self.responses:
            raise ValueError("has neither a prompt nor responses")
        off_topic = self.tags.get(OFF_TOPIC, [])
        places = range(len(self.responses))
        if not isinstance(off_topic, list) or any(type(place) is not int or place not in places for place in off_topic):
            raise ValueError(f"its tag {OFF_TOPIC} lists no places of its {len(self.responses)} responses")
        policies = self.tags.get(POLICIES, [])
        if not isinstance(policies, list) or len(policies) not in (0, len(self.responses)):
            raise ValueError(f"its tag {POLICIES} names no policy for each of its {len(self.responses)} responses")
        if any(not isinstance(policy, str) for policy in policies):
            raise ValueError(f"its tag {POLICIES} lists something else than names of policies")
        return self
