"""A caller in a process of its own: asks for a product all the time, says in JSON how each call ended.

CATALOG in its environment is an address of the catalog, to which it opens a new connection now and then.
"""

import asyncio
import json
import os
import time
from typing import Any

import grpc

import hauberk
from hauberk import hints
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc

CALL_S = 2.0
PAUSE_S = 0.1
NEW_ONE_IN = 5
"""So often a call has a connection of its own."""


async def main() -> None:
    async with hauberk.join() as mesh:
        number = 0
        while not mesh.stopping.is_set():
            if number % NEW_ONE_IN:
                await ask(mesh.channel, new=False)
            else:
                channel = mesh.direct_channel("catalog", os.environ["CATALOG"])
                await ask(channel, new=True)
                await channel.close()
            number += 1
            await asyncio.sleep(PAUSE_S)


async def ask(channel: grpc.aio.Channel, *, new: bool) -> None:
    stub: Any = catalog_pb2_grpc.CatalogStub(channel)
    told: dict[str, object] = {"at": time.monotonic(), "new": new, "code": "OK"}
    try:
        await stub.GetProduct(catalog_pb2.GetProductRequest(sku="NONE"), timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:  # there is no such product: all is well
            reason = hints.reason_of(error) or ""
            told |= {"code": error.code().name, "reason": reason, "said": error.details()}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    hauberk.run(main)
