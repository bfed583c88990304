"""A reward model in a judge's place: it says of an answer how well people would like it."""

from __future__ import annotations

import math

from loopwright.models.layers import unwrapped
from loopwright.rewards.base import Sample
from loopwright.rewards.reward_model import RewardModel
from loopwright.schemas import Message, Prompt


class PreferenceJudge:
    """A `Judge`: sigmoid(score), which is 0.5 for a mean answer of the model that the scores are normalised on.

    It reads text, one answer at a time, so what it says depends on nothing else; it remembers what it said.
    """

    def __init__(self, model: RewardModel, *, as_probability: bool = False) -> None:
        """
        Args:
            as_probability: sigmoid(scale * score) with the scale of the model's own loss: how likely, by Bradley and
                Terry, somebody it learned from prefers the answer to a mean one. Without it the answers of the
                normalising model spread as far as standard normal scores do, however unsure the model is.
        """
        self._model = model
        self._scale = float(getattr(unwrapped(model.model).config, "preference_scale", 1.0)) if as_probability else 1.0
        self._said: dict[tuple[tuple[Message, ...], str], float] = {}

    def __call__(self, prompt: Prompt, response: str) -> float:
        key = (prompt.messages, response)
        if key not in self._said:
            score = float(self._model.score([Sample(prompt, response, [], [], finished=True, tokenizer=None)]).total)
            self._said[key] = 1 / (1 + math.exp(-max(-30.0, min(30.0, self._scale * score))))
        return self._said[key]
