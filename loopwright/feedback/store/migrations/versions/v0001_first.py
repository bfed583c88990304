"""The first tables, the view of what counts now, and triggers: they keep the past as it was, and the tallies right."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

APPEND_ONLY = ("events", "audits")

CURRENT_LABELS = """
CREATE VIEW current_labels AS
SELECT said.* FROM events AS said
WHERE said.type = 'label' AND NOT EXISTS (SELECT 1 FROM events AS later WHERE later.supersedes = said.id)
"""


# labels beyond an item's overlap are in nobody else's place: an item that was gold has as many as there are people
WANTED = "CASE WHEN {0}.labels > {0}.overlap THEN {0}.labels ELSE {0}.overlap END"
ONE_MORE = f"""
INSERT INTO tallies (project, state, items, labels, wanted)
VALUES (NEW.project, NEW.state, 1, NEW.labels, {WANTED.format("NEW")})
ON CONFLICT (project, state) DO UPDATE SET
  items = tallies.items + 1, labels = tallies.labels + excluded.labels, wanted = tallies.wanted + excluded.wanted;
"""
ONE_LESS = f"""
UPDATE tallies SET items = items - 1, labels = labels - OLD.labels, wanted = wanted - {WANTED.format("OLD")}
WHERE project = OLD.project AND state = OLD.state;
"""


def upgrade() -> None:
    _tables()
    op.execute(CURRENT_LABELS)
    if op.get_bind().dialect.name == "postgresql":
        _triggers_of_postgresql()
    else:
        _triggers_of_sqlite()


def _triggers_of_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_only_grow BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE FUNCTION tally() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF TG_OP <> 'INSERT' THEN {ONE_LESS} END IF; {ONE_MORE} RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER items_tally AFTER INSERT OR UPDATE OF state, labels, overlap ON items "
        "FOR EACH ROW EXECUTE FUNCTION tally()"
    )


def _triggers_of_sqlite() -> None:
    for table in APPEND_ONLY:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or deleted'); END"
            )
    op.execute(f"CREATE TRIGGER items_tally_new AFTER INSERT ON items BEGIN {ONE_MORE} END")
    op.execute(
        f"CREATE TRIGGER items_tally AFTER UPDATE OF state, labels, overlap ON items BEGIN {ONE_LESS} {ONE_MORE} END"
    )


def _tables() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("password", sa.Text(), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("skills", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("preferences", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("hourly_rate", sa.Float(), nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name", name=op.f("uq_accounts_name")),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_key_at", "attempts", ["key", "at"], unique=False)
    op.create_table(
        "audits",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=True),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("about", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("config", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("queue", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("parents", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("where", sa.Text(), nullable=True),
        sa.Column("account", sa.String(length=32), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=op.f("fk_artifacts_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("responder", sa.String(length=80), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=op.f("fk_conversations_account")),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_conversations_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
    )
    op.create_index(op.f("ix_conversations_account"), "conversations", ["account"], unique=False)
    op.create_table(
        "guidelines",
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_guidelines_project")),
        sa.PrimaryKeyConstraint("project", "version", name=op.f("pk_guidelines")),
    )
    op.create_table(
        "invitations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("maker", sa.String(length=32), nullable=False),
        sa.Column("project", sa.String(length=32), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("skills", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("used_by", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_invitations_project")),
        sa.ForeignKeyConstraint(["used_by"], ["accounts.id"], name=op.f("fk_invitations_used_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("hash", name=op.f("uq_invitations_hash")),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("leases", sa.Integer(), nullable=False),
        sa.Column("flags", sa.Integer(), nullable=False),
        sa.Column("skill", sa.String(length=40), nullable=True),
        sa.Column("batch", sa.String(length=100), nullable=True),
        sa.Column("policy", sa.String(length=100), nullable=True),
        sa.Column("reward_model", sa.String(length=100), nullable=True),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("selection_probability", sa.Float(), nullable=False),
        sa.Column("drawn_from", sa.Integer(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("scores", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("gold", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("prompt", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("responses", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_items_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("project", "key", name=op.f("uq_items_project")),
    )
    op.create_index("ix_items_batch", "items", ["project", "batch"], unique=False)
    op.create_index(
        "ix_items_drawn",
        "items",
        ["project", "drawn_from"],
        unique=False,
        sqlite_where=sa.text("drawn_from IS NOT NULL"),
        postgresql_where=sa.text("drawn_from IS NOT NULL"),
    )
    op.create_index("ix_items_queue", "items", ["project", "state", "place"], unique=False)
    op.create_table(
        "members",
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("guideline", sa.Integer(), nullable=True),
        sa.Column("walk", sa.Text(), nullable=True),
        sa.Column("place", sa.BigInteger(), nullable=True),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=op.f("fk_members_account")),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_members_project")),
        sa.PrimaryKeyConstraint("project", "account", name=op.f("pk_members")),
    )
    op.create_index(op.f("ix_members_account"), "members", ["account"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=op.f("fk_sessions_account")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_account"), "sessions", ["account"], unique=False)
    op.create_table(
        "tallies",
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_tallies_project")),
        sa.PrimaryKeyConstraint("project", "state", name=op.f("pk_tallies")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("scopes", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=True),
        sa.Column("used", sa.Float(), nullable=True),
        sa.Column("revoked", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=op.f("fk_tokens_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_index(op.f("ix_tokens_account"), "tokens", ["account"], unique=False)
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next", sa.Float(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_webhooks_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "assignments",
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("ticket", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("order_shown", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("guideline", sa.Integer(), nullable=True),
        sa.Column("opened", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("draft", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=op.f("fk_assignments_account")),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name=op.f("fk_assignments_item")),
        sa.PrimaryKeyConstraint("item", "account", name=op.f("pk_assignments")),
        sa.UniqueConstraint("ticket", name=op.f("uq_assignments_ticket")),
    )
    op.create_index("ix_assignments_leases", "assignments", ["state", "until"], unique=False)
    op.create_index("ix_assignments_mine", "assignments", ["account", "project", "state"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("item", sa.Integer(), nullable=True),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("supersedes", sa.Integer(), nullable=True),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("order_shown", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("guideline", sa.Integer(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("vote", sa.Integer(), nullable=True),
        sa.Column("first_won", sa.Boolean(), nullable=True),
        sa.Column("longer_won", sa.Boolean(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=op.f("fk_events_account")),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name=op.f("fk_events_item")),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_events_project")),
        sa.ForeignKeyConstraint(["supersedes"], ["events.id"], name=op.f("fk_events_supersedes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("uid", name=op.f("uq_events_uid")),
    )
    op.create_index("ix_events_of_account", "events", ["account", "project", "id"], unique=False)
    op.create_index("ix_events_of_item", "events", ["item", "account"], unique=False)
    op.create_index("ix_events_of_project", "events", ["project", "type", "id"], unique=False)
    op.create_index(
        "ix_events_supersedes",
        "events",
        ["supersedes"],
        unique=False,
        sqlite_where=sa.text("supersedes IS NOT NULL"),
        postgresql_where=sa.text("supersedes IS NOT NULL"),
    )
    op.create_table(
        "turns",
        sa.Column("conversation", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("policy", sa.String(length=100), nullable=True),
        sa.Column("item", sa.Integer(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["conversation"], ["conversations.id"], name=op.f("fk_turns_conversation")),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name=op.f("fk_turns_item")),
        sa.PrimaryKeyConstraint("conversation", "number", name=op.f("pk_turns")),
    )
    op.create_table(
        "uses",
        sa.Column("artifact", sa.String(length=100), nullable=False),
        sa.Column("event", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.id"], name=op.f("fk_uses_artifact")),
        sa.ForeignKeyConstraint(["event"], ["events.id"], name=op.f("fk_uses_event")),
        sa.PrimaryKeyConstraint("artifact", "event", name=op.f("pk_uses")),
    )
    op.create_index(op.f("ix_uses_event"), "uses", ["event"], unique=False)
    # ### end Alembic commands ###
