"""The report's section on red teaming: every figure, every text escaped, and only what is there."""

import json
import re

import pytest

from loopwright.evaluation.report import render
from loopwright.feedback.intervals import wilson_interval
from tests.evaluation.fake_run import HOSTILE, make


def found(**changes):
    def source(successes, distinct):
        rate = wilson_interval(successes / 200, 200).as_dict()
        return {"tries": 200, "attacks": 190, "successes": successes, "success_rate": rate, "distinct": distinct}

    message = [{"role": "user", "content": f"worst {HOSTILE}"}]
    whole = {
        "sources": {"templates": source(20, 7), "zero_shot": source(4, 3)},
        "regression": {"attacks": 30, "fixed": 9, "still_fixed": 12, "broken_again": 4, "still_open": 5},
        "largest_clusters": [{"size": 11, "example": f"like {HOSTILE}", "answer": f"sure {HOSTILE}"}] * 9,
        "worst": [{"prompt": message, "response": f"yes {HOSTILE}"}] * 9,
    }
    return whole | changes


def section(run, report):
    folder = run / "artifacts" / "red_team-x"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": "red_team", "metrics": {"clusters": 13}}))
    (folder / "red_team.json").write_text(json.dumps(report))
    summary = json.loads((run / "summary.json").read_text())
    summary["stages"]["red_team"] = {"artifact": folder.name}
    (run / "summary.json").write_text(json.dumps(summary))
    page = render(run).read_text()
    parts = page.split('id="red-team"')
    return page, parts[1].split("</section>")[0] if len(parts) > 1 else None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"))


def test_rates_clusters_and_worst_answers_are_there_and_escaped(run):
    page, text = section(run, found())
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    rate = wilson_interval(0.1, 200)
    assert f"Templates 200 190 10.0 % {100 * rate.low:.1f} % to {100 * rate.high:.1f} % 7" in plain
    assert "A model, zero-shot 200 190 2.0 %" in plain
    assert "Of 30 attacks that had succeeded before, 21 help no more, and 4 of those" in plain
    assert plain.count("sure &lt;") == 8 and plain.count("yes &lt;") == 5
    assert HOSTILE not in page
    assert "distinct attacks succeed" in page  # on the stage's card


def test_only_what_is_there_is_shown(run):
    for broken in ([], {}, {"sources": {"rl": {"tries": 3}}}, {"sources": {"rl": 3}}):
        assert section(run, broken)[1] is None
    _, text = section(run, found(regression={"attacks": 0}, largest_clusters=None, worst=[{"prompt": 3}, 4]))
    assert "had succeeded before" not in text and "<h3>" not in text
