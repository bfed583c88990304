"""The tables. Times are seconds since 1970, UTC. What people said is only ever added: see `events`.

Ids that leave the server are random text; those of items and events are counted, and stay inside.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    column,
    table,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


Json = JSON(none_as_null=True)  # what is not there is NULL, not the text "null"


def _id() -> Column[str]:
    return Column("id", String(32), primary_key=True)


def _of(table: str, *, null: bool = False, **more: Any) -> Column[Any]:
    return Column(table, ForeignKey(f"{table}s.id"), nullable=null, **more)


# -- people ------------------------------------------------------------------------------------------------------------

accounts = Table(
    "accounts",
    metadata,
    _id(),
    Column("name", String(80), nullable=False, unique=True),  # to log in with
    Column("password", Text),  # Argon2id; none: logs in by invitation only
    Column("role", String(16), nullable=False),  # admin, annotator, simulated or imported
    Column("skills", Json, nullable=False, default=list),
    Column("preferences", Json, nullable=False, default=dict),  # of the screen: theme, keys, layout
    Column("hourly_rate", Float),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created", Float, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 of the cookie
    _of("account", index=True),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    _id(),
    Column("hash", String(64), nullable=False, unique=True),  # SHA-256 of what was shown once
    _of("account", index=True),
    Column("name", String(80), nullable=False),
    Column("scopes", Json, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("used", Float),
    Column("revoked", Float),
)

invitations = Table(
    "invitations",
    metadata,
    _id(),
    Column("hash", String(64), nullable=False, unique=True),
    Column("maker", String(32), nullable=False),  # an account, or the command line
    _of("project", null=True),
    Column("role", String(16), nullable=False),
    Column("skills", Json, nullable=False, default=list),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used_by", ForeignKey("accounts.id")),
)

attempts = Table(  # failed log-ins, for the rate limit that all processes share
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(100), nullable=False),  # "name:…" or "address:…", hashed
    Column("at", Float, nullable=False),
    Index("ix_attempts_key_at", "key", "at"),
)

# -- what is asked -----------------------------------------------------------------------------------------------------

projects = Table(
    "projects",
    metadata,
    _id(),
    Column("name", String(80), nullable=False, unique=True),
    Column("config", Json, nullable=False),  # a ProjectConfig
    Column("state", String(16), nullable=False),  # open, paused or closed
    Column("created", Float, nullable=False),
    Column("queue", Integer, nullable=False, default=0),  # counts reorderings: cursors of older ones start anew
)

guidelines = Table(
    "guidelines",
    metadata,
    _of("project", primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)

members = Table(
    "members",
    metadata,
    _of("project", primary_key=True),
    _of("account", primary_key=True, index=True),
    Column("role", String(16), nullable=False),  # manager or annotator
    Column("guideline", Integer),  # the version that was acknowledged
    Column("walk", Text),  # the queue and the skills with which this member goes through it; others start anew
    Column("place", BigInteger),  # on this walk, no item up to here is left for this member; none: at its start
    Column("claims", Integer, nullable=False, default=0),  # tasks ever given out
)

DRAWN = text("drawn_from IS NOT NULL")  # few items

items = Table(  # what is short comes first: to read past a long text, SQLite reads the text
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    _of("project"),
    Column("key", String(100), nullable=False),  # the publisher's name of it; the same key is published once
    Column("state", String(16), nullable=False),  # open, taken (all slots are out or filled), gold, own, withdrawn
    Column("place", BigInteger, nullable=False),  # in the queue; below 0: put before those that were there
    Column("overlap", Integer, nullable=False),
    Column("labels", Integer, nullable=False, default=0),  # that count
    Column("leases", Integer, nullable=False, default=0),  # tasks that are out
    Column("flags", Integer, nullable=False, default=0),
    Column("skill", String(40)),
    Column("batch", String(100)),
    Column("policy", String(100)),
    Column("reward_model", String(100)),
    Column("arm", String(16), nullable=False),  # random or active: how it was picked
    Column("selection_probability", Float, nullable=False, default=1.0),  # of its draw
    Column("drawn_from", Integer),  # items that were left to draw; none: asked in the order of publishing
    Column("created", Float, nullable=False),
    Column("scores", Json),  # of the reward model: [{mean, std}] one a response
    Column("gold", Json),  # the answer that is known to be right, in the order of `responses`
    Column("tags", Json, nullable=False, default=dict),
    Column("prompt", Json, nullable=False),  # [{role, content}]
    Column("responses", Json, nullable=False),  # [text]
    UniqueConstraint("project", "key"),
    Index("ix_items_queue", "project", "state", "place"),
    Index("ix_items_batch", "project", "batch"),
    Index("ix_items_drawn", "project", "drawn_from", sqlite_where=DRAWN, postgresql_where=DRAWN),
)

tallies = Table(  # how far projects are, kept by triggers on items: counting a million of them takes too long
    "tallies",
    metadata,
    _of("project", primary_key=True),
    Column("state", String(16), primary_key=True),  # of items
    Column("items", Integer, nullable=False),
    Column("labels", Integer, nullable=False),  # that count, of these items
    Column(
        "wanted", Integer, nullable=False
    ),  # they have or still need: of each its overlap, or its labels if these are more
)

assignments = Table(  # who was given what, in which order the answers were shown
    "assignments",
    metadata,
    _of("item", primary_key=True),
    _of("account", primary_key=True),
    Column("project", String(32), nullable=False),
    Column("ticket", String(32), nullable=False, unique=True),  # the only name by which an annotator knows the item
    Column("state", String(16), nullable=False),  # leased, labeled, skipped or expired
    Column("order_shown", Json, nullable=False),
    Column("guideline", Integer),
    Column("opened", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("draft", Json),
    Index("ix_assignments_leases", "state", "until"),
    Index("ix_assignments_mine", "account", "project", "state"),
)

# -- what was said -----------------------------------------------------------------------------------------------------

SUPERSEDES = text("supersedes IS NOT NULL")  # few events

events = Table(  # never changed, never deleted (a trigger refuses); each names the hash of the one before
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String(64), nullable=False, unique=True),  # made by the client: sent twice, it counts once
    Column("type", String(16), nullable=False),  # label, undo, skip, flag, late, exclude, restore
    _of("project"),
    _of("item", null=True),
    _of("account"),
    Column("supersedes", Integer, ForeignKey("events.id")),  # the label that this one edits or takes back
    Column("answer", Json),  # as it was given, positions as shown
    Column("order_shown", Json),
    Column("guideline", Integer),
    Column("seconds", Float),
    Column(
        "vote", Integer
    ),  # comparisons: -1 the first response stored is better, 0 neither, 1 the second; else a level
    Column("first_won", Boolean),  # comparisons: the answer shown first was preferred
    Column("longer_won", Boolean),
    Column("at", Float, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_events_of_item", "item", "account"),
    Index("ix_events_of_project", "project", "type", "id"),
    Index("ix_events_of_account", "account", "project", "id"),
    Index("ix_events_supersedes", "supersedes", sqlite_where=SUPERSEDES, postgresql_where=SUPERSEDES),
)

current_labels = table(  # the view of the migrations: labels that were neither edited nor taken back
    "current_labels",
    *(column(one.name, one.type) for one in events.columns if one.name not in ("type", "supersedes", "hash")),
)

audits = Table(  # what administrators did, and whose labels they read; append-only like events
    "audits",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account", String(32)),
    Column("action", String(60), nullable=False),
    Column("about", Json, nullable=False),
    Column("at", Float, nullable=False),
    Column("hash", String(64), nullable=False),
)

# -- where it went -----------------------------------------------------------------------------------------------------

artifacts = Table(  # what was made from labels, and what samples came from: the store's end of the lineage
    "artifacts",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("kind", String(40), nullable=False),
    Column("parents", Json, nullable=False),  # role -> artifact id
    Column("where", Text),
    _of("account", null=True),  # who noted it
    Column("created", Float, nullable=False),
)

uses = Table(  # which labels an artifact was made from
    "uses",
    metadata,
    Column("artifact", ForeignKey("artifacts.id"), primary_key=True),
    Column("event", ForeignKey("events.id"), primary_key=True, index=True),
)

# -- to other machines, and with models --------------------------------------------------------------------------------

webhooks = Table(
    "webhooks",
    metadata,
    _id(),
    _of("project"),
    Column("url", Text, nullable=False),
    Column("after", Integer, nullable=False),  # the last event that it was told
    Column("attempts", Integer, nullable=False, default=0),  # that failed since
    Column("next", Float),  # when to try again; none: at once
    Column("problem", Text),  # of the last attempt
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created", Float, nullable=False),
)

conversations = Table(
    "conversations",
    metadata,
    _id(),
    _of("project"),
    _of("account", index=True),
    Column("responder", String(80), nullable=False),
    Column("created", Float, nullable=False),
)

turns = Table(
    "turns",
    metadata,
    Column("conversation", ForeignKey("conversations.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("role", String(16), nullable=False),
    Column("content", Text, nullable=False),
    Column("policy", String(100)),  # who wrote it
    Column("item", ForeignKey("items.id")),  # of an answer that can be judged
    Column("at", Float, nullable=False),
)
