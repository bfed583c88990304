"""UltraFeedback: several models' answers rated by GPT-4, and its binarized form.

Cui et al. 2023 (arXiv:2310.01377). No row says who judged, and no person did: every record is marked as a model's.
"""

from collections.abc import Iterator

from loopwright.data.importers.base import (
    Fields,
    Importer,
    Notes,
    Row,
    Settings,
    Unreadable,
    note_same,
    user,
    written_by,
)
from loopwright.data.importers.trl import explicit
from loopwright.schemas import AI, Comparison, Message, Ranking, Rating, Record

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
SCALE = (1, 5)
MIDDLE = 3.0  # of the fine-grained scale
JUDGE = f"{AI}gpt-4"


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """A rating on the four aspects of each completion, and a ranking of them by overall score."""
    prompt = user(row.text("instruction"))
    completions = row.objects("completions")
    if not completions:
        notes.skip("no completions")
    ranked: list[tuple[str, str | None, float]] = []
    for number, completion in enumerate(completions):
        response, model = completion.text("response"), completion.name_of("model")
        if scores := _scores(completion, notes):
            yield Rating(
                id=f"{row.name}/{number}",
                prompt=prompt,
                responses=(response,),
                scores=scores,
                scale_low=SCALE[0],
                scale_high=SCALE[1],
                higher_is_better=True,
                annotator=JUDGE,
                policy=model,
            )
        overall = _overall(completion, scores, notes)
        if overall is not None:
            ranked.append((response, model, overall))
    if len(ranked) > 1:
        yield _ranking(row.name, prompt, ranked, notes)


def _scores(completion: Fields, notes: Notes) -> dict[str, int]:
    """Ratings are texts: "5", or "N/A" where the aspect does not apply."""
    if not completion.has("annotations"):
        return {}
    annotations = completion.inside("annotations")
    scores = {}
    for aspect in ASPECTS:
        if not annotations.has(aspect):
            continue
        rating = annotations.inside(aspect).get("Rating")
        text = str(rating).strip()
        if text in ("1", "2", "3", "4", "5") and not isinstance(rating, bool):
            scores[aspect] = int(text)
        else:
            notes.warn("an aspect without a rating from 1 to 5 (N/A or other text) is left out")
    return scores


def _overall(completion: Fields, scores: dict[str, int], notes: Notes) -> float | None:
    """The overall score of 1..10; None for the 10 that stands where the judge wrote 1 (the data set's issue 8)."""
    overall = completion.number("overall_score")
    fine = completion.number("fine-grained_score")
    if fine is None and scores:
        fine = sum(scores.values()) / len(scores)
    if overall == 10 and fine is not None and fine < MIDDLE:
        notes.warn("overall_score 10 with a low fine-grained score; the answer is left out of the ranking")
        return None
    return overall


def _ranking(
    name: str, prompt: tuple[Message, ...], ranked: list[tuple[str, str | None, float]], notes: Notes
) -> Ranking:
    responses, models, scores = zip(*ranked, strict=True)
    if len(set(scores)) < len(scores):
        notes.warn("equal scores are a tie")
    ranks = tuple(1 + sum(other > score for other in scores) for score in scores)
    by = written_by(models, notes)
    return Ranking(id=name, prompt=prompt, responses=responses, ranks=ranks, annotator=JUDGE, **by)


def convert_binarized(row: Row, notes: Notes, settings: Settings) -> Iterator[Comparison]:
    """One comparison; its margin is the difference of the two scores, equal scores are a tie."""
    prompt, chosen, rejected = explicit(row, notes)
    row.get("messages")  # the same as chosen
    better, worse = row.number("score_chosen"), row.number("score_rejected")
    margin = None if better is None or worse is None else better - worse
    if margin is not None and margin < 0:
        raise Unreadable(f"score_chosen {better:g} is below score_rejected {worse:g}; which one is better?")
    if margin == 0:
        notes.warn("equal scores are a tie")
    note_same((chosen, rejected), notes)
    yield Comparison(
        id=row.name_of("prompt_id") or row.name,
        prompt=prompt,
        responses=(chosen, rejected),
        choice=None if margin == 0 else 0,
        margin=margin,
        annotator=JUDGE,
    )


ULTRAFEEDBACK = Importer(convert, 'rows {"instruction", "completions": [{"response", "annotations", …}]}')
ULTRAFEEDBACK_BINARIZED = Importer(
    convert_binarized, 'rows {"prompt", "chosen", "rejected", "score_chosen", "score_rejected"} of whole dialogues'
)
