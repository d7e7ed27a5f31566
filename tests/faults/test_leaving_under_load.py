"""A server that stops under load, again and again: no call is left without an answer."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.face.town import SERVICE, Town, policy
from tests.faults import asking_on
from tests.faults.asking_on import CALL_S

METHODS = 100
"""Core goes through all of them as it stops: the more, the longer is the instant in which it loses a call."""


@pytest.mark.soak
@pytest.mark.timeout(200)
async def test_no_call_that_comes_as_the_server_stops_waits_for_its_deadline(
    tmp_path: Path, soaking: bool
) -> None:
    """Core itself neither hands on nor refuses one of them, in one round of fifty."""
    town = Town(tmp_path)
    async with _callers(town, tmp_path) as callers:
        longest = [await _round(town, callers) for _ in range(200 if soaking else 20)]
    await town.close()
    lost = sum(took >= CALL_S for took in longest)
    print(f"{lost} of {len(longest)} rounds, longest {max(longest):.2f} s")
    assert max(longest) < CALL_S


async def _round(town: Town, callers: asyncio.subprocess.Process) -> float:
    """How long the longest of the calls took that met the stop, in seconds."""
    assert callers.stdin is not None
    assert callers.stdout is not None
    server, names = town.server(), ["Echo", *(f"Method{number}" for number in range(METHODS))]
    handler = town.lab.handlers()["Echo"]
    server.add(SERVICE, dict.fromkeys(names, handler), {name: policy(name) for name in names})
    await server.start()
    callers.stdin.write(f"{server.address}\n".encode())
    assert await callers.stdout.readline() == b"asking\n"
    await asyncio.sleep(random.uniform(0.02, 0.04))
    await server.stop(2 * CALL_S)
    return float(await callers.stdout.readline())


@asynccontextmanager
async def _callers(town: Town, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    held = town.credentials("gateway")
    (folder / "key.pem").write_bytes(held.svid.key_pem)
    (folder / "chain.pem").write_bytes(held.svid.chain_pem)
    (folder / "roots.pem").write_bytes(held.bundle.pem())
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        asking_on.__file__,
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
