"""How far people agree on the same pair of answers, beyond chance."""

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

from loopwright.feedback.statistics.agreement import cohen_kappas, krippendorff_alpha, percent_agreement
from loopwright.feedback.statistics.votes import Votes
from loopwright.feedback.verdicts import Pair, Verdict, verdicts
from loopwright.schemas import Judgement, is_ai


def agreement_report(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """Percent agreement, Krippendorff's alpha and each two people's kappa on pairs that several judged, as JSON.

    A pair's votes are: the answer whose text sorts first is better, a tie, the other is; alpha is given for these as
    names and as an order. What a person said of a pair twice counts once, and not at all where it differs. Judgements
    without an annotator are left out: two of them may be one person's. So are those of models, which are no people.
    """
    said = verdicts(judgements)
    by_pair = votes_by_pair(said)
    votes = Votes.of((pair, name, vote) for pair, people in by_pair.items() for name, vote in people.items())
    prompts: dict[Any, int] = {}
    clusters = [prompts.setdefault(pair.prompt or pair, len(prompts)) for pair in votes.items]
    return {
        "pairs": len(by_pair),
        "pairs_judged_twice": int((votes.votes_of_item > 1).sum()),
        "anonymous": sum(verdict.annotator is None for verdict in said),
        "of_ai": sum(is_ai(verdict.annotator) for verdict in said),
        # three views of one pair hang together, as do the pairs of one prompt
        "percent": percent_agreement(votes, clusters).as_dict(),
        "alpha_nominal": krippendorff_alpha(votes).as_dict(),
        "alpha_ordinal": krippendorff_alpha(votes, "ordinal").as_dict(),
        "kappa": sorted(
            ({"annotators": sorted(two), **kappa.as_dict()} for two, kappa in cohen_kappas(votes)),
            key=itemgetter("annotators"),
        ),
    }


def votes_by_pair(votes: Iterable[Verdict]) -> dict[Pair, dict[str, int]]:
    """What each named person said of each pair, where they said one thing; pairs and people in order."""
    said: dict[Pair, dict[str, set[int]]] = {}
    for verdict in votes:
        if verdict.annotator is not None and not is_ai(verdict.annotator):
            said.setdefault(verdict.pair, {}).setdefault(verdict.annotator, set()).add(verdict.vote)
    settled = {
        pair: {name: next(iter(ways)) for name, ways in sorted(people.items()) if len(ways) == 1}
        for pair, people in sorted(said.items())
    }
    return {pair: people for pair, people in settled.items() if people}
