"""What is wrong with judgements before anything is trained on them: counted, with ids, and said in sentences."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from loopwright.errors import DataError
from loopwright.feedback.habits import length_bias, position_bias
from loopwright.feedback.leaks import leaks
from loopwright.feedback.preference_graph import contradictions, cycles, duplicates
from loopwright.feedback.statistics.pulls import SMALLEST_PULL
from loopwright.feedback.verdicts import Verdict, choices, verdicts
from loopwright.schemas import Judgement, Thumb

EXAMPLES = 5


def consistency_report(judgements: Sequence[Judgement], held_out: Sequence[Judgement] = ()) -> dict[str, Any]:
    """Counts, first ids, and sentences for people, as a JSON value.

    Args:
        judgements: comparisons, rankings and thumbs to train on; other feedback is counted only.
        held_out: those to assess on, to look for leaks.

    Raises:
        DataError: every pair is a tie.
    """
    votes = verdicts(judgements)
    require_preferences(votes)
    report: dict[str, Any] = {
        "judgements": len(judgements),
        "pairs": len(votes),
        "ties": sum(verdict.vote == 0 for verdict in votes),
        "identical_answers": _ids(_with_identical_answers(judgements)),
        "repeated_ids": _ids(sorted(id for id, count in Counter(one.id for one in judgements).items() if count > 1)),
        "duplicates": _ids([list(ids) for ids in duplicates(votes)]),
        "contradictions": _contradictions(votes),
        "cycles": _cycles(votes),
        "thumbs": label_classes(one.good for one in judgements if isinstance(one, Thumb)),
        "position": position_bias(judgements),
        "length": length_bias(judgements),
    }
    if held_out:
        found = leaks(judgements, held_out)
        report["leaks"] = {"pairs": _ids(found.pairs), "prompts": _ids(found.prompts)}
    return report | {"sentences": sentences(report)}


def require_preferences(votes: Iterable[Verdict]) -> None:
    """Raise where there are pairs and every one is a tie.

    Raises:
        DataError: there is nothing to learn.
    """
    counts = Counter(verdict.vote for verdict in votes)
    if counts and set(counts) == {0}:
        raise DataError(
            f"all {counts[0]} judged pairs are ties, so there is nothing to learn; give comparisons in which one "
            "answer is better"
        )


def label_classes(labels: Iterable[bool | int | str]) -> dict[str, Any] | None:
    """How often each label was given, and whether only one was, from which nothing can be told apart; None for none."""
    counts = Counter(str(label).lower() for label in labels)
    if not counts:
        return None
    return {"counts": dict(sorted(counts.items())), "single_class": len(counts) == 1}


def sentences(report: dict[str, Any]) -> list[str]:
    """What a person should know of a `consistency_report`, the gravest first; empty where nothing was found."""
    said: list[str] = []
    found = report.get("leaks")
    if found and found["pairs"]["count"]:
        said.append(
            f"{_count(found['pairs'], 'held-out judgement has a pair', 'held-out judgements have a pair')} "
            f"that is also trained on ({_examples(found['pairs'])}): accuracy on them says nothing."
        )
    if found and found["prompts"]["count"]:
        said.append(
            f"{_count(found['prompts'], 'held-out judgement shares its prompt', 'held-out judgements share a prompt')} "
            f"with the training part ({_examples(found['prompts'])})."
        )
    if (thumbs := report["thumbs"]) and thumbs["single_class"]:
        (label,) = thumbs["counts"]
        said.append(f"All {thumbs['counts'][label]} thumbs say {label!r}: they tell no answer from another.")
    if (both := report["contradictions"])["count"]:
        said.append(
            f"{_count(both, 'pair is', 'pairs are')} judged both ways, {both['same_annotator'] or 'none'} by one "
            f"and the same annotator ({_examples(both)}): a reward model cannot agree with both."
        )
    if (circles := report["cycles"])["count"]:
        said.append(
            f"{_count(circles, 'set of answers is', 'sets of answers are')} preferred in a circle, "
            f"{circles['same_annotator'] or 'none'} by one annotator alone ({_examples(circles)}): "
            "no score can follow it."
        )
    if (copies := report["duplicates"])["count"]:
        said.append(
            f"{_count(copies, 'judgement was', 'judgements were')} made again by the same annotator with the same "
            f"result ({_examples(copies)}): they count more than once."
        )
    if (repeated := report["repeated_ids"])["count"]:
        said.append(f"{_count(repeated, 'id stands', 'ids stand')} for several records ({_examples(repeated)}).")
    if (same := report["identical_answers"])["count"]:
        said.append(
            f"{_count(same, 'judgement compares', 'judgements compare')} an answer with itself ({_examples(same)})."
        )
    return said + _habits(report)


def _habits(report: dict[str, Any]) -> list[str]:
    said = []
    if position := report["position"]:
        pulled = position["low"] > 0.5 or position["high"] < 0.5
        text = f"The answer shown first was chosen in {_share(position)} of {position['comparisons']} comparisons"
        if pulled:
            said.append(f"{text}: the place on the screen pulls.")
        elif not position["enough"]:
            said.append(
                f"{text}: no pull is seen, but {position['needed']} comparisons are needed to see one of "
                f"{100 * SMALLEST_PULL:.0f} %."
            )
    if length := report["length"]:
        text = f"The longer answer was chosen in {_share(length)} of {length['comparisons']} comparisons"
        if length["low"] > 0.5:
            said.append(f"{text}: a reward model may learn length in place of worth.")
        elif length["high"] < 0.5:
            said.append(f"{text}: a reward model may learn shortness in place of worth.")
    return said


def _contradictions(votes: Sequence[Verdict]) -> dict[str, Any]:
    found = contradictions(votes)
    ids = _ids([[list(one.for_a), list(one.for_b)] for one in found])
    return ids | {"same_annotator": sum(one.same_annotator for one in found)}


def _cycles(votes: Sequence[Verdict]) -> dict[str, Any]:
    found = cycles(votes)
    return _ids([list(one.ids) for one in found]) | {
        "same_annotator": sum(one.same_annotator for one in found),
        "answers": sum(one.size for one in found),
    }


def _with_identical_answers(judgements: Iterable[Judgement]) -> list[str]:
    return sorted(
        judgement.id for judgement in judgements if any(one.first == one.second for one in choices(judgement))
    )


def _ids(found: Sequence[Any]) -> dict[str, Any]:
    return {"count": len(found), "ids": [list(one) if isinstance(one, tuple) else one for one in found[:EXAMPLES]]}


def _count(found: dict[str, Any], one: str, several: str) -> str:
    return f"{found['count']} {one if found['count'] == 1 else several}"


def _examples(found: dict[str, Any]) -> str:
    """The ids of the first case; of a contradiction, one judgement of each side."""
    first = found["ids"][0]
    flat = [first] if isinstance(first, str) else [one if isinstance(one, str) else one[0] for one in first]
    return ("for example " if found["count"] > 1 else "") + " and ".join(flat[:3])


def _share(habit: dict[str, Any]) -> str:
    return "{:.0f} % ({:.0f} % to {:.0f} %)".format(*(100 * habit[end] for end in ("mean", "low", "high")))
