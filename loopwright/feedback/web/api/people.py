"""Accounts, invitations, tokens, the audit log."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import Field
from sqlalchemy import Connection

from loopwright.feedback.projects import Name
from loopwright.feedback.store import administration, chain, people, reports
from loopwright.feedback.store.people import TokenInfo
from loopwright.feedback.store.tables import audits, events
from loopwright.feedback.web.admission import (
    Admin,
    AdminInPerson,
    Caller,
    InPerson,
    ManagesProject,
    ReadsProject,
    config_of,
    database_of,
    refuse_token,
)
from loopwright.feedback.web.api.projects import Done, Id
from loopwright.schemas import Record

router = APIRouter(prefix="/api/v1", tags=["people"])

DAY_SECONDS = 86_400.0
LONGEST_INVITATION_DAYS = 90
LONGEST_TOKEN_DAYS = 3_650
Skills = Annotated[tuple[Name, ...], Field(max_length=50)]
Scope = Literal["label", "read", "publish", "manage", "admin"]
Days = Annotated[int, Field(ge=1, le=LONGEST_TOKEN_DAYS)]


class AccountShown(Record):
    id: str
    name: str
    role: Literal["admin", "annotator", "simulated", "imported"]
    skills: tuple[str, ...]
    hourly_rate: float | None
    disabled: bool
    created: float


class AccountList(Record):
    accounts: tuple[AccountShown, ...]  # by name
    after: str | None  # ask for the next page with it; null: this is the last


class NewAccount(Record):
    """For a program: it has no password, only tokens. People are invited."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    role: Literal["annotator", "simulated"] = "simulated"
    skills: Skills = ()


class AccountChange(Record):
    """What is left out stays."""

    skills: Skills | None = None
    hourly_rate: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    role: Literal["admin", "annotator", "simulated"] | None = None
    disabled: bool | None = None


class NewInvitation(Record):
    role: Literal["manager", "annotator"] = "annotator"
    skills: Skills = ()
    days: Annotated[int, Field(ge=1, le=LONGEST_INVITATION_DAYS)] = 7  # that it can be used for


class Invited(Record):
    link: str  # for one person; shown now and never again
    expires: float


class InvitationShown(Record):
    id: str
    role: str
    skills: tuple[str, ...]
    created: float
    expires: float


class InvitationList(Record):
    invitations: tuple[InvitationShown, ...]


class NewToken(Record):
    name: Annotated[str, Field(min_length=1, max_length=80)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=5)]
    days: Days | None = None  # until it expires; none: it does not


class Token(Record):
    token: str  # shown now and never again


class TokenShown(Record):
    id: str
    name: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None
    revoked: float | None


class TokenList(Record):
    tokens: tuple[TokenShown, ...]


class AuditShown(Record):
    id: int
    by: str | None  # the account's name
    action: str
    about: dict[str, Any]
    at: float


class AuditList(Record):
    audits: tuple[AuditShown, ...]  # newest first
    before: int | None  # ask for the next page with it; null: this is the last


class Verified(Record):
    """Whether the rows are as they were written. The first that is not; null: all are."""

    audits: int | None
    events: int | None


# -- accounts ----------------------------------------------------------------------------------------------------------


@router.get("/accounts")
def accounts(request: Request, caller: Admin, after: Annotated[str, Query(max_length=80)] = "") -> AccountList:
    rows = database_of(request).read(lambda connection: reports.list_accounts(connection, after=after))
    last = rows[-1].name if len(rows) == reports.ACCOUNTS_AT_ONCE else None
    return AccountList(accounts=tuple(AccountShown(**row._asdict()) for row in rows), after=last)


@router.post("/accounts", status_code=201)
def make_account(request: Request, caller: Admin, new: NewAccount) -> AccountShown:
    def job(connection: Connection) -> AccountShown:
        now = time.time()
        made = administration.make_account(
            connection, caller.account.id, new.name, new.role, skills=new.skills, now=now
        )  # fmt: skip
        return AccountShown(
            id=made.id, name=made.name, role=new.role, skills=tuple(made.skills), hourly_rate=None, disabled=False,
            created=now,
        )  # fmt: skip

    return database_of(request).write(job)


@router.patch("/accounts/{account}")
def change_account(request: Request, caller: Admin, account: Id, given: AccountChange) -> Done:
    """Who is disabled, or gets another role, is logged out everywhere."""
    if given.role == "admin":
        refuse_token(caller)
    values = given.model_dump(exclude_unset=True, exclude_none=True)
    if "skills" in values:
        values["skills"] = sorted(set(values["skills"]))
    if "hourly_rate" in given.model_fields_set:
        values["hourly_rate"] = given.hourly_rate  # null: none is known
    if not values:
        raise HTTPException(422, "name something to change: skills, hourly_rate, role or disabled")
    database_of(request).write(
        lambda connection: administration.change_account(
            connection, caller.account.id, account, values, now=time.time()
        )
    )
    return Done()


# -- invitations -------------------------------------------------------------------------------------------------------


@router.get("/projects/{project}/invitations")
def invitations(request: Request, member: ReadsProject) -> InvitationList:
    """Those that nobody used yet."""
    return _invitations(request, member.project.id)


@router.get("/invitations")
def admin_invitations(request: Request, caller: Admin) -> InvitationList:
    """Those to be an administrator that nobody used yet."""
    return _invitations(request, None)


def _invitations(request: Request, project: str | None) -> InvitationList:
    rows = database_of(request).read(lambda connection: reports.open_invitations(connection, project, now=time.time()))
    columns = InvitationShown.model_fields
    return InvitationList(
        invitations=tuple(
            InvitationShown.model_validate({name: getattr(row, name) for name in columns}) for row in rows
        )
    )


@router.delete("/projects/{project}/invitations/{invitation}")
def revoke_invitation(request: Request, member: ManagesProject, invitation: Id) -> Done:
    """Its link works no more."""
    return revoked(request, member.account, member.project.id, invitation)


@router.delete("/invitations/{invitation}")
def revoke_admin_invitation(request: Request, caller: Admin, invitation: Id) -> Done:
    """Its link works no more."""
    return revoked(request, caller.account.id, None, invitation)


def revoked(request: Request, by: str, project: str | None, invitation: str) -> Done:
    database_of(request).write(
        lambda connection: administration.revoke_invitation(connection, by, project, invitation, now=time.time())
    )
    return Done()


@router.post("/projects/{project}/invitations", status_code=201)
def invite(request: Request, member: ManagesProject, new: NewInvitation) -> Invited:
    if new.role == "manager":
        refuse_token(member.caller)
    return invited(request, member.caller, member.project.id, new.role, new.skills, new.days)


@router.post("/invitations", status_code=201)
def invite_admin(request: Request, caller: AdminInPerson) -> Invited:
    """An administrator more."""
    return invited(request, caller, None, "admin", (), 1)


def invited(
    request: Request, caller: Caller, project: str | None, role: str, skills: tuple[str, ...], days: int
) -> Invited:
    """A link for one person."""
    now = time.time()
    expires = now + days * DAY_SECONDS
    secret = database_of(request).write(
        lambda connection: administration.invite(
            connection, caller.account.id, project, role, skills=skills, expires=expires, now=now
        )
    )
    return Invited(link=f"{config_of(request).url.rstrip('/')}/invitation/{secret}", expires=expires)


# -- tokens ------------------------------------------------------------------------------------------------------------


@router.get("/tokens")
def own_tokens(request: Request, caller: InPerson) -> TokenList:
    """One's own; never the tokens themselves."""
    return _tokens(database_of(request).read(lambda connection: people.list_tokens(connection, caller.account.id)))


@router.post("/tokens", status_code=201)
def make_own_token(request: Request, caller: InPerson, new: NewToken) -> Token:
    return made_token(request, caller, caller.account.id, new)


@router.delete("/tokens/{token}")
def revoke_own_token(request: Request, caller: InPerson, token: Id) -> Done:
    def job(connection: Connection) -> None:
        if reports.owner_of_token(connection, token) != caller.account.id:
            raise HTTPException(404, "there is no such token of yours")
        administration.revoke_token(connection, caller.account.id, token, now=time.time())

    database_of(request).write(job)
    return Done()


@router.get("/accounts/{account}/tokens")
def tokens(request: Request, caller: Admin, account: Id) -> TokenList:
    return _tokens(database_of(request).read(lambda connection: people.list_tokens(connection, account)))


@router.post("/accounts/{account}/tokens", status_code=201)
def make_token(request: Request, caller: AdminInPerson, account: Id, new: NewToken) -> Token:
    """For a program that acts as this account: a simulated annotator, for instance."""
    return made_token(request, caller, account, new)


@router.delete("/accounts/{account}/tokens/{token}")
def revoke_token(request: Request, caller: Admin, account: Id, token: Id) -> Done:
    def job(connection: Connection) -> None:
        if reports.owner_of_token(connection, token) != account:
            raise HTTPException(404, "this account has no such token")
        administration.revoke_token(connection, caller.account.id, token, now=time.time())

    database_of(request).write(job)
    return Done()


def made_token(request: Request, caller: Caller, account: str, new: NewToken) -> Token:
    now = time.time()
    token = database_of(request).write(
        lambda connection: administration.make_token(
            connection, caller.account.id, account, new.name, new.scopes, now=now,
            expires=None if new.days is None else now + new.days * DAY_SECONDS,
        )
    )  # fmt: skip
    return Token(token=token)


def _tokens(rows: list[TokenInfo]) -> TokenList:
    columns = TokenShown.model_fields
    return TokenList(
        tokens=tuple(TokenShown.model_validate({name: getattr(row, name) for name in columns}) for row in rows)
    )


# -- audit log ---------------------------------------------------------------------------------------------------------


@router.get("/audits")
def audit_log(
    request: Request, caller: Admin, before: Annotated[int | None, Query(ge=1, le=2**53)] = None
) -> AuditList:
    return _audits(database_of(request).read(lambda connection: reports.list_audits(connection, before=before)))


@router.get("/audits/verified")
def verified(request: Request, caller: Admin) -> Verified:
    """Go through the audit log and all events. It takes seconds for each hundred thousand."""

    def look(connection: Connection) -> list[int | None]:
        broken = [chain.verify(connection, table) for table in (audits, events)]
        return [None if one is None else one.id for one in broken]

    found = database_of(request).read(look)
    return Verified(audits=found[0], events=found[1])


@router.get("/projects/{project}/audits")
def project_audit_log(
    request: Request, member: ReadsProject, before: Annotated[int | None, Query(ge=1, le=2**53)] = None
) -> AuditList:
    """What was done in one project."""

    def look(connection: Connection) -> list[reports.AuditRow]:
        return reports.list_audits(connection, project=member.project.id, before=before)

    return _audits(database_of(request).read(look))


def _audits(rows: list[reports.AuditRow]) -> AuditList:
    shown = tuple(AuditShown(id=row.id, by=row.name, action=row.action, about=row.about, at=row.at) for row in rows)
    return AuditList(audits=shown, before=rows[-1].id if len(rows) == reports.PAGE else None)
