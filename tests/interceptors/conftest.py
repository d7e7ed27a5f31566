"""What the tests of interceptors share."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interceptors.raw_http2 import Raw, RawConnection, tls_of
from tests.interceptors.stage import Shape, Stage
from tests.interceptors.threaded_stage import ThreadedStage
from tests.interceptors.token_forge import Forge


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says SERVED_BY runs its tests against each of these servers; `only` chooses for one."""
    if "served_by" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "SERVED_BY", ("asyncio",))
        metafunc.parametrize("served_by", getattr(metafunc.function, "served_by", kinds))


@pytest.fixture
async def stage(tmp_path: Path, served_by: str) -> AsyncIterator[Stage]:
    stage = ThreadedStage(tmp_path) if served_by == "threaded" else Stage(tmp_path)
    yield stage
    await stage.close()


@pytest.fixture(params=Shape, ids=lambda shape: shape.name.lower())
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each of the four shapes of a call."""
    assert isinstance(request.param, Shape)
    return request.param


@pytest.fixture
def raw(stage: Stage, tmp_path: Path) -> Raw:
    """Runs a blocking function with a raw connection to the stage's server, as gateway."""

    async def run(act: Callable[[RawConnection], Any], **how: Any) -> Any:
        svid = stage.credentials("gateway").svid
        context = tls_of(tmp_path, svid, version=ssl.TLSVersion.TLSv1_3)

        def connected() -> Any:
            with RawConnection(stage.address, context, **how) as connection:
                return act(connection)

        return await asyncio.to_thread(connected)

    return run


@pytest.fixture
def forge() -> Forge:
    """Two issuers that are believed, with keys of this test's own."""
    return Forge()
