"""What the tests of the face share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.face.control import Control
from tests.face.town import Town


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    town = Town(tmp_path)
    yield town
    await town.close()


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with Control(tmp_path) as control:
        yield control
