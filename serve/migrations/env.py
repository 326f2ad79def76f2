"""What Alembic runs to migrate: on the connection, and in the transaction, that serve/database.py hands it."""

from alembic import context

from serve.tables import SCHEMA_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=SCHEMA_TABLE,
    transactional_ddl=True,  # SQLite's, too: a migration that is killed leaves nothing
    compare_type=True,
)
context.run_migrations()
