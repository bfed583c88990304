"""Alembic's entry: runs the migrations on the connection that `migrate` gives it."""

from alembic import context

from loopwright.feedback.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
