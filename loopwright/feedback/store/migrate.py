"""Make a store's tables, or bring those of an older version up to this one (Alembic).

The next migration: change `tables.py`, and put what `print(missing_migration(URL))` shows, for any store of the newest
version so far, into migrations/versions/v0003_what_for.py, as in the first; recreate `current_labels` if events change.
"""

from pathlib import Path

from alembic import command
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from loopwright.errors import StoreError
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.engines import lock_for_writing, make_engine, parse_url
from loopwright.feedback.store.tables import metadata

FOLDER = Path(__file__).with_name("migrations")


def migrate(url: str) -> None:
    """Create the tables, or upgrade them. Nothing is lost, and doing it twice does nothing.

    Raises:
        ConfigError: the URL is none.
        StoreError: the database cannot be opened, is of a newer version, or holds tables of somebody else.
    """
    parsed = parse_url(url)
    engine = make_engine(parsed)
    try:
        with engine.begin() as connection:
            lock_for_writing(connection)  # another process may be at it
            tables = inspect(connection).get_table_names()
            if tables and "alembic_version" not in tables:
                raise StoreError(
                    f"the database holds tables that are no feedback store's ({tables[0]}); give the store its own"
                )
            found = _version(connection)
            if found is not None and found not in {script.revision for script in _scripts().walk_revisions()}:
                shown = parsed.render_as_string(hide_password=True)
                raise StoreError(
                    f"{shown}: its tables are of version {found}; use the program that made them, or newer"
                )
            config = AlembicConfig()
            config.set_main_option("script_location", str(FOLDER))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def open_store(url: str, *, power_safe: bool = False) -> Database:
    """Open a store whose tables are of this version.

    Raises:
        StoreError: there is none, or it is older or newer.
    """
    file = parse_url(url)
    if file.get_backend_name() == "sqlite" and not Path(file.database or "").exists():
        raise StoreError(
            f"{file.database}: there is no feedback store; make one: loopwright feedback init --store {url}"
        )
    database = Database(url, power_safe=power_safe)
    found, newest = database.read(_version), _scripts().get_current_head()
    if found != newest:
        database.close()
        shown = file.render_as_string(hide_password=True)
        if found is None:
            raise StoreError(f"{shown}: there is no feedback store in it; make one: loopwright feedback init")
        raise StoreError(
            f"{shown}: its tables are of version {found}, this program needs {newest}; run loopwright feedback init "
            "on it, with the newest program"
        )
    return database


def missing_migration(url: str) -> str:
    """The Python that would turn a store's tables into those of `tables.py`; it does nothing where they are equal."""
    engine = make_engine(parse_url(url))
    try:
        with engine.begin() as connection:
            context = MigrationContext.configure(connection)
            changes = produce_migrations(context, metadata).upgrade_ops
            assert changes is not None
            return render_python_code(changes)
    finally:
        engine.dispose()


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(FOLDER))
