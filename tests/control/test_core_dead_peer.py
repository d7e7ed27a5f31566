"""A replica that falls silent, its connection still open: noticed by keepalive, dropped after the grace."""

import asyncio

import grpc
import pytest

from tests.control.core_mesh import CATALOG, CONTROL_NAME, CoreMesh, Workload
from tests.relay import Relay


@pytest.mark.alone
async def test_a_silent_replica_is_dropped_within_keepalive_and_grace(mesh: CoreMesh) -> None:
    """2 s until the silence is noticed, 3 s in which the replica could come back."""
    credentials = (await mesh.join("catalog", [CATALOG])).credentials
    secure = credentials.channel_credentials()
    async with (
        Relay(mesh.plane.mesh.address).running() as relay,
        grpc.aio.secure_channel(relay.address, secure, options=CONTROL_NAME) as channel,
    ):
        await Workload(credentials, channel).announce()
        await mesh.until_listed("catalog#1")
        relay.fall_silent()
        started = asyncio.get_running_loop().time()
        await mesh.until_listed()
        assert asyncio.get_running_loop().time() - started < 2 + 3 + 1


async def test_a_quiet_replica_that_answers_pings_stays(mesh: CoreMesh) -> None:
    """Pings that find no other traffic are not rationed, and answering them needs nothing of Python."""
    announced = await (await mesh.join("catalog", [CATALOG])).announce()
    await asyncio.sleep(5)
    assert not announced.call.done()
    assert list(mesh.listed()) == ["catalog#1"]
