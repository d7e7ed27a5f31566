"""One server process: `python -m scripts.bench.servers KIND FOLDER NAME METHODS LOOP`. It ends with stdin.

Where it listens it says in FOLDER/NAME.address, once it does. Its standard error is its log.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import uvloop

import hauberk
from hauberk.certs.rotation import Schedule
from hauberk.certs.watch import Watch
from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.records import Records
from hauberk.server import MeshServer
from scripts.bench.contract import SERVICE, contract, handlers
from scripts.bench.materials import TRUST_DOMAIN, Materials

Server = Callable[[Materials, int], "contextlib.AbstractAsyncContextManager[str]"]
"""Listens while it is entered; materials and number of methods in, host:port out."""


@contextlib.asynccontextmanager
async def bare(materials: Materials, methods: int) -> AsyncIterator[str]:
    """grpc.aio as it comes, over mutual TLS."""
    async with _core(methods, _tls(materials)) as address:
        yield address


@contextlib.asynccontextmanager
async def insecure(materials: Materials, methods: int) -> AsyncIterator[str]:
    """grpc.aio as it comes, in the clear."""
    async with _core(methods, None) as address:
        yield address


@contextlib.asynccontextmanager
async def ours(materials: Materials, methods: int) -> AsyncIterator[str]:
    """The server that mesh.server() makes, with all of ON."""
    credentials = Watch(materials.credentials("server"))
    name = f"spiffe://{TRUST_DOMAIN}/server"
    records = Records([AccessLog(sys.stderr, name)])
    server = MeshServer(
        credentials=credentials,
        trust=Watch(Trust(credentials.value.bundle)),
        schedule=Schedule.of(timedelta(hours=1).total_seconds()),
        listen="127.0.0.1:0",
        service_name=name,
        records=records,
    )
    server.add_registered_method_handlers(SERVICE, handlers(contract(methods)))
    async with server:
        yield server.address
    records.close()


@contextlib.asynccontextmanager
async def usual(materials: Materials, methods: int) -> AsyncIterator[str]:
    """What is usually put around grpc.aio."""
    from scripts.bench.usual import interceptors  # of an environment that has it

    async with _core(methods, _tls(materials), interceptors(materials.folder)) as address:
        yield address


def _tls(materials: Materials) -> grpc.ServerCredentials:
    own = materials.credentials("server")
    pair = (own.svid.key_pem, own.svid.chain_pem)
    return grpc.ssl_server_credentials([pair], own.bundle.pem(), require_client_auth=True)


@contextlib.asynccontextmanager
async def _core(
    methods: int,
    tls: grpc.ServerCredentials | None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[str]:
    served = handlers(contract(methods))
    # Its own port: servers that shared one through SO_REUSEPORT would serve one another's calls.
    server: Any = grpc.aio.server(options=[("grpc.so_reuseport", 0)], interceptors=interceptors)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, served),))
    server.add_registered_method_handlers(SERVICE, served)  # as generated code does
    listen = "127.0.0.1:0"
    port = server.add_insecure_port(listen) if tls is None else server.add_secure_port(listen, tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


KINDS: dict[str, Server] = {"bare": bare, "insecure": insecure, "ours": ours, "usual": usual}


def main(kind: str, folder: Path, name: str, methods: int, loop: str) -> None:
    async def serve() -> None:
        async with KINDS[kind](Materials.load(folder), methods) as address:
            written = folder / f"{name}.address.new"
            written.write_text(address, encoding="utf-8")
            written.rename(folder / f"{name}.address")
            await asyncio.to_thread(sys.stdin.read)

    if kind == "ours":
        hauberk.run(serve)
    elif loop == "uvloop":
        uvloop.run(serve())
    else:
        asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
