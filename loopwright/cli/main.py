"""The `loopwright` command: parses, calls the library, prints. Heavy imports happen inside the commands."""

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from typer.core import TyperCommand

from loopwright.cli import feedback_projects, feedback_store  # noqa: F401 -- they add their commands
from loopwright.cli.feedback import feedback_app
from loopwright.cli.serve import say_aside, serve_model, serve_reward
from loopwright.errors import ConfigError, LoopwrightError

if TYPE_CHECKING:
    from loopwright.loop import RunConfig

app = typer.Typer(
    name="loopwright",
    help="Raw text to an aligned model: pre-train, fine-tune, collect feedback, train a reward model, PPO, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at data files.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.command("serve-reward")(serve_reward)
app.command("serve-model")(serve_model)
app.add_typer(feedback_app, name="feedback")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, for scripts.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory. [default: runs/NAME]", show_default=False)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]

QUICKSTART = Path(__file__).with_name("quickstart.yaml")


def main() -> None:
    """The entry point: errors for people are one line on stderr and exit status 1, others show where they happened."""
    try:
        app()
    except LoopwrightError as error:
        _fail(str(error))
    except OSError as error:
        where = error.filename or "reading or writing failed"
        _fail(f"{where}: {error.strerror or error}; check the path, the disk and who may read and write there")


def _fail(sentence: str) -> NoReturn:
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(sentence.splitlines()))
    _stderr().print(f"error: {line}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


@app.command()
def quickstart(
    out: Out = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the whole run.")] = 0,
    as_json: Json = False,
) -> None:
    """The whole loop on the embedded example, in minutes: from raw text to a report."""
    _run_recipe(QUICKSTART, [f"seed={seed}"], out, as_json=as_json)


class _SpreadSeeds(TyperCommand):
    """`--seeds 0 1 2` means `--seeds 0 --seeds 1 --seeds 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            if re.fullmatch(r"-?\d+", arg) and spread and spread[-1].startswith("--seeds"):
                if spread[-1] == "--seeds":
                    spread.pop()
                arg = f"--seeds={arg}"
            spread.append(arg)
        return super().parse_args(ctx, spread)


@app.command(cls=_SpreadSeeds)
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe, or a run directory to go on with.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: ppo.clip_range=0.1")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seeds", metavar="N N …", help="Run once a seed, each in DIR/seed-N.")
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run a recipe's stages. Run it again to go on after a crash; what is done and unchanged is not repeated."""
    if seeds:
        _run_seeds(config, overrides or [], seeds, out, as_json=as_json)
    else:
        _run_recipe(config, overrides or [], out, as_json=as_json)


@app.command()
def show(
    run: Run,
    answer: Annotated[
        int | None, typer.Option("--answer", metavar="N", min=1, help="Trace the N-th evaluated answer to its labels.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What ran, what is stale and why, what came from what."""
    from loopwright.loop import refuse_several, seed_folders, status, versions

    if answer is not None:
        refuse_several(run)
        _show_answer(run, answer, as_json=as_json)
        return

    if folders := seed_folders(run):
        _show_seeds(run, folders, as_json=as_json)
        return
    found = status(run)
    if as_json:
        _print_json([stage.model_dump() for stage in found])
        return
    from loopwright.cli.tables import lineage_table, print_table, versions_tree

    print_table(lineage_table(run, found))
    if line := versions(run):
        print_table(versions_tree(line))


@app.command()
def rollback(
    run: Run,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version to go back to: v3.")],
    as_json: Json = False,
) -> None:
    """End the run's rounds with an earlier version; nothing is deleted."""
    from loopwright.cli.display import on_stderr
    from loopwright.loop import rollback as go_back

    with _interruptible(), on_stderr() as display:
        summary = go_back(run, version, display=display)
    _print_summary(summary, run, as_json=as_json)


@app.command()
def report(run: Run, as_json: Json = False) -> None:
    """Write the run's report.html anew."""
    from loopwright.evaluation.report import render
    from loopwright.loop import refuse_several

    refuse_several(run)
    path = render(run)
    if as_json:
        _print_json({"report": str(path)})
    else:
        _say(f"report: {path}")


@app.command()
def chat(
    model: Annotated[Path, typer.Argument(metavar="MODEL_OR_RUN", help="A Hugging Face folder or a run directory.")],
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Talk to a model: one message a line from stdin, until end of input."""
    from loopwright.cli.chat import Conversation, find_model, read_messages
    from loopwright.loop import refuse_several

    refuse_several(model)
    conversation = Conversation.open(
        find_model(model), temperature=temperature, max_new_tokens=max_new_tokens, seed=seed, say=say_aside
    )
    for message in read_messages(_stdin()):
        answer = conversation.reply(message)
        if as_json:
            _print_json({"role": "assistant", "content": answer}, indent=None)
        else:
            _say(answer)


@data_app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    kind: Annotated[
        str | None,
        typer.Option(
            help="comparison, ranking, rating, thumb, correction, spans, demonstration, prompt or text; else found out."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count a file's records and list every bad line. Exit status 1 when there is one."""
    from loopwright.cli.data_check import check_file

    found = check_file(file, kind)
    if as_json:
        _print_json(found._asdict() | {"bad": [row._asdict() for row in found.bad]})
    else:
        _say(f"{file}: {found.good} good {found.kind} rows, {len(found.bad)} bad")
        for row in found.bad:
            _say(f"{row.where}: {row.reason}")
    if found.bad:
        raise typer.Exit(1)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Around the imports, too: torch takes seconds."""
    try:
        yield
    except KeyboardInterrupt:
        _stderr().print("interrupted; the same command goes on from the last checkpoint")
        raise


@_interruptible()
def _run_recipe(config: Path, overrides: list[str], out: Path | None, *, as_json: bool) -> None:
    from loopwright.cli.display import on_stderr
    from loopwright.loop import run as run_loop

    settings, folder = _load(config, overrides)
    out = out or folder or Path("runs") / settings.name
    with on_stderr() as display:
        summary = run_loop(settings, out, display=display)
    _print_summary(summary, out, as_json=as_json)


def _print_summary(summary: dict[str, Any], out: Path, *, as_json: bool) -> None:
    from loopwright.cli.tables import print_table, versions_table

    if as_json:
        _print_json(summary)
        return
    if summary["versions"]:
        print_table(versions_table(summary["versions"]))
    if summary.get("stopped"):
        _say(summary["stopped"])
    _say(f"{summary['seconds']:.0f} s of work, at most {summary['peak_rss_mb']:.0f} MB")
    _say(f"report: {out / 'report.html'}")


@_interruptible()
def _run_seeds(config: Path, overrides: list[str], seeds: list[int], out: Path | None, *, as_json: bool) -> None:
    from loopwright.cli.display import on_stderr
    from loopwright.cli.tables import print_table, versions_table
    from loopwright.loop import run_seeds

    if len(seeds) == 1:
        raise ConfigError(f"--seeds {seeds[0]}: one seed is a run of its own; write --set seed={seeds[0]}")
    if written := [override for override in overrides if override.partition("=")[0].strip() == "seed"]:
        raise ConfigError(f"--seeds and --set {written[0]} contradict; keep one")
    settings, folder = _load(config, overrides)
    if folder:
        raise ConfigError(f"{folder}: is the run directory of one seed; give --seeds with the recipe")
    out = out or Path("runs") / f"{settings.name}-seeds"
    summary = run_seeds(settings, seeds, out, display=on_stderr, finished=_tell_failure)
    if as_json:
        _print_json(summary)
    elif summary["versions"]:
        print_table(versions_table(summary["versions"]))
    if failed := summary["failed"]:
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in failed.items())
        raise LoopwrightError(f"{len(failed)} of {len(seeds)} seeds failed: {reasons}")


def _load(config: Path, overrides: list[str]) -> tuple["RunConfig", Path | None]:
    """The settings, and the run directory to go on with when `config` is one."""
    from loopwright.loop import load_config, refuse_several

    refuse_several(config)
    own = config / "config.yaml"
    folder = config if own.is_file() else None
    path = own if folder else config
    return load_config(path, overrides, resolved=(path.parent / "artifacts").is_dir()), folder


def _show_answer(run: Path, number: int, *, as_json: bool) -> None:
    from loopwright.loop.trace import in_words, trace

    found = trace(run, number)
    if as_json:
        _print_json(found.model_dump(mode="json"))
        return
    for line in in_words(found):
        _say("".join(letter if letter.isprintable() else "\ufffd" for letter in line))


def _show_seeds(run: Path, folders: dict[int, Path], *, as_json: bool) -> None:
    from loopwright.cli.tables import print_table, seeds_table
    from loopwright.loop import read_summary, status

    found = {seed: status(folder) for seed, folder in folders.items()}
    if as_json:
        _print_json({str(seed): [stage.model_dump() for stage in stages] for seed, stages in found.items()})
    else:
        begun = {seed: folder for seed, folder in folders.items() if (folder / "summary.json").exists()}
        versions = {seed: read_summary(folder)["versions"] for seed, folder in begun.items()}
        print_table(seeds_table(run, found, versions))


def _tell_failure(seed: int, outcome: dict[str, Any] | str) -> None:
    if isinstance(outcome, str):
        _stderr().print(f"seed {seed} failed: {outcome}", style="red", markup=False, highlight=False, soft_wrap=True)


def _stdin() -> TextIO:
    """What a person types or a program pipes in; nothing where it was closed."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # no byte ends a conversation
    return sys.stdin or io.StringIO()


def _stderr() -> Console:
    return Console(stderr=True)


def _say(line: str) -> None:
    """Plain text on stdout: no markup, no wrapping, so that it can be copied and piped."""
    typer.echo(line)


def _print_json(value: Any, indent: int | None = 1) -> None:
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False))
