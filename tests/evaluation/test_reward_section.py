"""The report's section on the reward model shows the figures of assessment.json, and only what is there."""

import json
import re

import pytest

from loopwright.evaluation.report import render
from loopwright.evaluation.reward_model import assess_pairs
from tests.evaluation.fake_run import HOSTILE, assessment, make


def section(run, report):
    """The section of a run's page, once its assessment says this."""
    (path,) = (run / "artifacts").glob("reward-*")
    (path / "assessment.json").write_text(json.dumps(report))
    page = render(run).read_text()
    found = page.split('id="reward-model"')
    return found[1].split("</section>")[0] if len(found) > 1 else None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"))


def test_every_figure_is_there(run):
    report = assessment()
    text = section(run, report)
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert f"{100 * report['accuracy']['mean']:.1f} %" in plain
    for row in report["by"]["task"]:
        share = f"{100 * row['mean']:.0f} % {100 * row['low']:.0f} % to {100 * row['high']:.0f} %"
        assert f"{row['group'].capitalize()} {row['pairs']} pairs {share}" in plain
    for title in ("better the answer was said", "annotators of a pair", "length of the answer", "By annotator"):
        assert title in plain
    assert "By the stated margin" not in plain  # nobody stated one
    assert "3,200 more labels should bring" in plain and "power law" in plain
    assert f"temperature of {report['calibration']['temperature']:.2f}" in plain
    (bold,) = (row for row in report["sensitivity"]["changes"] if row["change"] == "bold")
    assert f"Bold {bold['shift']['mean']:.2f}".replace("-", "−") in plain
    assert "Copy of the prompt" in plain and "Krippendorff" in plain
    assert "3 held-out judgements have a pair that is also trained on" in plain


def test_an_annotators_name_is_hostile_text_and_is_left_as_it_is(run):
    text = section(run, assessment())
    assert HOSTILE not in text and "<script" not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)" in text
    assert ">ann <" in text  # not "Ann"


def test_a_models_choices_are_not_called_peoples(run):
    cell = {"mean": 0.7, "low": 0.6, "high": 0.8, "pairs": 10}
    people, models = ({"group": name, **cell} for name in ("people", "models"))
    for groups, who in (
        ([people], "people"),
        ([], "people"),
        ([models], "a model"),
        ([people, models], "people or a model"),
    ):
        assert f"what {who} chose in 70.0" in section(run, {"accuracy": cell, "by": {"source": groups}})


def test_only_what_is_there_is_shown(run):
    bare = assess_pairs([])
    assert section(run, bare) is None  # nothing was held out
    for broken in ([], {}, {"accuracy": 3}, {"accuracy": {"mean": 1}}):
        assert section(run, broken) is None
    alone = bare | {"accuracy": {"mean": 0.7, "low": 0.6, "high": 0.8, "pairs": 100}}
    text = section(run, alone)
    assert "70.0\N{NO-BREAK SPACE}%" in text and "<table" not in text and "board" not in text and "<h3>" not in text
    odd = {"by": [1], "calibration": {"temperature": "x"}, "learning_curve": {"points": [3]}, "sensitivity": 1}
    assert section(run, alone | odd | {"worthless": [{}], "data": {"agreement": 1}}) == text


def learned(run, people):
    """The run's reward stage says this of its annotators."""
    (manifest,) = (run / "artifacts").glob("reward-*/manifest.json")
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | {"metrics": said["metrics"] | {"annotators": people}}))


def test_what_is_known_of_the_data_is_shown_without_held_out_pairs(run):
    text = section(run, {"data": {"consistency": {"sentences": ["One pair is judged both ways."]}}})
    assert "What it was taught with" in text and "One pair is judged both ways." in text
    assert "It prefers what people chose" not in text


def test_who_is_reliable_and_how_sure_that_is(tmp_path):
    run = make(tmp_path / "run")
    alone = assess_pairs([]) | {"accuracy": {"mean": 0.7, "low": 0.6, "high": 0.8, "pairs": 100}}
    person = {"accuracy": 0.91, "low": 0.85, "high": 0.96, "labels": 1200}
    learned(run, {"ann": person | {"labels": 300}, HOSTILE: person, "None": person | {"labels": 1}, "odd": {"low": 1}})
    for report in (alone, {}):  # with held-out pairs, and without an assessment
        plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section(run, report)))
        assert "Who is reliable" in plain and "ann 91 % 85 % to 96 % 300" in plain and "odd" not in plain
        assert plain.index("91 % 85 % to 96 % 1,200") < plain.index("ann 91 %") < plain.index("(no name) 91 %")
    assert HOSTILE not in section(run, alone)
    learned(run, {f"a{i}": person | {"labels": 100 + i} for i in range(15)})
    text = section(run, alone)
    assert ">a2<" not in text and ">a3<" in text and "3 with fewer labels are not shown" in text
    for odd in (None, 3, {"ann": 1}):
        learned(run, odd)
        assert "Who is reliable" not in section(run, alone)


def test_a_single_group_is_all_pairs_and_many_are_cut(run):
    cell = {"mean": 0.7, "low": 0.6, "high": 0.8}
    people = [{"group": f"a{i}", "pairs": 10 + i, **cell} for i in range(15)]
    by = {"task": [{"group": "known", "pairs": 5, **cell}], "annotator": people}
    text = section(run, {"accuracy": {**cell, "pairs": 100}, "by": by})
    assert "By kind of prompt" not in text
    assert text.count("interval-label") == 12 + 1  # and the scale
    assert ">a2 <" not in text and ">a3 <" in text and "3 groups of fewer pairs are not shown" in text


def test_what_cannot_be_said_says_why(run):
    report = assessment()
    few = report["learning_curve"] | {"law": None, "next": None, "undefined": "4 points at 4 sizes"}
    nobody = {"agreement": {"alpha_ordinal": {"value": None, "undefined": "nothing was judged by two people"}}}
    text = section(run, report | {"learning_curve": few, "data": nobody})
    assert "4 points at 4 sizes" in text and "more labels" not in text
    assert "How far people agree cannot be said: nothing was judged by two people." in text
