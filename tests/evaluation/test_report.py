import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loopwright.errors import ArtifactError
from loopwright.evaluation import charts
from loopwright.evaluation.exhibits import annotators
from loopwright.evaluation.figures import change, duration, figure, percent
from loopwright.evaluation.report import render
from loopwright.evaluation.run_files import RunFiles, StageFiles
from tests.evaluation.fake_run import HOSTILE, PARENTS, SECONDS, make


class Page(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def text(run):
    return render(run).read_text()


def test_every_section_is_there(text):
    for section in (
        "stages",
        "gains",
        "evaluation",
        "samples",
        "ppo",
        "losses",
        "preferences",
        "reward-model",
        "cleaning",
        "lineage",
        "again",
    ):
        assert f'id="{section}"' in text
    for shown in (
        "0.86",
        "0.54 to 0.62",
        "79\N{NO-BREAK SPACE}%",
        "4 min 12 s",
        "Best of 16 from SFT",
        "Always refuse",
        "clip_range: 0.2",
    ):
        assert shown in text, shown


def test_what_only_compares_is_not_on_the_line_from_base_to_ppo(text):
    headline = text.split('class="headline"')[1].split("</section>")[0]
    assert re.findall(r'gold-label">([^<]+)<', headline) == ["Base", "SFT", "PPO"]
    board = text.split('id="gains"')[1]
    assert re.findall(r'interval-label">([^<]+)<', board)[:4] == ["Base", "SFT", "PPO", "SFT, clean writers only"]


def test_every_cheaper_way_has_its_row(text):
    table = text.split("What cheap policies reach")[1].split("</table>")[0]
    heads = re.findall(r'<th scope="col">([^<]+)<', table)
    assert heads == ["Gold", "All", "Trap", "No trap", "Under attack"]
    rows = [re.split(r"<[^>]+>", row) for row in table.split("<tr>")[2:]]
    first = {row[1]: [cell for cell in row[2:] if cell.strip()][::2] for row in rows}
    assert list(first)[4:6] == ["Verb lookup", "Best of 16 from SFT, on 100 prompts"]
    assert first["Verb lookup"] == ["0.93", "0.62", "0.93", "1.00"]
    assert "–" in table.split("Best of 16")[1].split("</tr>")[0]  # nobody asked it under attack
    assert "SFT, clean writers only" in first and "Always refuse" in first


def test_best_of_n_stands_beside_one_answer_to_the_same_prompts(text):
    board = text.split("on 100 of the prompts")[1].split("</section>")[0]
    shown = re.findall(r'interval-label">([^<]+)</div>.*?interval-value"><b>([\d.]+)', board, re.DOTALL)
    assert shown[:3] == [("Best of 16 from SFT", "0.74"), ("SFT, one answer", "0.55"), ("PPO, one answer", "0.83")]


def test_hostile_text_stays_text(text):
    assert HOSTILE not in text and "&lt;script&gt;alert" in text
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_nothing_is_loaded_from_anywhere(text):
    page = Page(text)
    assert not [value for name, value in page.attributes if name in ("src", "href", "action", "data", "xlink:href")]
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")


def test_the_same_files_give_the_same_page(run, text, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(run, copy)
    assert render(copy).read_text() == text


@pytest.mark.parametrize("stage", PARENTS)
def test_a_stage_that_did_not_run_has_no_section(tmp_path, stage):
    page = render(make(tmp_path / "run", leave_out=(stage,))).read_text()
    assert f'<li class="stage-{stage}"' not in page
    section = {"evaluate": "samples", "ppo": "ppo", "reward": "preferences", "pretrain": "cleaning"}.get(stage)
    if stage == "reward":
        assert "Annotators and their habits" in page and "predicted probability" not in page
    elif section is not None:
        assert f'id="{section}"' not in page


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "config.yaml").write_text("name: new\n")
    page = render(tmp_path).read_text()
    assert "<section" in page and 'id="stages"' not in page


def test_broken_files_leave_their_section_out(tmp_path):
    run = make(tmp_path / "run")
    for path in (run / "artifacts").glob("*/*.json*"):
        if path.name != "manifest.json":
            path.write_text("{ broken")
    (run / "summary.json").write_text("")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "st')
    page = render(run).read_text()
    assert 'id="ppo"' in page and 'id="cleaning"' not in page and 'id="samples"' not in page


def test_what_is_no_run_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="no run is here"):
        render(tmp_path)


def test_the_summary_says_which_artifact_is_current(tmp_path):
    run = make(tmp_path / "run")
    current = next((run / "artifacts").glob("ppo-*"))
    stale = current.with_name("ppo-000000000000")
    shutil.copytree(current, stale)
    manifest = json.loads((stale / "manifest.json").read_text()) | {
        "created": "2030-01-01",
        "metrics": {"reward": 77.77},
    }
    (stale / "manifest.json").write_text(json.dumps(manifest))
    assert "77.77" not in render(run).read_text()


def test_samples_follow_their_rule(text):
    # failures: the last version's lowest golds, in rising order
    failures = text.split(">Failures</h3>")[1].split("</section>")[0]
    shown = [float(value) for value in re.findall(r'ink-ppo">PPO</span><b class="\w+">([\d.]+)', failures)]
    assert len(shown) == 4 and shown == sorted(shown)


def test_the_time_bar_is_full(text):
    bar = text.split('class="timebar"')[1].split("</svg>")[0]
    widths = [float(value) for value in re.findall(r'width="([\d.]+)%"', bar)]
    assert len(widths) == len(SECONDS) and sum(widths) == pytest.approx(100, abs=0.01)


def test_nice_ticks_cover_the_values():
    assert charts.nice_ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert charts.nice_ticks(-0.3, 1.9) == [-1.0, 0.0, 1.0, 2.0]
    ticks = charts.nice_ticks(5.0, 5.0)
    assert ticks[0] <= 5.0 <= ticks[-1]


def test_a_line_chart_draws_what_there_is_to_draw():
    rising = [(1.0, 0.0), (2.0, 4.0)]
    chart = charts.line_chart("t", {"a": rising, "same": list(rising), "single": [(1.0, 9.0)]})
    assert [line.label for line in chart.lines] == ["a"] and chart.lines[0].last == "4"
    assert chart.lines[0].end == (charts.WIDTH - charts.RIGHT, charts.TOP)
    assert charts.line_chart("t", {"single": [(1.0, 9.0)]}) is None
    flat = charts.line_chart("t", {"a": [(1.0, 0.0), (2.0, 0.0)]}, from_zero=True)
    assert flat.y_ticks[0].label == "0"
    few = charts.line_chart("t", {"a": [(10.0, 0.0), (12.0, 1.0)]})
    assert [tick.label for tick in few.x_ticks] == ["10", "11", "12"]  # there is no step between two steps


def test_right_is_by_whoever_said_so():
    def shown(**stages):
        known = {"annotators": {"a": {"pairs": 9, "accuracy": 0.9}}}
        given = {
            name: StageFiles(name, Path(name), {"metrics": known if name == "feedback" else {}}) for name in stages
        }
        return annotators(RunFiles(Path("run"), None, {}, {}, given))

    assert shown(feedback=1, world=1)["right_by"] == "the exact judges"
    assert shown(feedback=1, dataset=1, annotator=1)["right_by"] == "the model that lends annotators its taste"


def test_moving_average_keeps_straight_lines():
    line = [(float(x), 2.0 * x) for x in range(100)]
    for (_, got), (_, want) in zip(charts.moving_average(line), line, strict=True):
        assert got == pytest.approx(want)


def test_lineage_runs_from_left_to_right():
    graph = charts.lineage({"a": [], "b": ["a"], "c": ["a", "b"]}, {"a": "0123456789abcdef"}, {})
    at = {node.title: node.x for node in graph.nodes}
    assert at["a"] < at["b"] < at["c"] and len(graph.edges) == 3
    assert graph.nodes[0].id == "0123456789ab"


def test_numbers_for_people():
    assert [duration(s) for s in (3.14, 41, 125, 4325)] == ["3.1 s", "41 s", "2 min 05 s", "1 h 12 min"]
    assert figure(-0.5) == "−0.50" and figure(12000) == "12,000" and figure(None) == "–"
    sign = "\N{NO-BREAK SPACE}%"  # of which no line is broken
    assert percent(0.861) == f"86{sign}" and change(1.034) == f"+3.4{sign}" and change(0.99) == f"−1.0{sign}"


def test_the_watch_is_drawn_over_kl_with_its_marks(tmp_path):
    folder = make(tmp_path)
    assert "Reward and held-out reward" not in render(folder).read_text()
    manifest = next((folder / "artifacts").glob("ppo-*/manifest.json"))
    found = json.loads(manifest.read_text())
    found["metrics"]["watch"] = {"stopped_at": 15, "rolled_back_to": 5, "reason": "they parted"}
    manifest.write_text(json.dumps(found))
    looks = [(0, 0.0, 0.0, 0.0), (5, 1.0, 1.0, 0.8), (10, 2.0, 1.5, 0.4), (15, 4.0, 2.0, -0.2)]
    with (folder / "metrics.jsonl").open("a") as file:
        for step, kl, proxy, held_out in looks:
            row = {"stage": "ppo", "step": step, "watch_kl": kl, "watch_proxy": proxy, "watch_held_out": held_out}
            row |= {"watch_spread": 0.1 * step, "watch_unsure": 0.2 * step, "watch_repetition": 0.01 * step}
            file.write(json.dumps(row) + "\n")
    page = render(folder).read_text()
    panel = page[page.index("Reward and held-out reward") :].split("</figure>")[0]
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    # Upright lines a quarter of the way along and at the end: KL 1 and KL 4 of 4, not steps 5 and 15.
    assert (
        f'<line class="mark" x1="{left + (right - left) / 4}"' in panel and f'<line class="mark" x1="{right}"' in panel
    )
    assert "back to step 5" in panel and "stopped at step 15" in panel and "held-out reward" in panel
    panel = page[page.index("Do the reward models differ?") :].split("</figure>")[0]
    assert "watch spread" in panel and "watch unsure" in panel and ">Repetition<" in page


def test_a_stage_that_was_left_behind_is_in_no_chart(tmp_path):
    """After a rollback, or another recipe, its lines stay in metrics.jsonl; one that has begun has a scratch folder."""
    folder = make(tmp_path)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(f"{json.dumps({'stage': 'v2.dpo', 'step': step, 'loss': 1 / step})}\n" for step in (1, 2))
    assert "V2 · DPO" not in render(folder).read_text()
    (folder / "scratch" / "v2.dpo-0123456789ab").mkdir(parents=True)
    assert "V2 · DPO" in render(folder).read_text()
