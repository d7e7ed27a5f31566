"""Where alembic runs a service's migrations: in the connection and transaction that database.py gives."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
