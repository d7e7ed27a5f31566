"""A mesh with a catalog, and web servers of other processes that call it."""

import asyncio
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hauberk.interceptors.call import Call, current_call
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tests.face.control import Catalog, Control

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
START_S = 40.0
STOP_S = 30.0
_LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class NotingCatalog(Catalog):
    """Keeps the calls that came, and counts the connections they came over: one from each process."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.connections: Counter[str] = Counter()

    async def GetProduct(  # noqa: N802 - the contract's name
        self, request: catalog_pb2.GetProductRequest, context: Any
    ) -> catalog_pb2.Product:
        served = current_call()
        assert served is not None
        self.calls.append(served)
        self.connections[context.peer()] += 1
        return await super().GetProduct(request, context)


class WebServer:
    """One server with its workers. What it says is kept in `said`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._port = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body."""
        port = await asyncio.wait_for(asyncio.shield(self._port), START_S)
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=dict(headers or {}))

        def got() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(request, timeout=START_S) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        async with asyncio.timeout(START_S):
            while True:
                try:
                    return await asyncio.to_thread(got)
                except urllib.error.URLError as error:  # uvicorn names its port before its workers listen
                    if not isinstance(error.reason, ConnectionRefusedError):
                        raise
                await asyncio.sleep(0.1)

    async def stop(self) -> int:
        """SIGTERM, and wait; its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        try:
            async with asyncio.timeout(STOP_S):
                await self._reading
                return await self.process.wait()
        finally:
            if self.process.returncode is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said += line.decode()
            listens = _LISTENS.search(self.said)
            if listens and not self._port.done():
                self._port.set_result(int(listens[1]))


class Web:
    """Makes web servers that join the mesh as gateway."""

    def __init__(self, control: Control, catalog: NotingCatalog) -> None:
        self.control = control
        self.catalog = catalog
        self.open = AsyncExitStack()

    async def serve(self, folder: Path, *command: str) -> WebServer:
        """`python -m command` in `folder`. Stopped with the test."""
        settings = self.control.settings("gateway")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HAUBERK_")},
            "HAUBERK_NAME": "gateway",
            "HAUBERK_STATE_DIR": str(settings.state_dir),
            "HAUBERK_ENROLMENT": settings.enrolment,
            "HAUBERK_ROOTS": str(settings.roots),
            "HAUBERK_JOIN_TOKEN_FILE": str(self.control.invite("gateway")),
            "PYTHONUNBUFFERED": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *command,
            cwd=folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        server = WebServer(process)
        self.open.push_async_callback(server.stop)
        return server

    async def gunicorn(self, folder: Path, application: str, *arguments: str) -> WebServer:
        return await self.serve(folder, "gunicorn", "--bind", "127.0.0.1:0", *arguments, application)

    async def called_by(self, server: WebServer, path: str, *, workers: int) -> Sequence[tuple[int, bytes]]:
        """Ask until so many workers have called the catalog, a few seconds at most; the answers."""
        answers: list[tuple[int, bytes]] = []
        async with asyncio.timeout(START_S):
            while len(self.catalog.connections) < workers:
                answers += await asyncio.gather(*(server.get(path) for _ in range(4)))
        return answers


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with Control(tmp_path) as control:
        servicer = NotingCatalog()  # type: ignore[abstract]
        server = (await control.member("catalog")).server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(servicer, server)
        await server.start()
        web = Web(control, servicer)
        async with web.open:
            yield web
