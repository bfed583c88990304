"""Answers in conversations are batches of the policies that gave them, so that runs can wait for their labels."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("UPDATE items SET batch = policy WHERE id IN (SELECT item FROM turns)")
