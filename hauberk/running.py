"""The outermost frame of a process of the mesh: its loop, its signals, its exit code."""

import asyncio
import inspect
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from hauberk import log
from hauberk.certs.errors import CertsError
from hauberk.errors import MeshError
from hauberk.interceptors.errors import PolicyError
from hauberk.mesh import stopping

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main` to its end, on uvloop where there is one.

    The first SIGTERM or SIGINT sets `mesh.stopping`, so that servers drain and `main` ends by itself; the
    second cancels it. What keeps a process out of the mesh is printed as one line, and the exit code is 1.
    """
    if inspect.iscoroutine(main):
        main.close()
        raise TypeError("run takes the function itself: hauberk.run(main), not hauberk.run(main())")
    log.set_up()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_until_told(main))
    except (MeshError, PolicyError, CertsError) as error:
        print(f"hauberk: {error}", file=sys.stderr)
        sys.exit(1)
    except asyncio.CancelledError:
        sys.exit(1)


async def _until_told(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    told = asyncio.Event()
    stopping.set(told)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has one

    def tell() -> None:
        if told.is_set():
            task.cancel()
        told.set()

    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, tell)
    try:
        await main()
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
