"""The figures of a PPO update: sums over the tokens of a step, on their way to means."""

import math
from collections.abc import Mapping

from torch import Tensor


class Totals:
    """Sums over the tokens of a step, on their way to means."""

    def __init__(self) -> None:
        self._tokens = 0
        self._minibatches = 0
        self._sums: dict[str, float] = {}
        self._of_minibatches: dict[str, float] = {}
        self._maxima: dict[str, float] = {}
        self.sampler_drift = 0.0  # of the first minibatch

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Sums over tokens, to be averaged over tokens."""
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()

    def maximum(self, **per_token: Tensor) -> None:
        """Values of tokens, of which the largest is reported."""
        for name, values in per_token.items():
            if len(values):
                self._maxima[name] = max(self._maxima.get(name, -math.inf), values.max().item())

    def count_minibatch(self, tokens: int, figures: dict[str, float]) -> None:
        """Figures that are already those of a whole minibatch."""
        self._tokens += tokens
        self._minibatches += 1
        for name, value in figures.items():
            self._of_minibatches[name] = self._of_minibatches.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Everything, averaged."""
        tokens = {name: value / max(self._tokens, 1) for name, value in self._sums.items()}
        whole = {name: value / max(self._minibatches, 1) for name, value in self._of_minibatches.items()}
        return tokens | whole | self._maxima | {"sampler_drift": self.sampler_drift}
