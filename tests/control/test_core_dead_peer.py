"""A replica that falls silent, its connection still open: noticed by keepalive, dropped after the grace."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from tests.control.core_mesh import CATALOG, CONTROL_NAME, CoreMesh, Workload


class Relay:
    """Passes bytes between a client and the control plane, until it is told to be silent."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._silent = False
        self._writers: list[asyncio.StreamWriter] = []
        self.address = ""

    def fall_silent(self) -> None:
        self._silent = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            for writer in self._writers:
                writer.close()
            server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not self._silent:
                    writer.write(data)
                    await writer.drain()
        if not self._silent:
            writer.close()


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
