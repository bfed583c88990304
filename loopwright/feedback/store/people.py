"""Who may do what: accounts, log-ins, tokens for programs, invitations.

Whatever lets somebody in (a cookie, a token, an invitation) is shown once and stored as its SHA-256: it has 256 random
bits, so a hash that is quick to compute is enough. Passwords have few, and are stored with Argon2id.
"""

import hashlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from loopwright.errors import StoreError
from loopwright.feedback.store.prepared import Prepared
from loopwright.feedback.store.projects import add_member, member_role, new_id
from loopwright.feedback.store.tables import accounts, attempts, invitations, sessions, tokens
from loopwright.schemas import AI, IMPORTED, is_ai

Role = Literal["admin", "annotator", "simulated", "imported"]
SCOPES = ("label", "read", "publish", "manage", "admin")  # each says what a token may do, none includes another
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 200
IDLE_SECONDS = 12 * 3600.0  # a session that nobody uses ends
SESSION_SECONDS = 7 * 86_400.0  # and each ends
SEEN_EVERY_SECONDS = 60.0  # how exactly a session's last use is noted
ATTEMPTS_SECONDS = 15 * 60.0  # failed tries count for so long
ATTEMPTS_A_NAME_HERE = 10  # of one name from one address
ATTEMPTS_A_NAME = 500  # from everywhere: high, for whoever fails so often keeps the name's owner out
ATTEMPTS_AN_ADDRESS = 50

_hasher = PasswordHasher()
_NOBODYS = "$argon2id$v=19$m=65536,t=3,p=4$o9GzVQ+XcSKMCXxref+vYw$tFcCubAfJ/WTNWNLGOq3L2BXFImGXrqvyqgDpRXC/Dg"

_hashing = threading.Semaphore(2)  # each takes 64 MiB and a core
_in_line = threading.Semaphore(12)  # those at work and those who wait: requests without passwords need threads, too


class Busy(StoreError):
    """Too many passwords are being checked: a moment later there is room."""


class Account(NamedTuple):
    id: str
    name: str
    role: str
    skills: list[str]
    preferences: dict[str, Any]
    disabled: bool


def create_account(
    connection: Connection,
    name: str,
    *,
    role: Role = "annotator",
    password_hash: str | None = None,
    skills: Sequence[str] = (),
    now: float,
) -> Account:
    """Raises StoreError where the name is taken, or is none."""
    if not name.strip() or len(name) > 80 or not name.isprintable():
        raise StoreError("a name has 1 to 80 printable characters")
    if is_ai(name):
        raise StoreError(f"{AI} begins the names of models that judge; choose another name")
    if name.startswith(IMPORTED) != (role == "imported"):
        raise StoreError(f"{IMPORTED} begins the names of those whose labels were imported; choose another name")
    id = new_id()
    row = {"id": id, "name": name, "password": password_hash, "role": role, "skills": sorted(set(skills))}
    try:
        connection.execute(insert(accounts).values(**row, preferences={}, disabled=False, created=now))
    except IntegrityError:
        raise StoreError(f"there is an account {name} already; choose another name") from None
    return Account(id, name, role, sorted(set(skills)), {}, False)


def get_account(connection: Connection, id: str) -> Account:
    """Raises StoreError where there is none."""
    row = connection.execute(select(accounts).where(accounts.c.id == id)).first()
    if row is None:
        raise StoreError(f"there is no account {id}")
    return _account(row)


def account_values(connection: Connection, id: str) -> dict[str, Any] | None:
    """What `change_account` sets; None: there is no such account."""
    columns = [accounts.c[name] for name in ("skills", "hourly_rate", "role", "disabled")]
    row = connection.execute(select(*columns).where(accounts.c.id == id)).first()
    return None if row is None else row._asdict()


def has_admin(connection: Connection) -> bool:
    """Whether somebody administers."""
    there = (accounts.c.role == "admin") & accounts.c.disabled.is_(False)
    return connection.execute(select(accounts.c.id).where(there).limit(1)).first() is not None


def find_account(connection: Connection, name: str) -> Account | None:
    row = connection.execute(select(accounts).where(accounts.c.name == name)).first()
    return None if row is None else _account(row)


def change_account(connection: Connection, id: str, **values: Any) -> None:
    """Set skills, preferences, hourly_rate, role or disabled. Who may do less from now on must log in again."""
    connection.execute(update(accounts).where(accounts.c.id == id).values(**values))
    if {"role", "disabled"} & set(values):
        end_sessions(connection, id)


def hash_password(password: str) -> str:
    """Takes half a second and 64 MiB on purpose: call it outside of transactions.

    Raises:
        StoreError: the password is too short or too long.
        Busy: too many others wait.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise StoreError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    with _turn_to_hash():
        return _hasher.hash(password)


def set_password(connection: Connection, id: str, password_hash: str, *, now: float) -> None:
    """All sessions and tokens of the account end: whoever knew the old password may have made some."""
    connection.execute(update(accounts).where(accounts.c.id == id).values(password=password_hash))
    end_sessions(connection, id)
    theirs = (tokens.c.account == id) & tokens.c.revoked.is_(None)
    connection.execute(update(tokens).where(theirs).values(revoked=now))


def password_of(connection: Connection, name: str) -> tuple[str | None, str | None]:
    """The id and the hash of an account that may log in; None, None for others."""
    query = select(accounts.c.id, accounts.c.password).where(accounts.c.name == name, accounts.c.disabled.is_(False))
    row = connection.execute(query).first()
    return (None, None) if row is None else (row.id, row.password)


def matches(password_hash: str | None, password: str) -> bool:
    """Whether it is the password. An account that there is not, or that has none, takes as long to say no.

    Raises:
        Busy: too many others wait.
    """
    with _turn_to_hash():
        try:
            right = _hasher.verify(password_hash or _NOBODYS, password[:LONGEST_PASSWORD])
        except VerificationError:
            return False
    return right and password_hash is not None


@contextmanager
def _turn_to_hash() -> Iterator[None]:
    if not _in_line.acquire(blocking=False):
        raise Busy("too many people log in at this moment; try again in a few seconds")
    try:
        with _hashing:
            yield
    finally:
        _in_line.release()


# -- the limit on guessing ---------------------------------------------------------------------------------------------


def wait_before_try(connection: Connection, name: str | None, address: str, *, now: float) -> float:
    """Seconds until the next try from an address is heard, of a password (or of an invitation: no name); 0: now."""
    waits = [0.0]
    for key, most in _limits(name, address).items():
        recent = (attempts.c.key == _sha256(key)) & (attempts.c.at > now - ATTEMPTS_SECONDS)
        count, first = connection.execute(select(func.count(), func.min(attempts.c.at)).where(recent)).one()
        if count >= most:
            waits.append(first + ATTEMPTS_SECONDS - now)
    return max(waits)


def note_attempt(connection: Connection, name: str | None, address: str, *, now: float) -> None:
    """Count a try that failed."""
    connection.execute(delete(attempts).where(attempts.c.at < now - ATTEMPTS_SECONDS))
    connection.execute(insert(attempts), [{"key": _sha256(key), "at": now} for key in _limits(name, address)])


def _limits(name: str | None, address: str) -> dict[str, int]:
    limits = {f"address:{address}": ATTEMPTS_AN_ADDRESS}
    if name is not None:
        limits |= {f"name:{name}": ATTEMPTS_A_NAME, f"address:{address} name:{name}": ATTEMPTS_A_NAME_HERE}
    return limits


# -- sessions ----------------------------------------------------------------------------------------------------------


def start_session(connection: Connection, account: str, *, now: float) -> str:
    """What the cookie holds."""
    cookie = secrets.token_urlsafe(32)
    connection.execute(insert(sessions).values(hash=_sha256(cookie), account=account, created=now, seen=now))
    return cookie


def session_account(connection: Connection, cookie: str, *, now: float) -> tuple[Account | None, bool]:
    """Whose session it is, if it is one, and whether its use is to be noted (`touch_session`)."""
    row = _BY_SESSION.first(connection, hash=_sha256(cookie))
    if row is None or now - row.seen > IDLE_SECONDS or now - row.begun > SESSION_SECONDS:
        return None, False
    return _account(row), now - row.seen > SEEN_EVERY_SECONDS


def touch_session(connection: Connection, cookie: str, *, now: float) -> None:
    connection.execute(update(sessions).where(sessions.c.hash == _sha256(cookie)).values(seen=now))


def end_session(connection: Connection, cookie: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.hash == _sha256(cookie)))


def end_sessions(connection: Connection, account: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.account == account))


# -- tokens of programs ------------------------------------------------------------------------------------------------


def create_token(
    connection: Connection, account: str, name: str, scopes: Sequence[str], *, expires: float | None = None, now: float
) -> str:
    """What the program sends. It is shown now and never again.

    Raises:
        StoreError: a scope is none.
    """
    if not scopes or (stray := next((scope for scope in scopes if scope not in SCOPES), None)):
        raise StoreError(f"a token's scopes are some of {', '.join(SCOPES)}, not {stray if scopes else 'none'}")
    token = f"lwf_{secrets.token_urlsafe(32)}"
    row = {"id": new_id(), "hash": _sha256(token), "account": account, "name": name, "scopes": sorted(set(scopes))}
    connection.execute(insert(tokens).values(**row, created=now, expires=expires))
    return token


def token_account(connection: Connection, token: str, *, now: float) -> tuple[Account, frozenset[str]] | None:
    """Whose token it is and what it may do; None: nobody's, expired or revoked."""
    row = _BY_TOKEN.first(connection, hash=_sha256(token))
    if row is None or row.revoked is not None or (row.expires is not None and row.expires <= now):
        return None
    return _account(row), frozenset(row.scopes)


class TokenInfo(NamedTuple):
    id: str
    name: str
    account: str
    scopes: list[str]
    created: float
    expires: float | None
    revoked: float | None


def list_tokens(connection: Connection, account: str | None = None) -> list[TokenInfo]:
    """Of one account or of all; never the token itself."""
    columns = [tokens.c[name] for name in TokenInfo._fields]
    query = select(*columns).order_by(tokens.c.created)
    if account is not None:
        query = query.where(tokens.c.account == account)
    return [TokenInfo(*row) for row in connection.execute(query)]


def revoke_token(connection: Connection, id: str, *, now: float) -> None:
    connection.execute(update(tokens).where(tokens.c.id == id, tokens.c.revoked.is_(None)).values(revoked=now))


# -- invitations -------------------------------------------------------------------------------------------------------


COMMAND_LINE = "command line"  # who made an invitation: whoever can open the store, as in the audit log


def invite(
    connection: Connection,
    *,
    by: str,
    project: str | None,
    role: str = "annotator",
    skills: Sequence[str] = (),
    expires: float,
    now: float,
) -> str:
    """What an invitation's link holds, for one person; it is shown now and never again.

    Args:
        by: the account that invites, or COMMAND_LINE. The link works as long as it may.
        role: admin (of everything), or manager or annotator of the project.
    """
    if role not in ("admin", "manager", "annotator") or (project is None) != (role == "admin"):
        raise StoreError("people are invited to a project as annotator or manager, or as admin to none")
    secret = secrets.token_urlsafe(32)
    row = {"id": new_id(), "hash": _sha256(secret), "project": project, "role": role, "skills": sorted(set(skills))}
    connection.execute(insert(invitations).values(**row, maker=by, created=now, expires=expires))
    return secret


def open_invitation(connection: Connection, secret: str, *, now: float) -> Row[Any] | None:
    """The invitation, while it can be used: nobody else has, and who made it still may."""
    row = connection.execute(select(invitations).where(invitations.c.hash == _sha256(secret))).first()
    if row is None or row.used_by is not None or row.expires <= now:
        return None
    return row if _may_invite(connection, row.maker, row.project) else None


def _may_invite(connection: Connection, maker: str, project: str | None) -> bool:
    if maker == COMMAND_LINE:
        return True
    account = connection.execute(select(accounts.c.role, accounts.c.disabled).where(accounts.c.id == maker)).first()
    if account is None or account.disabled:
        return False
    return account.role == "admin" or (project is not None and member_role(connection, project, maker) == "manager")


def revoke_invitation(connection: Connection, project: str | None, id: str) -> None:
    """Raises StoreError where the project (None: the administrators) has none of this id that nobody used."""
    of_project = invitations.c.project.is_(None) if project is None else invitations.c.project == project
    unused = (invitations.c.id == id) & of_project & invitations.c.used_by.is_(None)
    if not connection.execute(delete(invitations).where(unused)).rowcount:
        raise StoreError("there is no such invitation, or somebody used it")


def checked_invitation(connection: Connection, secret: str, *, now: float) -> Row[Any]:
    """Raises StoreError where it cannot be used."""
    invitation = open_invitation(connection, secret, now=now)
    if invitation is None:
        raise StoreError("this invitation was used or has run out; ask for another")
    return invitation


def accept(connection: Connection, secret: str, name: str, password_hash: str, *, now: float) -> Account:
    """Make the account that an invitation is for.

    Raises:
        StoreError: the invitation cannot be used, or the name is taken.
    """
    invitation = checked_invitation(connection, secret, now=now)
    role: Role = "admin" if invitation.role == "admin" else "annotator"
    account = create_account(
        connection, name, role=role, password_hash=password_hash, skills=invitation.skills, now=now
    )
    if invitation.project is not None:
        add_member(connection, invitation.project, account.id, invitation.role)
    connection.execute(update(invitations).where(invitations.c.id == invitation.id).values(used_by=account.id))
    return account


def _account(row: Any) -> Account:
    return Account(row.id, row.name, row.role, row.skills, row.preferences, row.disabled)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Asked at each request.
_BY_TOKEN = Prepared(
    select(accounts, tokens.c.scopes, tokens.c.expires, tokens.c.revoked)
    .join(tokens, tokens.c.account == accounts.c.id)
    .where(tokens.c.hash == bindparam("hash"), accounts.c.disabled.is_(False))
)
_BY_SESSION = Prepared(
    select(accounts, sessions.c.seen, sessions.c.created.label("begun"))
    .join(sessions, sessions.c.account == accounts.c.id)
    .where(sessions.c.hash == bindparam("hash"), accounts.c.disabled.is_(False))
)
