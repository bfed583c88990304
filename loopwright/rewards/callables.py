"""Any Python function as a reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loopwright.rewards.base import Sample, Scores, check_scores
from loopwright.schemas import Prompt


@dataclass(frozen=True)
class CallableReward:
    """`fn(prompts, responses) -> scores`, all lists of one length; prompts and responses are text."""

    fn: Callable[[list[str], list[str]], Sequence[float]]
    name: str

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Raises CheckError when the function gives anything but a finite number for each response."""
        prompts = [prompt_text(sample.prompt) for sample in samples]
        scores = self.fn(prompts, [sample.response for sample in samples])
        return Scores(check_scores(self.name, scores, samples))


def prompt_text(prompt: Prompt) -> str:
    """The text of a single message; of a conversation, its messages one a line, each after its role."""
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt.messages)
