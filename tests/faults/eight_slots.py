"""A server whose capacity is known, on one core: 8 calls at a time, so long each, in three priorities.

Its arguments are a folder and the seconds that a call takes. It writes there what a caller needs and its
address, and says what it did when it ends.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from hauberk.certs.store import CredentialStore
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.policy import Policy, callers
from tests.interceptors.stage import Shape, Stage, path

SLOTS = 8
CALLERS = tuple(f"load-{number}" for number in range(8))


async def main(folder: Path, call_s: float) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    stage, slots = Stage(folder / "stage"), asyncio.Semaphore(SLOTS)

    async def work(request: bytes, context: Any) -> bytes:
        async with slots:
            await asyncio.sleep(call_s)
        return request

    def said(priority: Priority) -> Policy:
        return Policy(method=path(priority.name), callers=callers("*"), priority=priority)

    address = await stage.serve(
        {priority.name: (Shape.UNARY_UNARY, work, said(priority)) for priority in Priority}
    )
    for name in CALLERS:
        CredentialStore(folder / name).write(stage.credentials(name))
    (folder / "address").write_text(address, encoding="ascii")
    overload = stage.guard.overload
    while not (folder / "over").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.1)
    print(
        json.dumps(
            {
                "places": overload.limit.places,
                "refused": overload.refused,
                "left": overload.taken + overload.waiting,
                "cpu_s": round(time.process_time(), 2),
            }
        )
    )
    await stage.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), float(sys.argv[2])))
