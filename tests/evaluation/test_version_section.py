import json
import re
import shutil

import pytest

from loopwright.evaluation.figures import label_of, style_of
from loopwright.evaluation.report import render
from loopwright.evaluation.run_files import read_run
from loopwright.evaluation.sections import stage_title
from loopwright.evaluation.version_section import findings, part_in_words, versions
from tests.evaluation import fake_rounds, fake_run
from tests.evaluation.fake_run import HOSTILE
from tests.evaluation.test_report import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_rounds.make(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def text(run):
    return render(run).read_text()


@pytest.fixture(scope="module")
def section(text):
    return text.split('id="versions"')[1].split("</section>")[0]


def test_one_improved_policy_has_no_section(tmp_path):
    folder = fake_run.make(tmp_path)
    assert versions(read_run(folder)) is None and 'id="versions"' not in render(folder).read_text()


def test_every_version_has_its_line(section):
    body = section.split("<tbody>")[1].split("</tbody>")[0]
    rows = [[cell for cell in re.split(r"<[^>]+>", row) if cell.strip()] for row in body.split("<tr>")[1:]]
    assert [row[0] for row in rows] == ["Base", "SFT", "V1", "V2", "V3", "V4"]
    assert rows[1][1] == "1,000" and rows[1][2] != "1,000 to 1,000"
    helped = {row[0]: next((cell for cell in row if cell in ("yes", "no")), None) for row in rows}
    assert helped == {"Base": None, "SFT": None, "V1": "yes", "V2": "yes", "V3": "no", "V4": "yes"}
    assert rows[1][-3] == "–" and rows[2][-3:] == ["1.10", "15.10", "25.6"]  # KL from SFT, from base, tokens


def test_a_step_that_did_not_help_is_said_in_a_sentence(section):
    said = re.findall(r"<li>(.*?)</li>", section)
    assert len(said) == 2
    assert said[0].startswith("V3 did not help: against V2 its gold changed by −0.0")
    assert re.match(r"V4 got worse than V3 in 3 of the 12 parts looked at, most in harmless on adversarial", said[1])


def test_why_rounds_ended_early_is_said(run, section, tmp_path):
    assert "ended early" not in section
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    summary = json.loads((copy / "summary.json").read_text())
    why = "no round follows v4: no significant gain in 2 rounds, and stop.no_gain_in = 2"
    (copy / "summary.json").write_text(json.dumps(summary | {"stopped": why}))
    assert f"<li>Rounds ended early: {why}.</li>" in render(copy).read_text()


def test_what_got_worse_is_listed_with_both_answers(section):
    falls = section.split("What got worse")[1].split("</table>")[0]
    assert falls.count("V4 after V3") == 3 == falls.count("<tr>") - 1
    examples = section.split("V4 after V3: the prompts")[1].split("</details>")[0]
    assert examples.count("<article") == 3 and "v3: " in examples and "v4: " in examples
    assert "v2: " not in examples


def test_its_charts_are_drawn(section):
    titles = re.findall(r"<figcaption><b>([^<]+)<", section)
    assert titles == ["Elo", "Scores on held-out prompts", "Harmless under attack", "Length", "Gold over KL"]
    assert "up to 64 answers, on 100 prompts" in section and 'class="curve best-of dashed"' in section


def test_gold_over_kl_begins_with_what_feedback_began_with(run):
    chart = versions(read_run(run))["charts"][-1]
    assert chart.title == "Gold over KL" and [dot.label for dot in chart.dots] == ["SFT", "V1", "V2", "V3", "V4"]
    assert re.fullmatch(r"SFT: 0.5\d+ at KL 0", chart.dots[0].said)


def test_all_steps_that_helped_are_said_to():
    step = {"version": "v1", "after": "sft", "gained": True, "worse": [], "looked_at": 4}
    assert findings([step]) == [
        "Every step helped, and none made a part of the prompts or a judge's score significantly worse."
    ]
    assert findings([]) == []


def test_a_step_that_lost_gold_did_harm():
    gain, wins = {"mean": -0.1, "low": -0.2, "high": -0.05}, {"mean": 0.4, "low": 0.3, "high": 0.5}
    step = {"version": "v2", "after": "v1", "gained": False, "worse": [], "gain": gain, "win_rate": wins}
    assert findings([step])[0].startswith("V2 did harm: against V1 its gold changed by −0.10 (−0.20 to −0.05)")
    unsure = step | {"gain": gain | {"high": 0.05}}
    assert findings([unsure])[0].endswith("ties half. Neither is a sure gain.")


def test_parts_in_words():
    part = {"set": "held_out", "task": "known", "criterion": "gold"}
    assert part_in_words(part) == "gold on held-out prompts, task known"
    assert part_in_words(part | {"task": None, "criterion": "harmless"}) == "harmless on held-out prompts"


def test_hostile_text_stays_text(text, section):
    assert HOSTILE not in text and section.count("&lt;script&gt;alert") > 5
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("style", "src", "href")]


def test_the_same_files_give_the_same_page(run, text, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere")
    assert render(tmp_path / "elsewhere").read_text() == text


def test_a_missing_samples_file_takes_the_examples_alone(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    next((copy / "artifacts").glob("evaluate-*/samples.jsonl")).unlink()
    page = render(copy).read_text()
    assert 'id="versions"' in page and "the prompts whose gold fell furthest" not in page


def test_the_line_by_task_is_from_sft_to_the_last(text):
    tasks = text.split("<h3>By task")[1].split("</h3>")[0]
    assert re.findall(r'ink-\w+">\W*([\w]+)<', tasks) == ["SFT", "V4"]


def test_names_for_people():
    assert [label_of(name) for name in ("v3", "grpo", "reinforce_plus_plus", "mine")] == [
        "V3", "GRPO", "REINFORCE++", "mine"
    ]  # fmt: skip
    assert [style_of(name) for name in ("base", "sft", "sft_clean", "ppo", "v3")] == [
        "base", "sft", "sft_clean", "ppo", "ppo"
    ]  # fmt: skip
    assert stage_title("v2.reward") == "V2 · Reward model" and stage_title("dpo") == "DPO"
    assert stage_title("v1.reward_safe") == "V1 · Reward, safe"


def test_stages_of_rounds_stand_as_they_ran(tmp_path):
    """The summary's order: an evaluation inside a round comes before the next round's feedback."""
    folder = tmp_path / "run"
    names = ["world", "v1.feedback", "v1.ppo", "v1.evaluate", "v2.feedback", "v2.ppo", "evaluate"]
    for name in sorted(names):
        path = folder / "artifacts" / f"{name}-0"
        path.mkdir(parents=True)
        metrics = {"versions": {"sft": {"gold": 0.5}, "v1": {"gold": 0.75}}} if "evaluate" in name else {}
        (path / "manifest.json").write_text(json.dumps({"kind": name, "seconds": 1.0, "metrics": metrics}))
    (folder / "summary.json").write_text(json.dumps({"stages": {name: {"artifact": f"{name}-0"} for name in names}}))
    assert list(read_run(folder).stages) == names
    page = render(folder).read_text()
    assert page.count('<li class="stage-feedback">') == 2 and "gold of V1" in page
    with (folder / "metrics.jsonl").open("w") as file:
        for name, score in (("v1.ppo", 1.0), ("v2.ppo", 2.0)):
            for step in (1, 2, 3):
                file.write(json.dumps({"stage": name, "step": step, "score": score * step}) + "\n")
    page = render(folder).read_text()
    assert "V2 · PPO, step by step" in page and read_run(folder).climbed == "v2.ppo"
    assert "<b>6</b>" in page.split("step by step")[1]  # the last score of the newest
    (folder / "summary.json").unlink()
    assert set(read_run(folder).stages) == set(names)
