"""`loopwright feedback project | token | invite | stats | agree | simulate`: a store's projects, from the terminal.

They open the store itself, as `feedback init` and `serve` do: whoever may read its file may do all of this.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopwright.cli.feedback import STORE, Json, feedback_app
from loopwright.cli.feedback_store import URL, Store, Url
from loopwright.errors import ConfigError

if TYPE_CHECKING:
    from loopwright.feedback.figures import Figure, Figures
    from loopwright.feedback.store.projects import Project

project_app = typer.Typer(help="What people are asked.", no_args_is_help=True)
token_app = typer.Typer(help="What lets programs in.", no_args_is_help=True)
feedback_app.add_typer(project_app, name="project")
feedback_app.add_typer(token_app, name="token")

Name = Annotated[str, typer.Option("--project", metavar="NAME", help="A project of the store.")]
BY = "command line"  # in the audit log: whoever can open the store
DAY_SECONDS = 86_400.0


@project_app.command("create")
def create_project(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    kind: Annotated[str, typer.Option(help="comparison, ranking, rating, thumb, demonstration, correction, …")],
    settings: Annotated[
        Path | None, typer.Option("--settings", metavar="FILE", help="YAML: overlap, criteria, … (docs/annotate.md).")
    ] = None,
    guideline: Annotated[Path | None, typer.Option(metavar="FILE", help="What labelers read first, Markdown.")] = None,
    store: Store = STORE,
) -> None:
    """Make a project in a store."""
    from loopwright.config import build, read_yaml
    from loopwright.feedback.projects import ProjectConfig
    from loopwright.feedback.store.administration import make_project
    from loopwright.feedback.store.migrate import open_store

    written = {} if settings is None else read_yaml(settings)
    if "kind" in written:
        raise ConfigError(f"{settings}: kind = {written['kind']} is given by --kind; leave it out")
    config = build(ProjectConfig, {"kind": kind, **written}, str(settings or "feedback project create"))
    text = "" if guideline is None else guideline.read_text(encoding="utf-8")
    with open_store(store) as database:
        made = database.write(lambda c: make_project(c, BY, name, config, guideline=text, now=time.time()))
    typer.echo(f"project {made.name} asks for a {made.config.kind}, of {made.config.overlap} people an item")


@token_app.command("create")
def create_token(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Made where it is not there, without a password.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="label, read, publish, manage or admin. Repeat it. [read publish]"),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Make the account a manager of this project.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Until it runs out.")] = 90,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead of showing it.")
    ] = None,
    store: Store = STORE,
) -> None:
    """Make a token for a program. It is shown now and never again."""
    from loopwright.feedback.store import administration, people
    from loopwright.feedback.store.migrate import open_store
    from loopwright.feedback.store.projects import find_project

    now = time.time()

    def job(connection: Any) -> str:
        found = people.find_account(connection, account)
        owner = found or administration.make_account(connection, BY, account, "annotator", now=now)
        if project is not None:
            there = find_project(connection, project).id
            administration.set_member(connection, BY, there, owner.id, "manager", now=now)
        scopes = scope or ["read", "publish"]
        expires = now + days * DAY_SECONDS
        return administration.make_token(connection, BY, owner.id, "command line", scopes, expires=expires, now=now)

    with open_store(store) as database:
        token = database.write(job)
    if out is None:
        typer.echo(token)
        return
    with os.fdopen(os.open(out, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(token + "\n")
    typer.echo(f"{out}: the token of {account}; export LOOPWRIGHT_FEEDBACK_TOKEN=$(cat {out})")


@feedback_app.command()
def invite(
    project: Annotated[str | None, typer.Option("--project", metavar="NAME", help="None: an administrator.")] = None,
    role: Annotated[str, typer.Option(help="annotator or manager of the project; admin of everything.")] = "annotator",
    skill: Annotated[list[str] | None, typer.Option("--skill", help="That items may need. Repeat it.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Links; each is for one person.")] = 1,
    days: Annotated[int, typer.Option(min=1, max=90, help="Until they run out.")] = 7,
    store: Store = STORE,
    url: Url = URL,
) -> None:
    """Make links by which people get an account. They are shown now and never again."""
    from loopwright.feedback.store import administration
    from loopwright.feedback.store.migrate import open_store
    from loopwright.feedback.store.projects import find_project

    now = time.time()

    def job(connection: Any) -> str:
        there = None if project is None else find_project(connection, project).id
        return administration.invite(
            connection, BY, there, role, skills=skill or (), expires=now + days * DAY_SECONDS, now=now
        )

    with open_store(store) as database:
        for _ in range(count):
            typer.echo(f"{url.rstrip('/')}/invitation/{database.write(job)}")


@feedback_app.command()
def stats(project: Name, store: Store = STORE, as_json: Json = False) -> None:
    """How far a project is, who does how much and how well, how long it will take."""
    from loopwright.cli.tables import figures_table, print_table

    with _figures_of(store, project) as (found, figures, progress):
        if as_json:
            typer.echo(json.dumps({"progress": progress, **figures.model_dump(mode="json")}, indent=1))
            return
        typer.echo(
            f"{found.name}: {progress['labels']:,} of {progress['labels'] + progress['needed']:,} labels of "
            f"{progress['items']:,} items, {progress['flagged']:,} flagged"
            + (f", {figures.imported:,} imported" if figures.imported else "")
        )
        print_table(figures_table(figures))
        for which, meter in (("answer shown first", figures.position), ("longer answer", figures.length)):
            if meter is not None:
                typer.echo(f"the {which} was preferred: {_shown(meter.share)} (needs {meter.needed} comparisons)")
        days = figures.work.days
        typer.echo(f"done in {days:.1f} days" if days is not None else f"done in: {figures.work.forecast_undefined}")


@feedback_app.command()
def agree(project: Name, store: Store = STORE, as_json: Json = False) -> None:
    """How far people agree on the same item, beyond chance."""
    with _figures_of(store, project) as (_, figures, _progress):
        agreement = figures.agreement
        if as_json:
            typer.echo(agreement.model_dump_json(indent=1))
            return
        for name, figure in (
            ("percent agreement", agreement.percent),
            ("Krippendorff's alpha, nominal", agreement.nominal),
            ("Krippendorff's alpha, ordinal", agreement.ordinal),
            ("Krippendorff's alpha, interval", agreement.interval),
            (f"Fleiss' kappa, of items that {agreement.fleiss_people} judged", agreement.fleiss),
            *((f"Cohen's kappa, {' and '.join(pair.annotators)}", pair.kappa) for pair in agreement.pairs),
        ):
            typer.echo(f"{name}: {_shown(figure)}")


@feedback_app.command()
def simulate(  # noqa: PLR0913 -- one argument an option
    project: Name,
    prompts: Annotated[Path, typer.Option(help="JSON lines of the prompts that are asked about, with their tags.")],
    world: Annotated[str, typer.Option(help="Whose judges know what answers are worth.")] = "front_desk",
    annotators: Annotated[int, typer.Option(min=1, max=500)] = 12,
    think: Annotated[float, typer.Option(min=0.0, help="Mean seconds on a task; 0: full speed.")] = 0.0,
    labels: Annotated[int | None, typer.Option(min=1, help="That each gives at most. [default: all there is]")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Wait for more where nothing is left, until Ctrl-C.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    store: Store = STORE,
    url: Url = URL,
) -> None:
    """Let simulated annotators label at the server, by the API that people's screens use."""
    from loopwright.data.readers import read_records
    from loopwright.feedback.annotators import team
    from loopwright.feedback.simulation import World, work
    from loopwright.feedback.store.migrate import open_store
    from loopwright.feedback.store.projects import find_project
    from loopwright.feedback.store.simulated import hire
    from loopwright.schemas import Prompt
    from loopwright.worlds import WORLDS

    if world not in WORLDS:
        raise ConfigError(f"--world {world}: unknown; choose from {', '.join(WORLDS)}")
    known = World.of(read_records(prompts, Prompt).records, WORLDS[world].judges)
    with open_store(store) as database:
        found = database.read(lambda c: find_project(c, project))
        labelers = hire(database, found.id, team(annotators, seed), now=time.time())
    given = work(
        url, found.id, found.config, labelers, known, seed=seed, think_seconds=think, most=labels, stay=lambda: stay
    )
    typer.echo(f"{given:,} labels of {annotators} simulated annotators")


@contextmanager
def _figures_of(store: str, name: str) -> Iterator[tuple["Project", "Figures", dict[str, int]]]:
    from loopwright.feedback.figures import figures
    from loopwright.feedback.store.judged import read_judged
    from loopwright.feedback.store.migrate import open_store
    from loopwright.feedback.store.projects import find_project
    from loopwright.feedback.store.reports import progress

    with open_store(store) as database:
        found = database.read(lambda c: find_project(c, name))
        done = database.read(lambda c: progress(c, found.id))
        judged = database.read(lambda c: read_judged(c, found))
        yield found, figures(judged, found.config, remaining=done.needed, now=time.time()), done._asdict()


def _shown(figure: "Figure") -> str:
    """A number with its interval, or why there is none."""
    if figure.value is None:
        return f"none ({figure.undefined})"
    interval = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{interval}, of {figure.of:,}"
