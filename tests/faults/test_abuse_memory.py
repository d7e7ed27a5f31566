"""A process that uses as much memory as it may refuses new calls, says so, and takes them again by itself."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.abuse import VICTIM, scene
from tests.mesh.fleet import eventually

LIMIT = {"HAUBERK_MEMORY_LIMIT": "165MiB"}
"""The process takes 110 to begin with; replies nobody reads may take 64 more, and what they hold besides."""


@pytest.mark.soak  # as it is; but how soon memory is free again is told where nothing else runs
async def test_process_short_of_memory_refuses_new_calls_until_there_is_some(tmp_path: Path) -> None:
    large = scene(tmp_path, unloaded_s=0.5, catalog="tests.faults.large_catalog", environment=LIMIT)
    async with large as scene_:
        watching = asyncio.create_task(scene_.watch(5.0))
        await scene_.attack("zero_window_large")
        seen = await watching
        assert seen.failed
        assert {each.partition(" (")[0] for each in seen.failed} == {
            "UNAVAILABLE: this process is short of memory"
        }
        assert len(seen.failed) < len(seen.ms)
        await eventually(lambda: bool(scene_.mesh.said(VICTIM, "calls are taken again")), within=10)
        assert len(scene_.mesh.said(VICTIM, "new calls are refused")) == 1
        assert not (await scene_.watch(1.0)).failed
