"""A server of PlaceOrderRequests in a process of its own: `python -m tests.interceptors.ruled_server FOLDER`.

Its methods let messages in by size and leave the rest to the bound on items and to the rules. Prints its
address, and ends when its input does.
"""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from hauberk.interceptors.demands import MessageBounds
from hauberk.protos.shop.orders.v1 import orders_pb2
from tests.interceptors.stage import SERVICE, Shape, Stage, policy

LARGEST = 4 * 1024 * 1024
BOUNDS = MessageBounds(max_bytes=LARGEST + 4096, max_items=1000)
METHODS = {"One": Shape.UNARY_UNARY, "Many": Shape.STREAM_UNARY}


async def one(request: Any, context: Any) -> bytes:
    return b""


async def many(requests: Any, context: Any) -> bytes:
    async for _ in requests:
        pass
    return b""


async def main() -> None:
    stage = Stage(Path(sys.argv[1]))
    guard = stage.new_guard()
    read = orders_pb2.PlaceOrderRequest.FromString
    guard.add(
        SERVICE,
        {
            "One": grpc.unary_unary_rpc_method_handler(one, read),
            "Many": grpc.stream_unary_rpc_method_handler(many, read),
        },
        {name: replace(policy(name, shape, "*"), message=BOUNDS) for name, shape in METHODS.items()},
    )
    options = [("grpc.max_receive_message_length", BOUNDS.max_bytes)]
    print(await stage.start(guard, options=options), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await stage.close()


if __name__ == "__main__":
    asyncio.run(main())
