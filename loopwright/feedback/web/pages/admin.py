"""Managers' pages of projects: the list, a new one, its settings, guidelines and lineage."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from sqlalchemy import Connection
from starlette.responses import HTMLResponse, RedirectResponse, Response

from loopwright.errors import LoopwrightError, StoreError
from loopwright.feedback.kinds import FORMS
from loopwright.feedback.store import administration, exclusions, reports
from loopwright.feedback.store.projects import STATES, Project, new_id
from loopwright.feedback.web import plots, project_form
from loopwright.feedback.web.admission import Admin, Caller, ManagesProject, Member, Reader, ReadsProject, database_of
from loopwright.feedback.web.api.projects import LONGEST_GUIDELINE, managed
from loopwright.feedback.web.api.results import listed
from loopwright.feedback.web.rendering import page

router = APIRouter(include_in_schema=False)

# What a page says after a redirect: only these sentences, so that no link can put words into our mouth.
SAID = {
    "saved": "Saved.",
    "made": "The project is there. Give it items, and invite people.",
    "withdrawn": "Withdrawn: nobody is asked about it any more.",
    "removed": "Removed. What they said stays.",
    "excluded": "Left out. What was made from these labels is stale: see Lineage.",
    "restored": "These labels count again.",
    "revoked": "The token is revoked.",
    "uninvited": "The invitation is revoked: its link works no more.",
    "gold": "The gold answer is set.",
}


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a plain form; of a field that is there twice, the last."""
    form = await request.form()
    return {name: value for name, value in form.items() if isinstance(value, str)}


Form = Annotated[dict[str, str], Depends(read_form)]


@router.get("/admin")
def projects(request: Request, caller: Reader) -> Response:
    database = database_of(request)
    rows = [
        (one, database.read(lambda connection, id=one.id: reports.progress(connection, id)))  # type: ignore[misc]
        for one in managed(request, caller)
    ]
    return manager_page(request, "admin_projects.html", caller, tab="projects", rows=rows, bar=plots.progress)


@router.get("/admin/new")
def new_project(request: Request, caller: Admin, kind: str = "") -> Response:
    values = project_form.first_values(kind) if kind in FORMS else {}
    return _new(request, caller, kind, values)


@router.post("/admin/new")
def create(request: Request, caller: Admin, form: Form, kind: str = "") -> Response:
    if kind not in FORMS:
        raise HTTPException(404, "there is no such kind of project")
    config, errors = project_form.read(kind, form)
    name, guideline = form.get("name", "").strip(), form.get("guideline", "").strip()
    if not name or len(name) > 80 or not name.isprintable():
        errors["name"] = "a name has 1 to 80 characters"
    if len(guideline) > LONGEST_GUIDELINE:
        errors["guideline"] = f"a guideline has at most {LONGEST_GUIDELINE:,} characters"
    if config is None or errors:
        return _new(request, caller, kind, form, errors)

    def job(connection: Connection) -> Project:
        return administration.make_project(
            connection, caller.account.id, name, config, guideline=guideline, now=time.time()
        )

    try:
        made = database_of(request).write(job)
    except StoreError as error:
        return _new(request, caller, kind, form, {"name": str(error)})
    return RedirectResponse(f"/admin/projects/{made.id}/items?said=made", 303)


@router.get("/admin/projects/{project}/settings")
def settings(request: Request, member: ReadsProject) -> Response:
    return _settings(request, member, project_form.values_of(member.project.config))


@router.post("/admin/projects/{project}/settings")
def change(request: Request, member: ManagesProject, form: Form) -> Response:
    config, errors = project_form.read(member.project.config.kind, form)
    if config is None:
        return _settings(request, member, form, errors)
    return _change(request, member, form, config=config)


@router.post("/admin/projects/{project}/state")
def set_state(request: Request, member: ManagesProject, form: Form) -> Response:
    return _change(request, member, project_form.values_of(member.project.config), state=form.get("state", ""))


@router.get("/admin/projects/{project}/guidelines")
def guidelines(request: Request, member: ReadsProject) -> Response:
    rows = database_of(request).read(lambda connection: reports.list_guidelines(connection, member.project.id))
    return project_page(request, "admin_guidelines.html", member, tab="guidelines", rows=rows)


@router.post("/admin/projects/{project}/guidelines")
def write_guideline(request: Request, member: ManagesProject, form: Form) -> Response:
    text = form.get("text", "").strip()
    if not text or len(text) > LONGEST_GUIDELINE:
        raise HTTPException(422, f"a guideline has 1 to {LONGEST_GUIDELINE:,} characters")
    database_of(request).write(
        lambda connection: administration.write_guideline(
            connection, member.account, member.project.id, text, now=time.time()
        )
    )
    return to(member, "guidelines", "saved")


@router.get("/admin/projects/{project}/lineage")
def lineage(request: Request, member: ReadsProject) -> Response:
    """What was made from the labels, what of it is stale, and what is left out."""

    def look(connection: Connection) -> dict[str, Any]:
        names = {row.id: row.name for row in reports.list_accounts(connection)}
        return {
            "artifacts": listed(connection, member.project.id),
            "exclusions": exclusions.exclusions(connection, member.project.id),
            "names": names,
            "members": reports.list_members(connection, member.project.id),
            "versions": [row.version for row in reports.list_guidelines(connection, member.project.id)],
        }

    return project_page(request, "admin_lineage.html", member, tab="lineage", **database_of(request).read(look))


@router.post("/admin/projects/{project}/exclusions")
def exclude(request: Request, member: ManagesProject, form: Form) -> Response:
    what: dict[str, Any] = {name: form[name] for name in ("annotator", "day") if form.get(name)}
    if form.get("guideline"):
        what["guideline"] = int(form["guideline"])
    database_of(request).write(
        lambda connection: administration.exclude(
            connection, member.account, member.project.id, what, uid=new_id(), now=time.time()
        )
    )
    return to(member, "lineage", "excluded")


@router.post("/admin/projects/{project}/restore")
def restore(request: Request, member: ManagesProject, form: Form) -> Response:
    database_of(request).write(
        lambda connection: administration.restore(
            connection, member.account, member.project.id, form.get("exclusion", ""), uid=new_id(), now=time.time()
        )
    )
    return to(member, "lineage", "restored")


# -- what the other pages of managers share ----------------------------------------------------------------------------


def manager_page(
    request: Request, template: str, caller: Caller, *, tab: str, status: int = 200, **values: object
) -> HTMLResponse:
    said = SAID.get(request.query_params.get("said", ""), "")
    return page(request, template, status, caller=caller, tab=tab, said=said, **values)


def project_page(
    request: Request, template: str, member: Member, *, tab: str, status: int = 200, **values: object
) -> HTMLResponse:
    return manager_page(
        request, template, member.caller, tab=tab, status=status, project=member.project, **values
    )  # fmt: skip


def to(member: Member, tab: str, said: str) -> RedirectResponse:
    """Back to a page of the project, which says what was done."""
    return RedirectResponse(f"/admin/projects/{member.project.id}/{tab}?said={said}", 303)


def _new(
    request: Request, caller: Caller, kind: str, values: dict[str, str], errors: dict[str, str] | None = None
) -> HTMLResponse:
    fields = project_form.fields_of(kind) if kind in FORMS else []
    return manager_page(
        request, "admin_new.html", caller, tab="projects", status=422 if errors else 200, kinds=FORMS,
        kind=kind if kind in FORMS else "", fields=fields, values=values, errors=errors or {},
    )  # fmt: skip


def _settings(
    request: Request, member: Member, values: dict[str, str], errors: dict[str, str] | None = None
) -> HTMLResponse:
    fields = project_form.fields_of(member.project.config.kind)
    return project_page(
        request, "admin_settings.html", member, tab="settings", status=422 if errors else 200, fields=fields,
        values=values, errors=errors or {}, states=STATES,
    )  # fmt: skip


def _change(request: Request, member: Member, values: dict[str, str], **changed: Any) -> Response:
    try:
        database_of(request).write(
            lambda connection: administration.change_project(
                connection, member.account, member.project.id, **changed, now=time.time()
            )
        )
    except LoopwrightError as error:
        return _settings(request, member, values, {"": str(error)})
    return to(member, "settings", "saved")
