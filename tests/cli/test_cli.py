"""The command line: exit statuses, one-line errors, JSON for scripts."""

import errno
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import loopwright.loop
import loopwright.loop.config
import loopwright.loop.execution
import loopwright.loop.lineage
import loopwright.loop.plan
from loopwright.cli import main as cli
from loopwright.cli.display import display_for
from loopwright.cli.tables import lineage_table, print_table, versions_table, versions_tree
from loopwright.loop import StageStatus, Version
from tests.loop import test_rounds
from tests.loop.toys import RECIPE, TOYS, no_report


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """The commands, with toy stages in place of the real ones."""

    def load_stages(names):
        return {name: stage for name, stage in TOYS.items() if name in set(names)}

    monkeypatch.setattr(loopwright.loop.config, "load_stages", load_stages)
    monkeypatch.setattr(loopwright.loop.plan, "load_stages", load_stages)
    monkeypatch.setattr(loopwright.loop.execution, "_report", no_report)
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(RECIPE)


def call(monkeypatch, capsys, *arguments):
    """(exit status, stdout, stderr) of a command."""
    monkeypatch.setattr(sys, "argv", ["loopwright", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    said = capsys.readouterr()
    return exit.value.code or 0, said.out, said.err


def test_run_prints_figures_and_where_the_report_is(toys, monkeypatch, capsys):
    status, out, err = call(monkeypatch, capsys, "run", "toy.yaml")
    assert status == 0
    assert "gold" in out
    assert "report: runs/toy/report.html" in out
    assert "[1/3] seeds" in err  # progress is not in the way of what a script reads


def test_run_json_is_the_summary_and_nothing_else(toys, monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "run", "toy.yaml", "--set", "first.rate=0.2", "--out", "here", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(Path("here/summary.json").read_text())
    assert "rate: 0.2" in Path("here/config.yaml").read_text()


def test_a_run_directory_goes_on_where_it_is(toys, monkeypatch, capsys):
    call(monkeypatch, capsys, "run", "toy.yaml", "--set", "first.rate=0.2")
    for again in ("runs/toy", "runs/toy/config.yaml"):
        status, _, err = call(monkeypatch, capsys, "run", again)
        assert (status, err.count("not run again")) == (0, 3)


def test_quickstart_is_its_recipe_with_a_seed(toys, monkeypatch, capsys):
    monkeypatch.setattr(cli, "QUICKSTART", Path("toy.yaml"))
    status, out, _ = call(monkeypatch, capsys, "quickstart", "--seed", "3", "--out", "here", "--json")
    assert status == 0
    assert json.loads(out)["seed"] == 3
    assert json.loads(out) == json.loads(Path("here/summary.json").read_text())


def test_report_is_written_anew(toys, monkeypatch, capsys):
    call(monkeypatch, capsys, "run", "toy.yaml")
    path = Path("runs/toy/report.html")
    path.unlink()
    assert call(monkeypatch, capsys, "report", "runs/toy") == (0, f"report: {path}\n", "")
    assert "<html" in path.read_text()
    _, out, _ = call(monkeypatch, capsys, "report", "runs/toy", "--json")
    assert json.loads(out) == {"report": str(path)}


def test_show_tells_what_is_stale_and_why(toys, monkeypatch, capsys):
    call(monkeypatch, capsys, "run", "toy.yaml")
    path = Path("runs/toy/config.yaml")
    path.write_text(path.read_text().replace("  rate: 0.1\n", "  rate: 0.3\n", 1))
    status, out, _ = call(monkeypatch, capsys, "show", "runs/toy", "--json")
    found = {stage["stage"]: stage for stage in json.loads(out)}
    assert status == 0
    assert [found[name]["state"] for name in TOYS] == ["done", "stale", "stale"]
    assert found["first"]["reasons"] == ["config changed first.rate: 0.1 → 0.3"]
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = call(monkeypatch, capsys, "show", "runs/toy")
    assert "config changed first.rate: 0.1 → 0.3" in out


def test_show_draws_the_line_of_versions(monkeypatch, capsys, tmp_path):
    for module in (loopwright.loop.config, loopwright.loop.plan):
        monkeypatch.setattr(module, "load_stages", lambda names: test_rounds.TOYS)
    monkeypatch.setenv("COLUMNS", "200")
    values = test_rounds.recipe({"v1-v2": test_rounds.METHOD | {"evaluate": {}}, "v3": test_rounds.METHOD})
    test_rounds.go(tmp_path, values)
    _, out, _ = call(monkeypatch, capsys, "show", str(tmp_path / "run"))
    assert [line.rstrip() for line in out.split("┘\n")[1].splitlines()] == [
        "sft, where the rounds began",
        "└── v1 by ppo, gained",
        "    10 labels of v1.feedback, on answers of sft",
        "    └── v2 by ppo, gained",
        "        10 labels of v2.feedback, on answers of v1",
        "        10 labels of v1.feedback",
        "        └── v3 by ppo",
        "            10 labels of v3.feedback, on answers of v2",
        "            20 labels of v1.feedback, v2.feedback",
    ]


def test_a_version_says_how_good_it_is():
    gold, gain = ({"mean": mean, "low": mean - 0.25, "high": mean + 0.25} for mean in (0.5, -0.125))
    one = Version(name="v1", after=None, methods=("rejection", "ppo"), labels=(), gold=gold, gain=gain, gained=False)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(versions_tree([one, one.model_copy(update={"name": "v2", "after": "v1", "gained": None})]))
    said = "gold 0.500 (-0.125, -0.375 to +0.125)"
    assert [line.rstrip() for line in console.export_text().splitlines()] == [
        "a model from outside, where the rounds began",
        f"└── v1 by rejection, then ppo: {said}, no sure gain",
        f"    └── v2 by rejection, then ppo: {said}",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "error: none.yaml: no such file; check the path of the config"),
        (["run", "toy.yaml", "--set", "first.step=3"], "unknown key first.step; did you mean first.steps?"),
        (["show", "nowhere"], "error: nowhere: is no run directory (it has no config.yaml)"),
        (["report", "nowhere"], "error: nowhere: "),
        (["data", "check", "none.jsonl"], "error: none.jsonl: no such file; check the path"),
        (["run", "toy.yaml", "--out", "toy.yaml"], "error: toy.yaml: cannot be a run directory (file exists); choose"),
        (["run", "toy.yaml", "--out", "toy.yaml/x"], "error: toy.yaml/x: cannot be a run directory (not a directory)"),
        (["run", "toy.yaml", "--set", "first.steps=1\nx: 2"], "not valid YAML"),
        (["show", "toy.yaml"], "error: toy.yaml: is no run directory"),
        (["report", "toy.yaml"], "error: toy.yaml: no run is here"),
        (["chat", "toy.yaml"], "error: toy.yaml: neither"),
        (["chat", "nowhere"], "error: nowhere: neither a Hugging Face folder (no config.json) nor a run directory"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_1(toys, monkeypatch, capsys, arguments, message):
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_missed_bar_is_exit_status_1(toys, monkeypatch, capsys):
    arguments = ("run", "toy.yaml", "--set", "first.require={norm: {max: 0.001}}")
    status, _, err = call(monkeypatch, capsys, *arguments)
    assert status == 1
    assert "first.require.norm" in err.splitlines()[-1]


def test_what_the_system_refuses_is_one_line(toys, monkeypatch, capsys):
    def refused(out):
        raise PermissionError(errno.EACCES, "Permission denied", f"{out}/report.html")

    monkeypatch.setattr(loopwright.loop.execution, "_report", refused)
    status, _, err = call(monkeypatch, capsys, "run", "toy.yaml")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: runs/toy/report.html: Permission denied; check the path")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_results_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "once"}\n')
    command = [sys.executable, "-m", "loopwright", "data", "check", "rows.jsonl"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: reading or writing failed: No space left on device; "
        "check the path, the disk and who may read and write there\n"
    )


def test_a_reader_that_went_away_is_no_traceback(tmp_path):
    """`loopwright … | head -0`"""
    (tmp_path / "rows.jsonl").write_text("{\n" * 20_000)  # more than a pipe holds
    command = [sys.executable, "-m", "loopwright", "data", "check", "rows.jsonl", "--kind", "prompt"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_ctrl_c_is_one_sentence_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\nworld: {documents: 30000}\n")
    command = [sys.executable, "-m", "loopwright", "run", "r.yaml"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "[1/1] world\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "interrupted; the same command goes on from the last checkpoint\n"
    assert process.returncode == 130
    smaller = [*command, "--set", "world.documents=9"]
    assert subprocess.run(smaller, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_what_is_our_mistake_shows_its_traceback(toys, monkeypatch):
    def broken(out):
        raise ZeroDivisionError

    monkeypatch.setattr(loopwright.loop.execution, "_report", broken)
    monkeypatch.setattr(sys, "argv", ["loopwright", "run", "toy.yaml"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_wrong_option_is_exit_status_2():
    command = [sys.executable, "-m", "loopwright", "run", "--nope"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_data_check_lists_every_bad_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "c.jsonl"
    good = {"id": "1", "responses": ["a", "b"], "choice": 0}
    lines = [json.dumps(good), "{", json.dumps(good | {"choice": 5}), json.dumps(good | {"id": "2"})]
    path.write_text("\n".join(lines) + "\n")
    status, out, _ = call(monkeypatch, capsys, "data", "check", str(path))
    assert status == 1
    assert out.startswith(f"{path}: 2 good comparison rows, 2 bad\n{path}:2: ")
    assert f"{path}:3: " in out
    status, out, _ = call(monkeypatch, capsys, "data", "check", str(path), "--json")
    assert status == 1
    assert [row["line"] for row in json.loads(out)["bad"]] == [2, 3]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"id": "1", "responses": ["a", "b"], "choice": None, "annotator": "x"}, "comparison"),
        ({"id": "1", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]}, "ranking"),
        ({"id": "1", "responses": ["a"], "scores": {"kind": 3}, "higher_is_better": True}, "rating"),
        ({"id": "1", "prompt": [{"role": "user", "content": "?"}], "response": "!"}, "demonstration"),
        ({"id": "1", "messages": [{"role": "user", "content": "?"}]}, "prompt"),
        ({"text": "once upon a time"}, "text"),
    ],
)
def test_data_check_knows_the_kinds(tmp_path, monkeypatch, capsys, row, kind):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    status, out, err = call(monkeypatch, capsys, "data", "check", str(path), "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["kind"], found["good"], found["bad"]) == (kind, 1, [])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"prompt": "?", "chosen": "a", "rejected": "b"}', "rows of chosen, prompt, rejected are of no kind that is"),
        ("", "rows.jsonl: is empty; it needs at least one row"),
    ],
)
def test_data_check_sends_rows_of_other_tools_to_the_import(tmp_path, monkeypatch, capsys, rows, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(rows)
    status, out, err = call(monkeypatch, capsys, "data", "check", str(path))
    assert status == 1 and not out and message in err


def test_data_check_of_a_file_without_a_good_row_lists_them_all(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("{\n}\n")
    status, out, _ = call(monkeypatch, capsys, "data", "check", str(path), "--kind", "prompt")
    assert status == 1
    assert len(out.splitlines()) == 3


def test_plain_lines_come_at_each_quarter(capsys):
    with display_for(Console(stderr=True, force_terminal=False)) as display, display.progress("work", 8, 2) as bar:
        for step in range(6):
            bar.advance(loss=step)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  work: 50 % loss 1", "  work: 75 % loss 3", "  work: 100 % loss 5"]


def test_counts_are_shown_in_full_and_measures_to_four_digits(capsys):
    with display_for(Console(stderr=True, force_terminal=False)) as display, display.progress("work", 1) as bar:
        bar.advance(rows=37630, bad=7, loss=0.123456, rate=37630.4)
    assert capsys.readouterr().err == "  work: 100 % rows 37,630  bad 7  loss 0.1235  rate 3.763e+04\n"


def test_bars_show_time_left_and_figures():
    console = Console(force_terminal=True, width=120, record=True, stderr=True)
    with display_for(console) as display, display.progress("work", 8, 2) as bar:
        bar.advance(3, loss=0.25)
        display.log("a [line] with brackets")
        display._bars.refresh()
        shown = console.export_text()
    assert "5/8" in shown
    assert "left" in shown
    assert "loss 0.25" in shown
    assert "a [line] with brackets" in shown


def test_versions_stand_side_by_side():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    win_rate = {"mean": 0.5, "low": 0.25, "high": 0.75}
    versions = {
        "sft": {"gold": 0.25, "kl": None, "adversarial": {"gold": None}},
        "ppo": {"gold": 0.5, "kl": 1.5, "win_rate_vs_sft": win_rate, "adversarial": {"gold": None}},
    }
    console.print(versions_table(versions))
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert rows == [["gold", "0.250", "0.500"], ["kl", "–", "1.500"], ["win_rate_vs_sft", "–", "0.500 [0.250, 0.750]"]]


def test_lineage_names_whole_folders():
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    parents = {"policy": "artifacts/v1.reinforce_plus_plus-0123456789ab", "reward": "f" * 64}
    console.print(lineage_table(Path("run"), [StageStatus(stage="ppo", state="done", parents=parents)]))
    shown = console.export_text()
    assert "policy: v1.reinforce_plus_plus-0123456789ab " in shown and f"reward: {'f' * 12} " in shown


def test_the_quickstart_recipe_is_valid_and_comes_with_the_package():
    config = loopwright.loop.load_config(cli.QUICKSTART)
    assert list(config.sections) == ["world", "pretrain", "sft", "sft_clean", "feedback", "reward", "ppo", "evaluate"]
    assert config.sections["sft_clean"].model_dump() == config.sections["sft"].model_dump()  # only the data differ


def test_a_table_that_is_piped_is_not_folded(monkeypatch, capsys):
    table = versions_table({f"version-{i}": {"reward": 0.123} for i in range(9)})
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(table)
    assert "version-8" in capsys.readouterr().out.splitlines()[2]
    monkeypatch.setenv("COLUMNS", "60")
    print_table(table)
    assert all(len(line) <= 60 for line in capsys.readouterr().out.splitlines())
