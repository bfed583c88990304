"""A labeler's pages: what there is to do, and doing it."""

import json
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from loopwright.feedback.kinds import FORMS
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store.labels import SKIP_REASONS
from loopwright.feedback.store.projects import Project, list_projects
from loopwright.feedback.store.reports import managed_projects
from loopwright.feedback.web.admission import LabelsInProject, Somebody, config_of, database_of
from loopwright.feedback.web.api.own_work import preferences_of
from loopwright.feedback.web.rendering import page

router = APIRouter(include_in_schema=False)

# What the form needs of a project. The seed and the share of gold items stay here: from them a labeler could work out
# which answer is whose, and which items test them.
OF_THE_FORM = (
    "kind", "question", "criteria", "criteria_strengths", "checks", "scale", "higher_is_better", "span_labels",
    "safety", "improve", "reasons", "reason_when_significant", "blur",
)  # fmt: skip
SKIPS = {
    "unclear_prompt": "The question is unclear",
    "needs_expert": "It needs somebody who knows the field",
    "broken_text": "The text is broken or cut off",
    "upsetting": "I do not want to read this",
    "cannot_judge": "I cannot judge it",
}
WRITTEN = frozenset(kind for kind, form in FORMS.items() if form.written)
assert set(SKIPS) == set(SKIP_REASONS)


@router.get("/")
def home(request: Request, caller: Somebody) -> Response:
    """The projects in which the caller labels."""

    def look(connection: Connection) -> tuple[list[Project], bool]:
        manages = caller.is_admin or bool(managed_projects(connection, caller.account.id))
        return list_projects(connection, caller.account.id), manages

    projects, manages = database_of(request).read(look)
    return page(
        request, "home.html", caller=caller, projects=projects, kinds=FORMS, written=WRITTEN, manages=manages
    )  # fmt: skip


@router.get("/projects/{project}/work")
def work(request: Request, member: LabelsInProject) -> Response:
    """The screen on which labels are given; its script talks to the API. Conversations have a page of their own."""
    if member.project.config.kind in WRITTEN:
        return RedirectResponse(f"/projects/{member.project.id}/chat", 303)
    start = {
        "project": {"id": member.project.id, "name": member.project.name},
        "account": member.account,
        "form": form_of(member.project.config),
        "preferences": preferences_of(member.caller.account.preferences).model_dump(),
        "undo_seconds": config_of(request).undo_seconds,
        "skips": SKIPS,
    }
    return page(
        request, "work.html", caller=member.caller, project=member.project, start=json.dumps(start),
        task=FORMS[member.project.config.kind].task, skips=SKIPS,
    )  # fmt: skip


def form_of(config: ProjectConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include=set(OF_THE_FORM))
