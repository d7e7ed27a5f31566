"""Callers in a process of their own, who ask a server until it is gone: `asking_on.py FOLDER`.

FOLDER holds key.pem, chain.pem and roots.pem. For each line of standard input, an address, it prints "asking"
once the first call was answered, and in the end how many seconds the longest of the last calls took.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc

METHOD = "/lab.v1.Lab/Echo"
CALLERS = 48
CALL_S = 3.0
"""The deadline of each call."""


async def main(folder: Path) -> None:
    key, chain, roots = ((folder / f"{name}.pem").read_bytes() for name in ("key", "chain", "roots"))
    while address := (await asyncio.to_thread(sys.stdin.readline)).strip():
        credentials = grpc.ssl_channel_credentials(roots, key, chain)
        named = [("grpc.ssl_target_name_override", "server.mesh.test")]
        async with grpc.aio.secure_channel(address, credentials, options=named) as channel:
            await channel.channel_ready()
            echo: Any = channel.unary_unary(METHOD)
            await echo(b"", timeout=CALL_S)
            print("asking", flush=True)
            took = await asyncio.gather(*(_until_refused(echo) for _ in range(CALLERS)))
        print(max(took), flush=True)


async def _until_refused(echo: Any) -> float:
    while True:
        began = time.monotonic()
        try:
            await echo(b"", timeout=CALL_S)
        except grpc.aio.AioRpcError:
            return time.monotonic() - began


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
