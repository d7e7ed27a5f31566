"""The shop's databases, each test a fresh one on both engines, and the shop that is opened over them."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from hauberk.services.database import open_database, upgrade
from tests.postgresql import new_database, patient
from tests.shop.stage import NewShop, OpenEngine, Shop


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """Makes fresh databases on one of the engines."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{uuid4().hex}.db"
    patient(monkeypatch)
    server = request.getfixturevalue("postgresql_server")
    return lambda: new_database(server)


@pytest.fixture
def engine_of(new_url: Callable[[], str]) -> Iterator[OpenEngine]:
    """Databases on the engine that the test is run for."""
    with opening(new_url) as engine_of:
        yield engine_of


@pytest.fixture
async def new_shop(tmp_path: Path) -> AsyncIterator[NewShop]:
    """Makes shops over SQLite; a test starts them, and they are closed after it."""
    with opening(lambda: f"sqlite:///{tmp_path}/{uuid4().hex}.db") as engine_of:
        async with shops(tmp_path, engine_of) as new_shop:
            yield new_shop


@pytest.fixture
async def new_shop_on_both(tmp_path: Path, engine_of: OpenEngine) -> AsyncIterator[NewShop]:
    """The same over the engine that the test is run for."""
    async with shops(tmp_path, engine_of) as new_shop:
        yield new_shop


@asynccontextmanager
async def shops(folder: Path, engine_of: OpenEngine) -> AsyncIterator[NewShop]:
    made: list[Shop] = []

    def make() -> Shop:
        own = folder / f"shop-{len(made)}"
        own.mkdir()
        made.append(Shop(own, engine_of))
        return made[-1]

    yield make
    for shop in made:
        await shop.stop()


@contextmanager
def opening(new_url: Callable[[], str]) -> Iterator[OpenEngine]:
    opened: list[Engine] = []

    def engine_of(service: str) -> Engine:
        engine = open_database(new_url())
        opened.append(engine)
        upgrade(engine, f"hauberk.services.{service}")
        return engine

    yield engine_of
    for engine in opened:
        engine.dispose()
