"""A judge's own scores as the reward, without a reward model between: d-RLAIF (Lee et al. 2023, sec. 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence

from loopwright.responders.judge import ScoringConfig, score
from loopwright.rewards.base import Sample, Scores, check_scores
from loopwright.schemas import Chooser


class JudgeReward:
    """Scores a response from -1 to 1 by what the judge would say, from 1 to `scale`.

    It reads text: prompt and response quoted, so that a response can command nothing and spell no special token.
    """

    def __init__(self, chooser: Chooser, config: ScoringConfig | None = None, *, name: str = "judge") -> None:
        self.chooser, self.config, self.name = chooser, config or ScoringConfig(), name

    def score(self, samples: Sequence[Sample]) -> Scores:
        """[B] expected scores, normalised; 0 where the judge gives no number.

        Raises:
            LoopwrightError: its server does not answer, or answers wrongly.
        """
        answers = [(sample.prompt.messages, sample.response) for sample in samples]
        found = score(self.chooser, answers, self.config.instruction, self.config.scale)
        return Scores(check_scores(self.name, found, samples))
