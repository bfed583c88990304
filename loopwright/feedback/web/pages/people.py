"""Managers' pages of people: a project's annotators, all accounts, tokens, the audit log."""

import time
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import ValidationError
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from loopwright.errors import LoopwrightError
from loopwright.feedback.store import administration, chain, people, reports
from loopwright.feedback.store.people import SCOPES
from loopwright.feedback.store.tables import audits
from loopwright.feedback.web.admission import (
    Admin,
    Caller,
    InPerson,
    ManagesProject,
    Member,
    ReadsProject,
    database_of,
)
from loopwright.feedback.web.api.people import (
    AccountChange,
    Invited,
    NewInvitation,
    NewToken,
    invited,
    made_token,
    revoked,
)
from loopwright.feedback.web.api.stats import latest
from loopwright.feedback.web.pages.admin import Form, manager_page, project_page, to

router = APIRouter(include_in_schema=False)


@router.get("/admin/projects/{project}/people")
def members(request: Request, member: ReadsProject) -> Response:
    return _members(request, member)


@router.post("/admin/projects/{project}/people/invite")
def invite(request: Request, member: ManagesProject, form: Form) -> Response:
    """The link is in the reply and nowhere else."""
    try:
        new = NewInvitation.model_validate(
            {
                "role": form.get("role", "annotator"),
                "skills": _list(form.get("skills", "")),
                "days": form.get("days", "7"),
            }
        )
    except ValidationError as error:
        return _members(request, member, problem=_first(error))
    made = invited(request, member.caller, member.project.id, new.role, new.skills, new.days)
    return _members(request, member, made=made)


@router.post("/admin/projects/{project}/people/invitations/{invitation}/revoke")
def revoke_invitation(request: Request, member: ManagesProject, invitation: str) -> Response:
    revoked(request, member.account, member.project.id, invitation)
    return to(member, "people", "uninvited")


@router.post("/admin/projects/{project}/people/{account}/remove")
def remove(request: Request, member: ManagesProject, account: str) -> Response:
    database_of(request).write(
        lambda connection: administration.remove_member(
            connection, member.account, member.project.id, account, now=time.time()
        )
    )
    return to(member, "people", "removed")


@router.get("/admin/people")
def accounts(request: Request, caller: Admin, after: str = "") -> Response:
    return _accounts(request, caller, after)


@router.post("/admin/people/invite")
def invite_admin(request: Request, caller: Admin) -> Response:
    return _accounts(request, caller, made=invited(request, caller, None, "admin", (), 1))


@router.post("/admin/people/invitations/{invitation}/revoke")
def revoke_admin_invitation(request: Request, caller: Admin, invitation: str) -> Response:
    revoked(request, caller.account.id, None, invitation)
    return RedirectResponse("/admin/people?said=uninvited", 303)


@router.post("/admin/people/{account}")
def change_account(request: Request, caller: Admin, account: str, form: Form) -> Response:
    try:
        rate = form.get("hourly_rate", "").strip()
        given = AccountChange.model_validate(
            {
                "skills": _list(form.get("skills", "")),
                "hourly_rate": rate or None,
                "role": form.get("role") or None,
                "disabled": form.get("disabled") == "yes",
            }
        )
        values: dict[str, Any] = given.model_dump(exclude_none=True)
        values |= {"skills": sorted(set(given.skills or ())), "hourly_rate": given.hourly_rate}
        database_of(request).write(lambda connection: _change(connection, caller, account, values))
    except ValidationError as error:
        return _accounts(request, caller, problem=_first(error))
    except LoopwrightError as error:
        return _accounts(request, caller, problem=str(error))
    return RedirectResponse("/admin/people?said=saved", 303)


@router.get("/admin/audit")
def audit(request: Request, caller: Admin, before: int | None = None, verify: bool = False) -> Response:
    """The log; when asked, whether it is as it was written: that takes the longer, the longer it is."""

    def look(connection: Connection) -> tuple[list[reports.AuditRow], chain.Broken | None]:
        broken = chain.verify(connection, audits) if verify else None
        return reports.list_audits(connection, before=before), broken

    rows, broken = database_of(request).read(look)
    more = rows[-1].id if len(rows) == reports.PAGE else None
    return manager_page(
        request, "admin_audit.html", caller, tab="audit", rows=rows, verified=verify, broken=broken, more=more
    )


@router.get("/account")
def account(request: Request, caller: InPerson) -> Response:
    """One's own password and tokens."""
    return _account(request, caller)


@router.post("/account/tokens")
def make_token(request: Request, caller: InPerson, form: Form) -> Response:
    """The token is in the reply and nowhere else."""
    given = {
        "name": form.get("name", "").strip(),
        "scopes": [scope for scope in SCOPES if form.get(f"scope_{scope}")],
        "days": form.get("days") or None,
    }
    try:
        token = made_token(request, caller, caller.account.id, NewToken.model_validate(given)).token
    except ValidationError as error:
        return _account(request, caller, problem=_first(error))
    except LoopwrightError as error:
        return _account(request, caller, problem=str(error))
    return _account(request, caller, token=token)


@router.post("/account/tokens/{token}/revoke")
def revoke_token(request: Request, caller: InPerson, token: str) -> Response:
    def job(connection: Connection) -> None:
        if reports.owner_of_token(connection, token) != caller.account.id:
            raise HTTPException(404, "there is no such token of yours")
        administration.revoke_token(connection, caller.account.id, token, now=time.time())

    database_of(request).write(job)
    return RedirectResponse("/account?said=revoked", 303)


def _members(request: Request, member: Member, *, made: Invited | None = None, problem: str = "") -> Response:
    def look(connection: Connection) -> dict[str, Any]:
        project = member.project.id
        return {
            "rows": reports.list_members(connection, project),
            "invitations": reports.open_invitations(connection, project, now=time.time()),
        }

    stats = latest(request, member.project.id)
    figures = {one.account: one for one in stats.figures.annotators} if stats.figures else {}
    return project_page(
        request, "admin_members.html", member, tab="people", status=422 if problem else 200, stats=stats,
        figures=figures, made=made, problem=problem, **database_of(request).read(look),
    )  # fmt: skip


def _accounts(
    request: Request, caller: Caller, after: str = "", *, made: Invited | None = None, problem: str = ""
) -> Response:
    rows, invitations = database_of(request).read(
        lambda connection: (
            reports.list_accounts(connection, after=after),
            reports.open_invitations(connection, None, now=time.time()),
        )
    )
    more = rows[-1].name if len(rows) == reports.ACCOUNTS_AT_ONCE else None
    return manager_page(
        request, "admin_accounts.html", caller, tab="people", status=422 if problem else 200, rows=rows, more=more,
        invitations=invitations, made=made, problem=problem,
    )  # fmt: skip


def _account(request: Request, caller: Caller, *, token: str = "", problem: str = "") -> Response:
    tokens = database_of(request).read(lambda connection: people.list_tokens(connection, caller.account.id))
    scopes = [scope for scope in SCOPES if scope != "admin" or caller.is_admin]
    return manager_page(
        request, "admin_account.html", caller, tab="account", status=422 if problem else 200, tokens=tokens,
        scopes=scopes, token=token, problem=problem, shortest=people.SHORTEST_PASSWORD,
    )  # fmt: skip


def _change(connection: Connection, caller: Caller, account: str, values: dict[str, Any]) -> None:
    """Only what is different: who is not disabled now need not log in again."""
    before = people.account_values(connection, account)
    if before is None:
        raise HTTPException(404, "there is no such account")
    changed = {name: value for name, value in values.items() if before[name] != value}
    if changed:
        administration.change_account(connection, caller.account.id, account, changed, now=time.time())


def _list(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}".removeprefix(": ")
