"""Where alembic runs a service's migrations: in the connection and transaction that database.py gives."""

import logging
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationInfo

_log = logging.getLogger("hauberk.services.database")


def _tell(ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
    _log.info("database upgraded to %s", step.up_revision_id)


# One line for each step that is taken, none for having looked.
logging.getLogger("alembic").setLevel(logging.WARNING)
context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    on_version_apply=_tell,
)
context.run_migrations()
