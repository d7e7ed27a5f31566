"""A process of its own: its signals, its exit code, and what its port lets in."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import hauberk
from tests.face.control import Control

CIPHERS = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES256-GCM-SHA384"}

SERVER = """
import hauberk
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc

class Catalog(catalog_pb2_grpc.CatalogServicer):
    async def GetProduct(self, request, context):
        return catalog_pb2.Product(sku=request.sku)

async def main():
    async with hauberk.join() as mesh:
        server = mesh.server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)
        await server.start()
        print(server.address, flush=True)
        await server.serve()
        print("served", flush=True)

hauberk.run(main)
"""

STUCK = """
import asyncio, hauberk

async def main():
    async with hauberk.join() as mesh:
        print("joined", flush=True)
        await asyncio.Event().wait()

hauberk.run(main)
"""


async def test_sigterm_ends_a_server_with_exit_code_0(control: Control) -> None:
    async with process(SERVER, environment(control, "catalog")) as (running, first):
        assert first.startswith("127.0.0.1:")
        running.send_signal(signal.SIGTERM)
        rest, errors = await running.communicate()
        assert running.returncode == 0
        assert rest.decode().split() == ["served"]
        assert "Traceback" not in errors.decode()
    assert control.plane.roster.replicas() == []


async def test_the_second_signal_does_not_wait(control: Control) -> None:
    async with process(STUCK, environment(control, "gateway")) as (running, first):
        assert first == "joined"
        running.send_signal(signal.SIGINT)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await running.wait()
        running.send_signal(signal.SIGINT)
        await running.communicate()
        assert running.returncode == 1


async def test_what_keeps_a_process_out_is_one_line_and_exit_code_1(control: Control) -> None:
    env = environment(control, "catalog")
    del env["HAUBERK_JOIN_TOKEN_FILE"]
    async with process(SERVER, env) as (running, first):
        _, errors = await running.communicate()
        assert running.returncode == 1
        assert first == ""
        (line,) = errors.decode().splitlines()
        assert line.startswith("hauberk: cannot join as catalog: nothing is in ")


def test_a_coroutine_in_place_of_its_function_is_told_what_to_write() -> None:
    async def main() -> None:
        pass

    with pytest.raises(TypeError, match=r"hauberk\.run\(main\), not hauberk\.run\(main\(\)\)"):
        hauberk.run(main())  # type: ignore[arg-type]


def test_joining_without_async_with_is_told_what_to_write() -> None:
    join: Any = hauberk.join
    with pytest.raises(TypeError, match=r"async with hauberk\.join"), join():
        pass
    with pytest.raises(AttributeError, match=r"async with hauberk.join\(\) as mesh, then mesh.server"):
        join().server()
    assert not hasattr(join(), "anything_else")


async def test_tls_1_2_is_refused_in_the_handshake(control: Control) -> None:
    """No cipher of TLS 1.2 is left for our certificates where the process was started with the variable."""
    client = await control.member("gateway")
    async with process(SERVER, environment(control, "catalog")) as (_, address):
        assert await negotiated(address, client.settings.state_dir, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await negotiated(address, client.settings.state_dir, ssl.TLSVersion.TLSv1_2)


async def negotiated(address: str, state: Path, version: ssl.TLSVersion) -> str:
    """The version agreed on with a client that offers only `version`, once the server has answered in it."""
    context = ssl.create_default_context(cafile=str(state / "current" / "bundle.pem"))
    context.load_cert_chain(state / "current" / "chain.pem", state / "current" / "key.pem")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname="catalog.shop.test"
    )
    try:
        assert (await reader.readexactly(9))[3] == 4, "the first frame is not SETTINGS"
        return str(writer.get_extra_info("ssl_object").version())
    finally:
        writer.close()


def environment(control: Control, name: str) -> dict[str, str]:
    settings = control.settings(name)
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("HAUBERK_")},
        **CIPHERS,
        "HAUBERK_NAME": name,
        "HAUBERK_STATE_DIR": str(settings.state_dir),
        "HAUBERK_ENROLMENT": settings.enrolment,
        "HAUBERK_ROOTS": str(settings.roots),
        "HAUBERK_JOIN_TOKEN_FILE": str(control.invite(name)),
    }


@asynccontextmanager
async def process(source: str, env: dict[str, str]) -> AsyncIterator[tuple[Any, str]]:
    """A Python process, and the first line it prints; killed at the end if it still runs."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert running.stdout is not None
    try:
        async with asyncio.timeout(30):
            first = await running.stdout.readline()
        yield running, first.decode().strip()
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()
