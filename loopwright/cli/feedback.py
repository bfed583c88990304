"""`loopwright feedback`: the annotation app and its store; files of other tools to our records, and back."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from loopwright.errors import ConfigError

feedback_app = typer.Typer(help="What people say: ask them in a browser, import, export.", no_args_is_help=True)

STORE = "sqlite:///feedback.db"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, for scripts.")]
Format = Annotated[str, typer.Argument(metavar="FORMAT", help="One of the formats in docs/import.md.")]


@feedback_app.command("import")
def import_(  # noqa: PLR0913 -- one argument an option
    format: Format,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".jsonl, .json, .csv, .tsv or .parquet.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="A new folder for the records.", show_default=False)
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Or: a project to bring items and labels into.")
    ] = None,
    store: Annotated[str, typer.Option("--store", metavar="URL", help="The project's store.")] = STORE,
    without_labels: Annotated[
        bool, typer.Option("--without-labels", help="Of --project: have the answers judged afresh.")
    ] = False,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="ROLE=NAME", help="What a column is called: prompt=question. Repeat it."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="alpaca-eval: the answers that the rows were compared with.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="FIELD=VALUE", help="Only rows with this value: split=train. Repeat it."),
    ] = None,
    max_bad_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="More bad rows than this is an error.")] = 0.05,
    as_json: Json = False,
) -> None:
    """Read feedback files as comparisons, rankings, ratings, … of ours."""
    from loopwright.cli.display import on_stderr
    from loopwright.data.importers import import_feedback

    if (out is None) == (project is None):
        raise ConfigError("say where it goes: --out FOLDER for records, or --project NAME for items and labels")
    _store_has_an_effect(store, project)
    if without_labels and project is None:
        raise ConfigError("--without-labels has no effect without --project; leave it out")
    settings: Any = {"columns": _assignments("--columns", columns or []), "where": _assignments("--where", where or [])}
    settings |= {"reference": reference, "max_bad_share": max_bad_share}
    if project is not None:
        from loopwright.cli.feedback_exchange import import_into_project

        report, brought = import_into_project(store, project, format, files, not without_labels, settings)
    else:
        assert out is not None
        with on_stderr() as display:
            report, brought = import_feedback(format, files, out, **settings, display=display), None
    if as_json:
        about = {} if brought is None else brought._asdict()
        typer.echo(json.dumps(asdict(report) | about, indent=1, ensure_ascii=False))
        return
    for name, count in report.records.items():
        typer.echo(f"{name}: {count:,}" if out is None else f"{out / name}: {count:,}")
    if brought is not None:
        for line in brought.told(str(project)):
            typer.echo(line)
    for kind, noted in (("warning", report.warnings), ("skipped", report.skipped)):
        for reason, found in noted.items():
            typer.echo(f"{kind}: {_shown(reason)} ({found['count']:,}, first {_shown(found['first'])})")
    if report.fields_left:
        left = ", ".join(f"{_shown(name)} ({count:,})" for name, count in report.fields_left.items())
        typer.echo(f"no place in our records: {left}")
    if report.bad_rows:
        listed = f", listed in {report.bad_rows_file}" if report.bad_rows_file else ""
        typer.echo(f"{report.bad_rows:,} of {report.rows:,} rows are bad{listed}")


@feedback_app.command()
def export(
    format: Format,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Our records, JSON lines.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="A new file.", show_default=False)] = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Or: what people said in this project.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Of its records, where it makes several: comparisons or corrections.")
    ] = None,
    store: Annotated[str, typer.Option("--store", metavar="URL", help="The project's store.")] = STORE,
    as_json: Json = False,
) -> None:
    """Write records in another tool's format, and say what that loses."""
    from loopwright.cli.display import on_stderr
    from loopwright.data.exporters import export_feedback

    if out is None:
        raise ConfigError("--out is missing; name the new file")
    if (file is None) == (project is None):
        raise ConfigError("say what is exported: a FILE of records, or --project NAME of a store")
    _store_has_an_effect(store, project)
    if kind is not None and project is None:
        raise ConfigError(f"--kind {kind} has no effect on a file; leave it out")
    with on_stderr() as display, TemporaryDirectory() as temporary:
        if file is None:
            from loopwright.cli.feedback_exchange import write_records_of

            file = write_records_of(store, str(project), kind, Path(temporary))
        report = export_feedback(format, file, out, display=display)
    account = report.account
    if as_json:
        about = {"format": report.format, "source": project or report.source, "out": report.out}
        typer.echo(json.dumps(about | asdict(account), indent=1, ensure_ascii=False))
        return
    typer.echo(f"{out}: {account.rows:,} rows of {account.records:,} records")
    if account.lost:
        lost = ", ".join(f"{name} ({count:,})" for name, count in account.lost.items())
        typer.echo(f"lost, for the format has no place for it: {lost}")
    for reason, count in (account.left_out | account.changed).items():
        typer.echo(f"{reason}: {count:,}")


def _store_has_an_effect(store: str, project: str | None) -> None:
    if project is None and store != STORE:
        raise ConfigError("--store has no effect without --project; name the project")


def _assignments(option: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{option} {text}: found no NAME=VALUE; write for example {option} prompt=question")
        if name in found:
            raise ConfigError(f"{option} {name}: given twice; keep one")
        found[name] = value
    return found


def _shown(text: str) -> str:
    """What a file says, on one line and without codes that a terminal obeys."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
