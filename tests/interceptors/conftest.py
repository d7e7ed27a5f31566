"""What the tests of interceptors share."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interceptors.raw_http2 import Raw, RawConnection, tls_of
from tests.interceptors.stage import Shape, Stage
from tests.interceptors.token_forge import Forge


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
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
