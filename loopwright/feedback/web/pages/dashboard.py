"""A project's dashboard: its figures, drawn and said in words."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import Response

from loopwright.feedback.figures import Figure, Figures
from loopwright.feedback.kinds import FORMS
from loopwright.feedback.store import reports
from loopwright.feedback.web import plots
from loopwright.feedback.web.admission import ReadsProject, database_of
from loopwright.feedback.web.api.stats import latest
from loopwright.feedback.web.pages.admin import project_page

router = APIRouter(include_in_schema=False)

DAY_SECONDS, HOUR_SECONDS = 86_400.0, 3_600.0
MOST_SHOWN = 30  # annotators in the plot; the table has all


@router.get("/admin/projects/{project}")
def dashboard(request: Request, member: ReadsProject) -> Response:
    progress = database_of(request).read(lambda connection: reports.progress(connection, member.project.id))
    stats = latest(request, member.project.id)
    figures = stats.figures
    return project_page(
        request, "dashboard.html", member, tab="dashboard", progress=progress, stats=stats, figures=figures,
        bar=plots.progress, kinds=FORMS[member.project.config.kind].makes,
        by_day=_periods(figures.work.a_day, stats.computed, DAY_SECONDS) if figures and stats.computed else "",
        by_hour=_periods(figures.work.an_hour, stats.computed, HOUR_SECONDS) if figures and stats.computed else "",
        reliability=_reliability(figures) if figures else "", pulls=_pulls(figures) if figures else "",
    )  # fmt: skip


def _periods(counts: tuple[int, ...], now: float, seconds: float) -> Markup:
    """Labels in each of the last periods, which end now."""
    days = seconds == DAY_SECONDS
    name, spoken = ("day", "%-d %b") if days else ("hour", "%-d %b %H:%M")
    every = max(1, -(-len(counts) // 6))
    data = []
    for place, number in enumerate(counts):
        back = len(counts) - 1 - place
        end = datetime.fromtimestamp(now - back * seconds, UTC)
        label = end.strftime("%-d %b" if days else "%H:%M") if back % every == 0 else ""
        data.append(plots.Bar(label, number, f"{number:,} labels in the {name} to {end.strftime(spoken)} UTC"))
    return plots.bars(
        data,
        title=f"Labels a {name}",
        description=f"The last {len(counts)} {name}s, oldest first: {', '.join(map(str, counts))}.",
    )


def _reliability(figures: Figures) -> Markup:
    shown = figures.annotators[:MOST_SHOWN]
    rows = [plots.Range(one.name, *_ends(one.reliability), f"{one.name}: {_words(one.reliability)}") for one in shown]
    told = "; ".join(row.told for row in rows)
    return plots.intervals(rows, title="How often each annotator is right", description=f"With 95 % intervals. {told}.")


def _pulls(figures: Figures) -> Markup:
    meters = [("shown first", figures.position), ("longer answer", figures.length)]
    rows = [plots.Range(name, *_ends(one.share), f"{name}: {_words(one.share)}") for name, one in meters if one]
    if not rows:
        return Markup("")
    told = "; ".join(row.told for row in rows)
    return plots.intervals(
        rows, title="What draws people", description=f"Share of comparisons, with 95 % intervals. {told}.", mark=0.5
    )


def _ends(figure: Figure) -> tuple[float | None, float | None, float | None]:
    return figure.value, figure.low, figure.high


def _words(figure: Figure) -> str:
    if figure.value is None:
        return f"undefined: {figure.undefined}"
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:.0f} %"
    return f"{100 * figure.value:.0f} % ({100 * figure.low:.0f} to {100 * figure.high:.0f} %)"
