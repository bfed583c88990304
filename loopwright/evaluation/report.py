"""The report of a run: one HTML file that works offline, from the run directory's files alone.

Model output is hostile text: every value is escaped by the template engine, and the page, which has no
script of its own, carries a policy under which nothing is fetched or run.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from loopwright.evaluation import (
    exhibits,
    red_team_section,
    reward_parts,
    reward_section,
    sections,
    version_section,
)
from loopwright.evaluation.run_files import RunFiles, read_run
from loopwright.evaluation.templating import environment, source
from loopwright.tracking.files import write_atomically

REPORT = "report.html"


def render(run_dir: Path) -> Path:
    """Write `report.html` into the run directory and return its path. The same files give the same page.

    A stage that did not run, or whose files cannot be read, has no section.

    Raises:
        ArtifactError: the folder holds no run.
    """
    page = run_dir / REPORT
    write_atomically(page, render_html(read_run(run_dir)))
    return page


def render_html(run: RunFiles) -> str:
    """The page, as text."""
    style = source("report.css")
    page = environment().get_template("report.html")
    return page.render(style=Markup(style), policy=_policy(style), **_context(run))


def _context(run: RunFiles) -> dict[str, Any]:
    return {
        "name": run.summary.get("name") or run.path.resolve().name,
        "facts": sections.facts(run),
        "headline": sections.headline(run),
        "scoreboard": sections.scoreboard(run),
        "cheap": sections.cheap_policies(run),
        "pipeline": sections.pipeline(run),
        "versions": version_section.versions(run),
        "table": sections.evaluation_table(run),
        "tasks": sections.by_task(run),
        "climbed": sections.stage_title(run.climbed),
        "ppo_curves": sections.ppo_curves(run),
        "reward_parts": reward_parts.table(run),
        "loss_curves": sections.loss_curves(run),
        "samples": exhibits.samples(run),
        "cleaning": exhibits.cleaning(run),
        "annotators": exhibits.annotators(run),
        "calibration": exhibits.calibration(run),
        "reward_model": reward_section.reward_model(run),
        "red_team": red_team_section.red_team(run),
        "lineage": sections.lineage(run),
        "libraries": sections.libraries(run),
        "config": run.config,
    }


def _policy(style: str) -> str:
    """A content security policy under which nothing applies but the page's own styles."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
