"""The database a service has to itself: DATABASE_URL, else an SQLite file in the process's state folder."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Engine

from hauberk.errors import SettingsError
from hauberk.services.database import DatabaseError, open_database, upgrade


@asynccontextmanager
async def own_database(package: str, state_dir: Path) -> AsyncIterator[Engine]:
    """The engine, its tables brought to the newest form, for `package` ("hauberk.services.catalog").

    It is disposed at the end of the block. Raises SettingsError if the database cannot be opened.
    """
    service = package.rpartition(".")[2]
    url = os.environ.get("DATABASE_URL") or f"sqlite:///{state_dir / service}.db"
    try:
        engine = await asyncio.to_thread(_ready, url, package)
    except DatabaseError as error:
        raise SettingsError(f"DATABASE_URL of {service}: {error}") from error
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.dispose)


def _ready(url: str, package: str) -> Engine:
    engine = open_database(url)
    try:
        upgrade(engine, package)
    except DatabaseError:
        engine.dispose()
        raise
    return engine
