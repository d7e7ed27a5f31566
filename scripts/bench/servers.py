"""One server process: `python -m scripts.bench.servers KIND FOLDER NAME METHODS LOOP WITHOUT`.

It ends with its stdin. Where it listens it says in FOLDER/NAME.address, once it does. Its log is its standard
error.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import uvloop

import hauberk
from hauberk.certs.rotation import Schedule
from hauberk.certs.watch import Watch
from hauberk.interceptors.peer import Trust
from hauberk.memory import few_heaps
from hauberk.recording import Recording
from hauberk.server import MeshServer
from hauberk.settings import Settings
from hauberk.threaded import WORKERS, ThreadedServer
from hauberk.token_issuers import Believed, KeyKeepers
from scripts.bench.contract import SERVICE, contract, handlers
from scripts.bench.features import Without, left_out
from scripts.bench.materials import TRUST_DOMAIN, Materials
from scripts.bench.sink import OVER_GRPC
from scripts.bench.tokens import ISSUERS

LISTEN = "127.0.0.1:0"
# Its own port: servers that shared one through SO_REUSEPORT would serve one another's calls.
# Pings: our channel sends more of them than grpc allows by default.
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 250),
    ("grpc.http2.max_ping_strikes", 0),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a server process is told."""

    materials: Materials
    name: str
    methods: int
    without: Without


Server = Callable[[Told], "contextlib.AbstractAsyncContextManager[str]"]
"""Listens while it is entered, and says where: host:port."""


@contextlib.asynccontextmanager
async def bare(told: Told) -> AsyncIterator[str]:
    """grpc.aio as it comes, over mutual TLS."""
    async with _core(told, _tls(told.materials)) as address:
        yield address


@contextlib.asynccontextmanager
async def insecure(told: Told) -> AsyncIterator[str]:
    """grpc.aio as it comes, in the clear."""
    async with _core(told, None) as address:
        yield address


@contextlib.asynccontextmanager
async def threads(told: Told) -> AsyncIterator[str]:
    """grpc.server as it comes, over mutual TLS, with as many threads as ours."""
    server = grpc.server(ThreadPoolExecutor(WORKERS), options=_OPTIONS)
    port = _add(server, handlers(contract(told.methods), plain=True), _tls(told.materials))
    server.start()
    yield f"127.0.0.1:{port}"
    await asyncio.to_thread(server.stop(0).wait)


@contextlib.asynccontextmanager
async def usual(told: Told) -> AsyncIterator[str]:
    """What is usually put around grpc.aio."""
    from scripts.bench.usual import interceptors  # of an environment that has it

    async with _core(told, _tls(told.materials), interceptors(told.materials.folder)) as address:
        yield address


@contextlib.asynccontextmanager
async def ours(told: Told) -> AsyncIterator[str]:
    """The server that mesh.server() makes."""
    async with _of_the_mesh(MeshServer, told) as address:
        yield address


@contextlib.asynccontextmanager
async def ours_in_threads(told: Told) -> AsyncIterator[str]:
    """The server that mesh.threaded_server() makes."""
    async with _of_the_mesh(ThreadedServer, told) as address:
        yield address


@contextlib.asynccontextmanager
async def _of_the_mesh(kind: type[MeshServer], told: Told) -> AsyncIterator[str]:
    """A server as a process that has joined makes it, with everything that is not left out."""
    few_heaps()  # as joining does
    folder, without = told.materials.folder, told.without
    name = f"spiffe://{TRUST_DOMAIN}/{told.name}"
    credentials = Watch(told.materials.credentials("server"))
    settings = Settings(
        name="server",
        state_dir=folder / f"{told.name}.state",
        enrolment="127.0.0.1:1",
        roots=folder,
        access_log="log" not in without,
        metrics_listen=None if "metrics" in without else LISTEN,
        otlp_endpoint=None if "spans" in without else f"http://{(folder / OVER_GRPC).read_text('ascii')}",
        token_issuers=folder / ISSUERS,
    )
    recording = Recording.of(settings, name)
    believed = Believed.of(settings.token_issuers)
    assert believed is not None  # noqa: S101 - there is a file
    keepers = KeyKeepers(believed, name)
    server = kind(
        credentials=credentials,
        trust=Watch(Trust(credentials.value.bundle)),
        schedule=Schedule.of(timedelta(hours=1).total_seconds()),
        listen=LISTEN,
        service_name=name,
        tokens=keepers.tokens,
        **recording.for_servers,
    )
    served = handlers(contract(told.methods, without), plain=kind is ThreadedServer)
    server.add_registered_method_handlers(SERVICE, served)
    keeping = asyncio.create_task(keepers.keep())
    await keepers.tried()
    async with server:
        yield server.address
    keeping.cancel()
    recording.close()


def _tls(materials: Materials) -> grpc.ServerCredentials:
    own = materials.credentials("server")
    pair = (own.svid.key_pem, own.svid.chain_pem)
    return grpc.ssl_server_credentials([pair], own.bundle.pem(), require_client_auth=True)


@contextlib.asynccontextmanager
async def _core(
    told: Told,
    tls: grpc.ServerCredentials | None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[str]:
    server = grpc.aio.server(options=_OPTIONS, interceptors=interceptors)
    port = _add(server, handlers(contract(told.methods)), tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def _add(server: Any, served: "dict[str, grpc.RpcMethodHandler[Any, Any]]", tls: Any) -> int:
    """Add the methods, as generated code does, and a port; its number."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, served),))
    server.add_registered_method_handlers(SERVICE, served)
    port = server.add_insecure_port(LISTEN) if tls is None else server.add_secure_port(LISTEN, tls)
    return int(port)


OURS: dict[str, Server] = {"ours": ours, "ours in threads": ours_in_threads}
KINDS: dict[str, Server] = {"bare": bare, "insecure": insecure, "threads": threads, "usual": usual, **OURS}


def main(kind: str, folder: Path, name: str, methods: int, loop: str, without: str) -> None:
    told = Told(materials=Materials.load(folder), name=name, methods=methods, without=left_out(without))

    async def serve() -> None:
        async with KINDS[kind](told) as address:
            written = folder / f"{name}.address.new"
            written.write_text(address, encoding="utf-8")
            written.rename(folder / f"{name}.address")
            await asyncio.to_thread(sys.stdin.read)

    if kind in OURS:
        hauberk.run(serve)
    elif loop == "uvloop":
        uvloop.run(serve())
    else:
        asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:7])
