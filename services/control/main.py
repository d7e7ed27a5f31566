"""Runs the control plane: `python -m hauberk.services.control.main`, with the environment of settings.py.

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 could not start or go on; 2 told something it cannot use.
"""

import asyncio
import os
import resource
import signal
import sys

from hauberk import log
from hauberk.certs.errors import SvidExpired
from hauberk.errors import ListenFailed
from hauberk.memory import few_heaps
from hauberk.services.control.opening import StartRefused
from hauberk.services.control.plane import control_plane
from hauberk.services.control.settings import ConfigError, ControlSettings


def main() -> int:
    log.set_up()
    os.umask(0o077)
    few_heaps()
    # The CA's key is in our memory: no core file, and at a limit of exactly 1 none through a pipe either.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    try:
        asyncio.run(_serve(ControlSettings.load(os.environ)))
    except ConfigError as error:
        return _fail(2, error)
    except (StartRefused, ListenFailed, SvidExpired) as error:
        return _fail(1, error)
    return 0


async def _serve(settings: ControlSettings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    expired = False
    async with control_plane(settings) as plane:
        try:
            async with asyncio.TaskGroup() as background:
                keeping = background.create_task(plane.keep())
                await stopping.wait()
                keeping.cancel()
        except* SvidExpired:
            expired = True
    if expired:
        raise SvidExpired("our own svid ended before it could be replaced; the log above says why")


def _fail(code: int, error: Exception) -> int:
    print(f"hauberk control: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
