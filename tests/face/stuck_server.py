"""A server in a process of its own, to be killed: `python -m tests.face.stuck_server FOLDER`, the town's.

Prints its address, then a line for each call that has begun, which never ends.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from tests.interceptors.stage import Shape, Stage, policy


async def stuck(request: bytes, context: Any) -> bytes:
    print("begun", flush=True)
    await asyncio.Event().wait()
    return request


async def main() -> None:
    stage, unary = Stage(Path(sys.argv[1])), Shape.UNARY_UNARY
    address = await stage.serve({"Echo": (unary, stuck, policy("Echo", unary, "*"))})
    print(address, flush=True)
    await asyncio.sleep(60)
    await stage.close()


if __name__ == "__main__":
    asyncio.run(main())
