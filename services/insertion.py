"""A row inserted unless its key is taken: what every "repeated with the same id" of the shop stands on."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Whether the row was new. False: its primary or unique key is taken, by a committed and visible row.

    On PostgreSQL a second inserter of the same key waits for the first to commit (then False) or to roll back
    (then True); on SQLite BEGIN IMMEDIATE has already put them in a queue.
    """
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(statement).first() is not None
