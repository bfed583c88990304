"""OpenAI's summarize-from-feedback: comparisons and axis_evals (Stiennon et al. 2020, arXiv:2009.01325)."""

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
from loopwright.schemas import Comparison, Message, Rating, Record

SCALE = (1, 7)


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Record]:
    """A comparison of two summaries, or the rating of one on its axes."""
    if row.has("summaries"):
        yield _comparison(row, notes)
        return
    summary = row.inside("summary")
    axes = summary.inside("axes")
    scores = {axis: axes.whole(axis, *SCALE) for axis in axes.values if axes.has(axis)}
    if not scores:
        notes.skip("a summary rated on no axis")
        return
    yield Rating(
        id=row.name,
        prompt=post(row.inside("info")),
        responses=(_summary(summary),),
        scores=scores,
        scale_low=SCALE[0],
        scale_high=SCALE[1],
        higher_is_better=True,
        annotator=row.name_of("worker"),
        policy=summary.name_of("policy"),
    )


def _comparison(row: Row, notes: Notes) -> Comparison:
    summaries = row.objects("summaries")
    if len(summaries) != 2:
        raise Unreadable(f'"summaries" has {len(summaries)} items, not 2')
    first, second = (_summary(summary) for summary in summaries)
    note_same((first, second), notes)
    return Comparison(
        id=row.name,
        prompt=post(row.inside("info")),
        responses=(first, second),
        choice=0 if row.whole("choice", 0, 1) == 0 else 1,
        annotator=row.name_of("worker"),
        **written_by([summary.name_of("policy") for summary in summaries], notes),
    )


def post(info: Fields) -> tuple[Message, ...]:
    """What is to be summarized as one message: subreddit, title and post of Reddit, or title and article."""
    lines = [f"SUBREDDIT: r/{info.text('subreddit')}"] if info.has("subreddit") else []
    lines += [f"TITLE: {info.text('title')}"] if info.has("title") else []
    lines += [f"POST: {info.text('post')}" if info.has("post") else f"ARTICLE: {info.text('article')}", "TL;DR:"]
    return user("\n\n".join(lines))


def _summary(summary: Fields) -> str:
    return summary.text("text").removeprefix(" ")  # written for plain continuation of "TL;DR:"


SUMMARIZE = Importer(convert, 'JSON lines with "info" and "summaries" + "choice", or "summary" with "axes"')
