"""How labels come about, beside the scores: ties, annotators who err, and what has nothing to do with worth.

Its parameters are learned inside the loss of the reward model, and are gone when it scores: what position and length
did to the labels does not end up in the scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from loopwright.config.base import Config
from loopwright.objectives.pointwise import rating_loss, thumb_loss
from loopwright.objectives.preference import preference_loss
from loopwright.training.preference_pairs import KINDS, Labels, Pairs

Covariate = Literal["position", "length"]
GRID = torch.arange(1, 400, dtype=torch.float64) / 400  # [G] reliabilities that are weighed against each other


class AnnotatorConfig(Config):
    """How reliable annotators are thought to be before anything is known of them: as after so many checked labels."""

    accuracy: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    labels: PositiveFloat = 10.0
    gold: Path | None = None  # jsonl of Comparison whose choice is certain: those that annotators judged, too, count


class Reliability(NamedTuple):
    """How often an annotator says what they see."""

    accuracy: float
    low: float  # 95 %
    high: float
    labels: int


class Prior(NamedTuple):
    """Of one annotator's reliability: a Beta distribution with its mode at right / (right + wrong)."""

    right: float
    wrong: float


class LabelModel(nn.Module):
    """The probability of labels, given scores."""

    right: Tensor
    wrong: Tensor

    def __init__(self, priors: Sequence[Prior], covariates: Sequence[Covariate], words: float, *, ties: bool) -> None:
        """
        Args:
            priors: of the annotators, by their numbers; none: everybody says what they see.
            covariates: what shifts a label without being worth anything.
            words: the standard deviation of the differences of length.
            ties: they are possible.
        """
        super().__init__()
        self.words = words
        self.register_buffer("right", torch.tensor([prior.right for prior in priors]))
        self.register_buffer("wrong", torch.tensor([prior.wrong for prior in priors]))
        self.log_odds = nn.Parameter((self.right / self.wrong).log()) if priors else None  # [A] of being right
        self.position = nn.Parameter(torch.zeros(())) if "position" in covariates else None  # nats of being first
        self.length = nn.Parameter(torch.zeros(())) if "length" in covariates else None  # nats of one deviation
        self.log_nu = nn.Parameter(torch.zeros(())) if ties else None  # of Davidson's ties

    @property
    def has_covariates(self) -> bool:
        """Whether anything but the scores shifts labels."""
        return self.position is not None or self.length is not None

    def differences(self, scores: Tensor, pairs: Pairs) -> Tensor:
        """[P] what speaks for the response called better: its score, and whatever else shifted the label."""
        difference = scores[pairs.chosen] - scores[pairs.rejected]
        if self.position is not None:
            difference = difference + self.position * pairs.position
        if self.length is not None:
            difference = difference + self.length * (pairs.length / self.words)
        return difference

    def forward(self, scores: Tensor, pairs: Pairs, *, unseen: bool = True) -> Tensor:
        """[P] losses of the pairs, nats, before their weights.

        Reliabilities are learned from labels that are `unseen`: a model that has learned a label agrees with it, right
        or wrong, and everybody would become reliable.
        """
        return preference_loss(
            self.differences(scores, pairs),
            margin=pairs.margin,
            probability=pairs.probability,
            tie=None if self.log_nu is None else pairs.tie,
            log_nu=self.log_nu,
            reliability=self._reliability(pairs.annotator, unseen=unseen),
        )

    def of_labels(self, scores: Tensor, labels: Labels, log_odds: float, *, unseen: bool = True) -> Tensor:
        """[M] losses of thumbs, safety labels and ratings, before their weights.

        Where annotators err, a thumb is what its annotator sees with their reliability, and else the opposite, as a
        pair is. Safety labels and ratings are taken as they are.

        Args:
            scores: [N] of all responses.
            log_odds: of a thumb up, over all answers.
        """
        own = scores[labels.place]
        thumb, safety, rating = (labels.kind == number for number in range(len(KINDS)))
        reliability = self._reliability(labels.annotator, unseen=unseen)
        if reliability is None:
            of_thumbs = thumb_loss(own, labels.target * thumb, log_odds=log_odds)
        else:
            of_thumbs = preference_loss(own + log_odds, probability=labels.target * thumb, reliability=reliability)
        losses = torch.where(thumb, of_thumbs, 0.0)
        losses = losses + torch.where(safety, thumb_loss(own, labels.target * safety), 0.0)
        return losses + torch.where(rating, rating_loss(own, labels.target), 0.0)

    def _reliability(self, annotators: Tensor, *, unseen: bool) -> Tensor | None:
        """Of the annotator of each label; None: everybody says what they see."""
        if self.log_odds is None:
            return None
        return (self.log_odds if unseen else self.log_odds.detach()).sigmoid()[annotators]

    def prior_loss(self) -> Tensor:
        """-log of the priors of all annotators, to be spread over the whole of the data."""
        if self.log_odds is None:
            return self.right.new_zeros(())
        right, wrong = nn.functional.logsigmoid(self.log_odds), nn.functional.logsigmoid(-self.log_odds)
        return -(self.right * right + self.wrong * wrong).sum()

    @torch.no_grad()
    def evidence(self, scores: Tensor, pairs: Pairs, labels: Labels, log_odds: float) -> dict[str, Tensor]:
        """[A, G] the log-probability of pairs and thumbs for each reliability of GRID, and [A] how many there are.

        Of a soft label, that of both sides by its probability, as in the loss. Ties say nothing.
        """
        clear, thumb = ~pairs.tie, labels.kind == KINDS.index("thumb")
        of_thumbs = scores[labels.place[thumb]] + log_odds
        chance = torch.cat((self.differences(scores, pairs)[clear], of_thumbs))[:, None].double().sigmoid().cpu()
        likely = torch.cat((pairs.probability[clear], labels.target[thumb]))[:, None].double().cpu()
        who = torch.cat((pairs.annotator[clear], labels.annotator[thumb])).cpu()
        yes, no = (GRID * one + (1 - GRID) * (1 - one) for one in (chance, 1 - chance))
        of_label = likely * yes.log() + (1 - likely) * no.log()
        return {
            "evidence": torch.zeros(len(self.right), len(GRID), dtype=torch.float64).index_add(0, who, of_label),
            "labels": torch.bincount(who, minlength=len(self.right)),
        }

    def figures(self) -> dict[str, float]:
        """What was learned of ties and covariates."""
        found = {"position_nats": self.position, "length_nats": self.length}
        figures = {name: float(value.detach()) for name, value in found.items() if value is not None}
        if self.length is not None:
            figures["length_words"] = self.words
        if self.log_nu is not None:
            figures["tie_nu"] = float(self.log_nu.detach().exp())
        return figures


def priors_of(
    names: Sequence[str | None], config: AnnotatorConfig, gold: Mapping[str | None, tuple[int, int]]
) -> list[Prior]:
    """What is known of each annotator beforehand: the config's share, and right and wrong answers to gold items."""
    found = []
    for name in names:
        right, wrong = gold.get(name, (0, 0))
        found.append(Prior(config.accuracy * config.labels + right, (1 - config.accuracy) * config.labels + wrong))
    return found


def reliabilities(model: LabelModel, evidence: Tensor, labels: Tensor) -> list[Reliability]:
    """What the labels say of each annotator's reliability, with the prior: the mean and the middle 95 %.

    Args:
        evidence: [A, G], the sum of `LabelModel.evidence` over all labels.
        labels: [A] how many there are of each.
    """
    log_prior = model.right.cpu()[:, None] * GRID.log() + model.wrong.cpu()[:, None] * (1 - GRID).log()
    chances = (evidence + log_prior).softmax(1)
    means, below = chances @ GRID, chances.cumsum(1)
    low, high = (GRID[(below < share).sum(1).clamp(max=len(GRID) - 1)] for share in (0.025, 0.975))
    return [
        Reliability(mean, lowest, highest, int(n))
        for mean, lowest, highest, n in zip(means.tolist(), low.tolist(), high.tolist(), labels, strict=True)
    ]


def spread_of(lengths: Sequence[float]) -> float:
    """The standard deviation of differences of length around 0, whichever response comes first; 1 where all are 0."""
    return math.sqrt(sum(length**2 for length in lengths) / max(len(lengths), 1)) or 1.0
