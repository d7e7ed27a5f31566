"""What the tests of interceptors share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interceptors.stage import Shape, Stage


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
