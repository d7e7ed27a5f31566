"""Frames that no gRPC library sends, with a valid certificate: whoever else calls hardly notices."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.abuse import Scene, scene

pytestmark = [pytest.mark.soak, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def around_s(soaking: bool) -> float:
    """Seconds that the bystander calls, around each attack."""
    return 30.0 if soaking else 3.5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop_scene(tmp_path_factory: pytest.TempPathFactory, soaking: bool) -> AsyncIterator[Scene]:
    async with scene(tmp_path_factory.mktemp("abuse"), unloaded_s=10.0 if soaking else 3.0) as made:
        yield made


async def test_rapid_reset(shop_scene: Scene, around_s: float) -> None:
    assert (await shop_scene.attacked("rapid_reset", seconds=around_s))["sent"] == 10_000


async def test_silent_sockets(shop_scene: Scene, around_s: float) -> None:
    told = await shop_scene.attacked("silent_sockets", seconds=around_s)
    assert told["left"] == 0


async def test_large_metadata(shop_scene: Scene, around_s: float) -> None:
    told = await shop_scene.attacked("large_metadata", seconds=around_s)
    assert told["seconds"] < 7, "the connection is closed, as its settings never come"


async def test_no_message(shop_scene: Scene, around_s: float) -> None:
    told = await shop_scene.attacked("no_message", seconds=around_s)
    assert told["ended"] == {"12": 100}
    assert told["refused"] == {"8": 50}


async def test_zero_window(shop_scene: Scene, around_s: float) -> None:
    await shop_scene.attacked("zero_window", seconds=around_s)


async def test_zero_window_and_large_replies(
    tmp_path_factory: pytest.TempPathFactory, around_s: float
) -> None:
    folder = tmp_path_factory.mktemp("large")
    async with scene(folder, unloaded_s=2.0, catalog="tests.faults.large_catalog") as large:
        told = await large.attacked("zero_window_large", seconds=min(around_s, 10.0))
        # Of 400. One peer may leave 64 MiB unread, and from half of that on the next calls are refused.
        assert told["refused"].keys() == {"8"}
        assert told["refused"]["8"] >= 384


async def test_continuation_flood(shop_scene: Scene, around_s: float) -> None:
    await shop_scene.attacked("continuation_flood", seconds=around_s)


async def test_ping_flood(shop_scene: Scene, around_s: float) -> None:
    told = await shop_scene.attacked("ping_flood", seconds=around_s)
    assert told["closed"]


async def test_empty_parts(shop_scene: Scene, around_s: float) -> None:
    told = (await shop_scene.attacked("empty_parts", seconds=around_s))["told"]
    assert sum(told.values()) == 240
    assert all("RESOURCE_EXHAUSTED" in answer for answer in told)
