"""From what people said to what a reward model learns from: pairs, ranked lists and labels of single answers.

Every conversion is a choice, so each is a setting, and what it made of the records, or left out, is counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, NamedTuple, Self

from pydantic import NonNegativeFloat, model_validator

from loopwright.config.base import Config
from loopwright.errors import ConfigError, DataError
from loopwright.schemas import Attack, Comparison, Correction, Judgement, Message, Ranking, Rating, Strength, Thumb

# Touvron et al. 2023 (arXiv:2307.09288), table 27: how far apart the scores are to be, in nats.
MARGINS: Mapping[str, Mapping[Strength, float]] = {
    "small": {"significantly": 1.0, "better": 2 / 3, "slightly": 1 / 3, "negligibly": 0.0},
    "large": {"significantly": 3.0, "better": 2.0, "slightly": 1.0, "negligibly": 0.0},
}
BETTER_ONES = (
    "compare these with better ones: with what people made of them (corrections, by reward.kinds in a recipe), or with "
    "samples of the policy (reward.fresh_samples: true)"
)


class JudgementConfig(Config):
    """How judgements become what is trained on."""

    criterion: str | None = None  # what was judged; None: the answer as a whole
    margins: Literal["none", "small", "large", "given"] = "none"  # later work dropped them (Llama 3, sec. 4.2.1)
    ties: Literal["drop", "davidson"] = "drop"
    rankings_as: Literal["pairs", "plackett_luce"] = "pairs"
    ratings_as: Literal["pairs", "thumbs", "regression"] = "pairs"
    weigh_by: Literal["prompt", "pair"] = (
        "prompt"  # a prompt's pairs share what one counts (Ouyang et al. 2022), or each counts
    )
    safety_weight: NonNegativeFloat = 0.0  # of the auxiliary loss on `safe` (Touvron et al. 2023, sec. 3.2.2)

    @model_validator(mode="after")
    def _ratings_have_a_meaning(self) -> Self:
        if self.criterion is not None and self.safety_weight:
            raise ValueError("safety_weight belongs to a model of the whole answer; leave criterion or it out")
        return self


class Preference(NamedTuple):
    """Two responses to a prompt, and which is better."""

    prompt: tuple[Message, ...]
    responses: tuple[str, str]
    choice: Literal[0, 1] | None  # None: a tie
    probability: float | None = None  # that the first is better, of a soft label
    margin: float = 0.0
    weight: float = 1.0
    annotator: str | None = None
    shown_first: Literal[0, 1] | None = None  # which of the two the annotator saw first


class Listing(NamedTuple):
    """Responses to a prompt in order, for a loss on the whole list."""

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    ranks: tuple[int, ...]  # 1 is the best


class Label(NamedTuple):
    """A single answer, good or not, or on a scale."""

    prompt: tuple[Message, ...]
    response: str
    kind: Literal["thumb", "safety", "rating"]
    target: float  # thumb, safety: 1 is good; rating: in standard deviations from the mean, more is better
    annotator: str | None = None
    weight: float = 1.0


class RatingScale(NamedTuple):
    """Of ratings between the worst and the best end of their scale."""

    mean: float
    deviation: float


@dataclass
class Converted:
    """What the records became, and how much of each kind."""

    pairs: list[Preference] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rating_scale: RatingScale | None = None  # that ratings to predict are measured on

    def __len__(self) -> int:
        return len(self.pairs) + len(self.listings) + len(self.labels)


def convert(
    judgements: Iterable[Judgement], config: JudgementConfig, rating_scale: RatingScale | None = None
) -> Converted:
    """Everything that is trained on. Identical responses make no pair.

    Args:
        rating_scale: that of other ratings, to measure these on; None: their own.

    Raises:
        DataError: ratings to predict are all the same.
    """
    found = Converted(rating_scale=rating_scale)
    ratings: list[Rating] = []
    for judgement in judgements:
        found.counts[type(judgement).__name__.lower() + "s"] += 1
        if isinstance(judgement, Rating):
            ratings.append(judgement)
        else:
            CONVERSIONS[type(judgement)](judgement, config, found)
    _convert_ratings(ratings, config, found)
    found.counts["ties"] = sum(pair.choice is None for pair in found.pairs)
    if config.ties == "drop":
        found.pairs = [pair for pair in found.pairs if pair.choice is not None]
    return found


def check_conversion(config: JudgementConfig, found: Converted) -> None:
    """Whether what was converted can be learned from, and every setting that was written changed something.

    Raises:
        ConfigError: a setting found nothing to act on.
        DataError: see `check_decided`.
    """
    check_decided(found.pairs, found.listings, found.labels)
    check_settings(config, found, "reward")


def check_decided(
    pairs: Sequence[Any], listings: Sequence[Any], labels: Sequence[Any], instead: str = BETTER_ONES
) -> None:
    """Whether anything tells better from worse, good from bad and safe from unsafe.

    Args:
        pairs: with `choice` and `probability`.
        labels: with `kind` and `target`.
        instead: what to do with thumbs that are all down, but for adding others.

    Raises:
        DataError: pairs are all that there is, and all are ties; or thumbs (with ratings made thumbs of), or safety
            labels, are all of one kind.
    """
    rest = [label for label in labels if label.kind != "safety"]
    if (
        pairs
        and not (listings or rest)
        and all(pair.probability in (None, 0.5) and pair.choice is None for pair in pairs)
    ):
        raise DataError(
            f"all {len(pairs)} pairs are ties: nothing tells better from worse; add comparisons in which one answer "
            "is better"
        )
    check_both_kinds([label.target for label in rest if label.kind == "thumb"], instead)
    safe = [label.target for label in labels if label.kind == "safety"]
    if len(set(safe)) == 1:
        raise DataError(
            f"all {len(safe)} safety labels say {'safe' if safe[0] else 'unsafe'}: nothing tells the two apart; add "
            "comparisons with answers of the other kind, or leave judgements.safety_weight out"
        )


def check_settings(config: Config, found: Converted, stage: str) -> None:
    """Raise ConfigError where a setting of a stage's `judgements` found nothing to act on."""
    idle = [
        ("margins", not found.counts["with_margin"], "no comparison says how much better"),
        ("ties", not found.counts["ties"], "there is no tie"),
        ("rankings_as", not found.counts["rankings"], "there is no ranking"),
        ("ratings_as", not found.counts["ratings"], "there is no rating"),
        ("safety_weight", all(label.kind != "safety" for label in found.labels), "no comparison says what is safe"),
        ("criterion", not len(found), "nothing was judged by it"),
    ]
    fields = type(config).model_fields
    for name, without_effect, why in idle:
        if without_effect and name in fields and (value := getattr(config, name)) != fields[name].default:
            raise ConfigError(f"{stage}.judgements.{name} = {value} has no effect: {why}; leave it out")


def check_kinds_of(config: Config, kinds: Collection[str], stage: str) -> None:
    """Raise ConfigError where a setting of a stage's `judgements` is of a kind that is not trained on."""
    fields = type(config).model_fields
    for name, kind in (("rankings_as", "rankings"), ("ratings_as", "ratings")):
        if kind not in kinds and name in fields and (value := getattr(config, name)) != fields[name].default:
            raise ConfigError(
                f"{stage}.judgements.{name} = {value} has no effect without {kind}, and {stage} learns from "
                f"{', '.join(kinds) or 'labelled texts'}; leave it out, or name them in {stage}.kinds"
            )


def check_both_kinds(thumbs: Sequence[float], instead: str) -> None:
    """Raise DataError where all thumbs are up, or all down.

    Args:
        instead: what to do with answers that are all bad, but for adding good ones.
    """
    if len(set(thumbs)) == 1:
        said, advice = ("up", "") if thumbs[0] else ("down", f", or {instead}")
        raise DataError(
            f"all {len(thumbs)} thumbs are {said}: nothing tells good from bad; add answers of the other kind{advice}"
        )


def gold_answers(judgements: Iterable[Judgement], gold: Iterable[Comparison]) -> dict[str | None, tuple[int, int]]:
    """Of each annotator, right and wrong answers to gold items, ties left out."""
    truth = {(one.prompt, *_sorted(one)): _winner(one) for one in gold}
    found: dict[str | None, tuple[int, int]] = {}
    for one in judgements:
        if not isinstance(one, Comparison):
            continue
        expected, said = truth.get((one.prompt, *_sorted(one))), _winner(one)
        if expected is not None and said is not None:
            right, wrong = found.get(one.annotator, (0, 0))
            found[one.annotator] = (right + 1, wrong) if said == expected else (right, wrong + 1)
    return found


def _sorted(one: Comparison) -> list[str]:
    return sorted(one.responses)


def _winner(one: Comparison) -> str | None:
    return None if one.choice is None else one.responses[one.choice]


def of_criterion(judgements: Iterable[Judgement], criterion: str | None) -> list[Comparison | Ranking]:
    """Comparisons and rankings by the criterion, as if it were all that was asked; None: those of the whole answer."""
    found: list[Comparison | Ranking] = []
    for one in judgements:
        if isinstance(one, Ranking) and one.criterion == criterion:
            found.append(one.model_copy(update={"criterion": None}))
        elif isinstance(one, Comparison) and criterion is None:
            found.append(one)
        elif isinstance(one, Comparison) and criterion is not None and criterion in one.criteria:
            found.append(_by(criterion, one))
    return found


def _by(criterion: str, one: Comparison) -> Comparison:
    """A comparison as if the criterion were all that was asked."""
    said: dict[str, Any] = {"choice": one.criteria[criterion], "strength": one.strengths.get(criterion)}
    beside: dict[str, Any] = {"margin": None, "probability": None, "safe": None, "criteria": {}, "strengths": {}}
    return one.model_copy(update=said | beside)


def ranking_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """All (better, worse) index pairs of a ranking, 1 being the best rank. Ties give no pair.

    >>> ranking_pairs([2, 1, 2])
    [(1, 0), (1, 2)]
    """
    places = range(len(ranks))
    return [(better, worse) for better in places for worse in places if ranks[better] < ranks[worse]]


def _from_comparison(record: Comparison, config: JudgementConfig, found: Converted) -> None:
    if config.criterion is not None:
        if config.criterion not in record.criteria:
            found.counts["left_out_of_another_criterion"] += 1
            return
        record = _by(config.criterion, record)
    margin = _margin_of(record, config)
    if margin is not None:
        found.counts["with_margin"] += 1
    order = record.order_shown
    pair = Preference(
        record.prompt, record.responses, record.choice, record.probability, margin or 0.0, record.weight,
        record.annotator, None if order is None else (0 if order[0] == 0 else 1),
    )  # fmt: skip
    add_pair(pair, found)
    if config.safety_weight and record.safe is not None:
        for response, safe in zip(record.responses, record.safe, strict=True):
            label = Label(record.prompt, response, "safety", float(safe), record.annotator, record.weight)
            found.labels.append(label)


def _margin_of(record: Comparison, config: JudgementConfig) -> float | None:
    """By how many nats the scores are to differ; None: the record does not say, or nobody wants to know."""
    if config.margins == "given":
        return record.margin
    return None if config.margins == "none" or record.strength is None else MARGINS[config.margins][record.strength]


def _from_ranking(record: Ranking, config: JudgementConfig, found: Converted) -> None:
    if record.criterion != config.criterion:
        found.counts["left_out_of_another_criterion"] += 1
        return
    if config.rankings_as == "plackett_luce":
        if len(set(record.ranks)) > 1:
            found.listings.append(Listing(record.prompt, record.responses, record.ranks))
        return
    order = None if record.order_shown is None else {place: n for n, place in enumerate(record.order_shown)}
    for a, b in combinations(range(len(record.ranks)), 2):
        choice = _better(-record.ranks[a], -record.ranks[b])
        first: Literal[0, 1] | None = None if order is None else (0 if order[a] < order[b] else 1)
        pair = (record.responses[a], record.responses[b])
        add_pair(Preference(record.prompt, pair, choice, annotator=record.annotator, shown_first=first), found)


def _from_thumb(record: Thumb, config: JudgementConfig, found: Converted) -> None:
    if config.criterion is not None:
        found.counts["left_out_of_another_criterion"] += 1
        return
    found.labels.append(Label(record.prompt, record.responses[0], "thumb", float(record.good), record.annotator))


def _from_attack(record: Attack, config: JudgementConfig, found: Converted) -> None:
    """An answer that broke what it should keep to is one not liked."""
    if config.criterion is not None:
        found.counts["left_out_of_another_criterion"] += 1
        return
    found.labels.append(Label(record.prompt, record.responses[0], "thumb", float(not record.broke), record.annotator))


def _from_correction(record: Correction, config: JudgementConfig, found: Converted) -> None:
    """edited > chosen > rejected."""
    if config.criterion is not None:
        found.counts["left_out_of_another_criterion"] += 1
        return
    chosen = record.responses[record.chosen]
    rejected = [response for i, response in enumerate(record.responses) if i != record.chosen]
    for better, worse in [(record.edited, chosen), *((b, r) for r in rejected for b in (record.edited, chosen))]:
        add_pair(Preference(record.prompt, (better, worse), 0, annotator=record.annotator), found)


CONVERSIONS: Mapping[type[Judgement], Callable[..., None]] = {
    Comparison: _from_comparison,
    Ranking: _from_ranking,
    Thumb: _from_thumb,
    Correction: _from_correction,
    Attack: _from_attack,
}


def _convert_ratings(ratings: Sequence[Rating], config: JudgementConfig, found: Converted) -> None:
    """Pairs of one annotator's ratings of answers to one prompt; or 0 and 1; or numbers."""
    rated = [(record, worth) for record in ratings if (worth := _worth(record, config)) is not None]
    found.counts["left_out_of_another_criterion"] += len(ratings) - len(rated)
    if config.ratings_as == "pairs":
        together: dict[tuple[tuple[Message, ...], str | None], list[tuple[str, float]]] = defaultdict(list)
        for record, worth in rated:
            together[record.prompt, record.annotator].append((record.responses[0], worth))
        for (prompt, annotator), answers in together.items():
            for (a, of_a), (b, of_b) in combinations(answers, 2):
                add_pair(Preference(prompt, (a, b), _better(of_a, of_b), annotator=annotator), found)
    elif config.ratings_as == "thumbs":
        for record, worth in rated:
            if worth == 0.5:
                found.counts["left_out_in_the_middle_of_the_scale"] += 1
            else:
                label = Label(record.prompt, record.responses[0], "thumb", float(worth > 0.5), record.annotator)
                found.labels.append(label)
    elif rated:
        scale = found.rating_scale = found.rating_scale or _scale_of([worth for _, worth in rated])
        for record, worth in rated:
            target = (worth - scale.mean) / scale.deviation
            found.labels.append(Label(record.prompt, record.responses[0], "rating", target))


def _scale_of(worths: Sequence[float]) -> RatingScale:
    mean = sum(worths) / len(worths)
    deviation = (sum((worth - mean) ** 2 for worth in worths) / len(worths)) ** 0.5
    if not deviation:
        raise DataError(f"all {len(worths)} ratings are the same; a model learns nothing from them, get others")
    return RatingScale(mean, deviation)


def _worth(record: Rating, config: JudgementConfig) -> float | None:
    """In [0, 1], 1 the best end of the scale: by the criterion, or the mean of all; None: not judged."""
    names = list(record.scores) if config.criterion is None else [config.criterion]
    if not names or any(name not in record.scores for name in names):
        return None
    ends = record.scale_low + record.scale_high
    turned = {name for name in names if record.is_high_good(name) != record.higher_is_better}
    mean = sum(ends - record.scores[name] if name in turned else record.scores[name] for name in names) / len(names)
    share = (mean - record.scale_low) / (record.scale_high - record.scale_low)
    return share if record.higher_is_better else 1 - share


def add_pair(pair: Preference, found: Converted) -> None:
    """Identical responses make no pair, and are counted."""
    if pair.responses[0] == pair.responses[1]:
        found.counts["left_out_identical_responses"] += 1
    else:
        found.pairs.append(pair)


def _better(first: float, second: float) -> Literal[0, 1] | None:
    return None if first == second else (0 if first > second else 1)
