"""Whether the preferences a reward model predicts come true as often as it says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def calibration(predicted: Tensor, observed: Tensor, bins: int = 10) -> dict[str, Any]:
    """Bins of predicted probability against observed frequency, and the expected calibration error.

    ECE (Guo et al. 2017, arXiv:1706.04599): the mean over pairs of |predicted - observed| of their bin.

    Args:
        predicted: [N] probability that the first response is preferred.
        observed: [N] bool, whether it was.
    """
    place = (predicted * bins).long().clamp(max=bins - 1)
    rows, error = [], 0.0
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        row: dict[str, Any] = {"from": number / bins, "to": (number + 1) / bins, "count": count}
        if count:
            row["predicted"] = float(predicted[inside].double().mean())
            row["observed"] = float(observed[inside].double().mean())
            error += count / len(predicted) * abs(row["predicted"] - row["observed"])
        rows.append(row)
    return {"bins": rows, "ece": error, "pairs": len(predicted)}


def preference_probability(first: Tensor, second: Tensor, scale: float) -> Tensor:
    """[N] probability that the first is preferred (Bradley and Terry 1952) under normalised scores.

    Args:
        first, second: [N] normalised scores.
        scale: the standard deviation that normalising divided by; it gives the differences their own units back.
    """
    return torch.sigmoid(scale * (first - second).double())
