"""Templates, as replies."""

from datetime import UTC, datetime
from pathlib import Path

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.responses import HTMLResponse

from loopwright import __version__

HERE = Path(__file__).parent


def page(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A template as a reply."""
    environment: Environment = request.app.state.templates
    return HTMLResponse(environment.get_template(template).render(version=__version__, **values), status)


def templates() -> Environment:
    """Escapes everything; a name that is not there is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(when=when, number=number, percent=percent, duration=duration)
    return environment


def when(at: float) -> Markup:
    """A time for people and for programs. UTC, which the page says once."""
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M")
    )


def number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """To the precision that matters: 14 s, 3.5 min, 2.1 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"
