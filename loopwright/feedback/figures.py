"""The figures of a project's dashboard, from its votes: each a number with its interval, or why there is none."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loopwright.feedback.kinds import FORMS
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.statistics.adjudication import Disputed, to_adjudicate
from loopwright.feedback.statistics.agreement import Agreement, cohen_kappas, fleiss_kappa, krippendorff_alpha
from loopwright.feedback.statistics.agreement import percent_agreement as agreeing
from loopwright.feedback.statistics.estimates import Estimate
from loopwright.feedback.statistics.pulls import SMALLEST_PULL, comparisons_needed, pull
from loopwright.feedback.statistics.reliability import dawid_skene, gold_accuracy
from loopwright.feedback.statistics.selection import active_lift
from loopwright.feedback.statistics.votes import Votes
from loopwright.feedback.statistics.work import DAY_SECONDS, forecast, labels_per_period, time_on_task
from loopwright.feedback.store.judged import Judged, Person
from loopwright.feedback.store.votes import Times
from loopwright.schemas import Record

HOUR_SECONDS = 3_600.0
HOURS, DAYS = 48, 30
MOST_DISPUTED = 200
COMMON_ITEMS = 10  # that two people must share for their kappa to be listed
MOST_PAIRS = 50
WITHOUT_VOTES = ("ranking", "demonstration", "correction")
NO_VOTE = "has no single verdict to compare: its answers are texts, passages or orders"


class Figure(Record):
    """A number with the ends of its 95 % interval, where it has one; or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: str | None = None
    of: int = 0  # things it was computed from: labels, items, comparisons


class Pair(Record):
    annotators: tuple[str, str]
    kappa: Figure


class AgreementFigures(Record):
    percent: Figure
    nominal: Figure  # Krippendorff's alpha
    ordinal: Figure
    interval: Figure
    fleiss: Figure
    fleiss_people: int
    pairs: tuple[Pair, ...]  # Cohen's kappa, of those with most items in common


class Meter(Record):
    """How often one side of a pair was preferred; one half is no pull."""

    share: Figure
    needed: int  # comparisons that show a pull of 55 %
    enough: bool
    seen: bool


class AnnotatorFigures(Record):
    account: str
    name: str
    labels: int
    median_seconds: float | None
    labels_an_hour: float | None  # of measured time on task
    reliability: Figure  # Dawid and Skene: how often right, judging by all
    gold: Figure  # how often right on gold items
    last: float


class WorkFigures(Record):
    a_day: tuple[int, ...]  # labels in each of the last days, oldest first
    an_hour: tuple[int, ...]
    remaining: int
    days: float | None  # until enough labels are there
    earliest: float | None
    latest: float | None
    forecast_undefined: str | None
    median_seconds: float | None
    quartile_seconds: tuple[float, float] | None
    idle: int  # labels whose tab was left open
    hours: float  # of measured work
    cost: float | None
    cost_a_label: float | None
    cost_undefined: str | None


class SelectionFigures(Record):
    """Does active selection pay: how much more often the reward model was wrong on actively chosen items."""

    lift: Figure
    verdict: str
    labels_needed: int | None
    active: Figure
    random: Figure


class DisputedItem(Record):
    item: int
    votes: dict[str, int]  # what was said, by how many


class Figures(Record):
    labels: int  # that count: current, not excluded, not of gold items
    imported: int  # of these, from other tools: they are in no figure of work and cost
    annotators: tuple[AnnotatorFigures, ...]  # most labels first
    agreement: AgreementFigures
    position: Meter | None  # none: the kind has no pairs
    length: Meter | None
    disputed: tuple[DisputedItem, ...]
    work: WorkFigures
    selection: SelectionFigures | None  # none: nothing was chosen actively


def figures(judged: Judged, config: ProjectConfig, *, remaining: int, now: float) -> Figures:
    """All of them; `remaining` labels are still to come."""
    votes = Votes.of_arrays(judged.votes.item, judged.votes.annotator, judged.votes.value)
    pairwise = config.kind == "comparison"
    pulls = judged.pulls
    return Figures(
        labels=len(judged.times.at),
        imported=len(judged.times.at) - len(_given_here(judged).at),
        annotators=_annotators(judged, votes),
        agreement=_agreement(votes, judged, config.kind),
        position=_meter(pulls.first_won, pulls.item) if pairwise else None,
        length=_meter(pulls.longer_won, pulls.item) if pairwise else None,
        disputed=tuple(_disputed(one, config.kind) for one in to_adjudicate(votes, at_most=MOST_DISPUTED)),
        work=_work(judged, config, remaining, now),
        selection=_selection(judged) if judged.drawn.active.any() else None,
    )


def _agreement(votes: Votes, judged: Judged, kind: str) -> AgreementFigures:
    if kind in WITHOUT_VOTES:
        none = Figure(value=None, undefined=f"a {kind} {NO_VOTE}")
        return AgreementFigures(
            percent=none, nominal=none, ordinal=none, interval=none, fleiss=none, fleiss_people=0, pairs=()
        )
    names = [judged.people[account].name for account in judged.votes.annotators]
    percent, fleiss = agreeing(votes), fleiss_kappa(votes)
    kappas = sorted(cohen_kappas(votes, at_least=COMMON_ITEMS), key=lambda one: -one.agreement.units)[:MOST_PAIRS]
    return AgreementFigures(
        percent=Figure(
            value=percent.value, low=percent.low, high=percent.high, undefined=percent.undefined, of=percent.comparisons
        ),
        nominal=_coefficient(krippendorff_alpha(votes)),
        ordinal=_coefficient(krippendorff_alpha(votes, "ordinal")),
        interval=_coefficient(krippendorff_alpha(votes, "interval")),
        fleiss=_coefficient(fleiss.agreement),
        fleiss_people=fleiss.raters,
        pairs=tuple(
            Pair(annotators=(names[one.annotators[0]], names[one.annotators[1]]), kappa=_coefficient(one.agreement))
            for one in kappas
        ),
    )


def _annotators(judged: Judged, votes: Votes) -> tuple[AnnotatorFigures, ...]:
    gold, times = judged.gold, judged.times
    model = dawid_skene(votes)
    reliability = _by_account(judged.votes.annotators, votes, model.accuracy or [])
    on_gold = Votes.of_arrays(gold.item, gold.annotator, gold.value)
    right = dict(zip(gold.item.tolist(), gold.right.tolist(), strict=True))
    gold_right = _by_account(gold.annotators, on_gold, gold_accuracy(on_gold, right))
    found = []
    for code, account in enumerate(times.annotators):
        mine = times.annotator == code
        measured = mine & ~np.isnan(times.seconds)
        time = time_on_task(times.seconds[measured], times.annotator[measured])
        found.append(
            AnnotatorFigures(
                account=account,
                name=judged.people[account].name,
                labels=int(mine.sum()),
                median_seconds=time.median_seconds,
                labels_an_hour=time.labels / time.work_seconds * HOUR_SECONDS if time.work_seconds else None,
                reliability=reliability.get(account, _nothing(model.undefined)),
                gold=gold_right.get(account, _nothing("no gold item was judged")),
                last=float(times.at[mine].max()),
            )
        )
    return tuple(sorted(found, key=lambda one: -one.labels))


def _by_account(accounts: Sequence[str], votes: Votes, estimates: Sequence[Estimate]) -> dict[str, Figure]:
    """`estimates` are in the order of the votes' annotators."""
    return {accounts[code]: _estimate(one) for code, one in zip(votes.annotators, estimates, strict=False)}


def _meter(won: Any, item: Any) -> Meter:
    decided = won >= 0
    if not decided.any():
        needed = comparisons_needed(SMALLEST_PULL)
        return Meter(share=_nothing("no comparison was decided yet"), needed=needed, enough=False, seen=False)
    found = pull(won[decided] > 0, item[decided])
    return Meter(share=_estimate(found.share), needed=found.needed, enough=found.enough, seen=found.seen)


def _work(judged: Judged, config: ProjectConfig, remaining: int, now: float) -> WorkFigures:
    times = _given_here(judged)
    measured = ~np.isnan(times.seconds)
    time = time_on_task(times.seconds[measured], times.annotator[measured])
    expected = forecast(labels_per_period(times.at, now=now), remaining)
    money, a_label, why = _cost(times, judged.people, config)
    return WorkFigures(
        a_day=_counts(times.at, now, DAY_SECONDS, DAYS),
        an_hour=_counts(times.at, now, HOUR_SECONDS, HOURS),
        remaining=remaining,
        days=expected.periods,
        earliest=expected.earliest,
        latest=expected.latest,
        forecast_undefined=expected.undefined,
        median_seconds=time.median_seconds,
        quartile_seconds=time.quartile_seconds,
        idle=time.idle,
        hours=time.work_seconds / HOUR_SECONDS,
        cost=money,
        cost_a_label=a_label,
        cost_undefined=why,
    )


def _given_here(judged: Judged) -> Times:
    """Without what was imported: that work was done elsewhere."""
    times = judged.times
    imported = [code for code, account in enumerate(times.annotators) if judged.people[account].imported]
    here = ~np.isin(times.annotator, imported)
    return times._replace(annotator=times.annotator[here], at=times.at[here], seconds=times.seconds[here])


def _cost(
    times: Times, people: Mapping[str, Person], config: ProjectConfig
) -> tuple[float | None, float | None, str | None]:
    """Money in all, money a label, or why it is not known: by the label, or by each one's hours."""
    number = len(times.at)
    if not number:
        return None, None, "no label was given yet"
    if config.label_cost is not None:
        return config.label_cost * number, config.label_cost, None
    total = 0.0
    for code, account in enumerate(times.annotators):
        mine = (times.annotator == code) & ~np.isnan(times.seconds)
        rate = people[account].hourly_rate
        if rate is None and mine.any():
            return (
                None,
                None,
                f"the hourly rate of {people[account].name} is not set, and the project has no label_cost",
            )
        total += time_on_task(times.seconds[mine], times.annotator[mine]).work_seconds / HOUR_SECONDS * (rate or 0.0)
    return total, total / number, None


def _selection(judged: Judged) -> SelectionFigures:
    """Of items that were drawn, scored before, and decided by people."""
    arm = dict(zip(judged.drawn.item.tolist(), judged.drawn.active.tolist(), strict=True))
    rows = [
        (item, vote != judged.preferred[item], arm[item])
        for item, vote in zip(judged.votes.item.tolist(), judged.votes.value.tolist(), strict=True)
        if vote and item in arm and item in judged.preferred
    ]
    lift = active_lift([row[1] for row in rows], [row[2] for row in rows], clusters=[row[0] for row in rows])
    return SelectionFigures(
        lift=Figure(value=lift.value, low=lift.low, high=lift.high, undefined=lift.undefined, of=len(rows)),
        verdict=lift.verdict,
        labels_needed=lift.labels_needed,
        active=_estimate(lift.active),
        random=_estimate(lift.random),
    )


def _counts(at: Any, now: float, period_seconds: float, periods: int) -> tuple[int, ...]:
    ages = (now - at[at <= now]) / period_seconds
    shown = min(periods, math.ceil(ages.max(initial=0.0)) or 1)
    return tuple(np.bincount(ages[ages < shown].astype(np.int64), minlength=shown)[::-1].tolist())


def _disputed(one: Disputed, kind: str) -> DisputedItem:
    return DisputedItem(
        item=int(one.item), votes={said(int(value), kind): people for value, people in one.votes.items()}
    )


def said(vote: int, kind: str) -> str:
    """A vote in words."""
    return FORMS[kind].votes.get(vote, str(vote))


def _coefficient(agreement: Agreement) -> Figure:
    return Figure(value=agreement.value, undefined=agreement.undefined, of=agreement.units)


def _estimate(estimate: Estimate) -> Figure:
    return Figure(
        value=estimate.value, low=estimate.low, high=estimate.high, undefined=estimate.undefined, of=estimate.labels
    )


def _nothing(why: str | None) -> Figure:
    return Figure(value=None, undefined=why or "no labels")
