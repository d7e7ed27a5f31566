"""The shop's databases: each test a fresh one, on both engines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from hauberk.services.database import open_database, upgrade
from tests.postgresql import new_database, postgresql

OpenEngine = Callable[[str], Engine]


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes fresh databases on one of the engines."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{uuid4().hex}.db"
    server = request.getfixturevalue("postgresql_server")
    return lambda: new_database(server)


@pytest.fixture
def engine_of(new_url: Callable[[], str]) -> Iterator[OpenEngine]:
    """Opens the fresh database of a service, by its name, as its main does."""
    opened: list[Engine] = []

    def open_engine(service: str) -> Engine:
        engine = open_database(new_url())
        opened.append(engine)
        upgrade(engine, f"hauberk.services.{service}")
        return engine

    yield open_engine
    for engine in opened:
        engine.dispose()
