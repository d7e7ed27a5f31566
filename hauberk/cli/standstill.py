"""Ends a child that somebody stopped (SIGSTOP and its like) and did not let go on.

It holds what it holds: on SQLite the one lock for writing, which is the system's, and which only its going on
or its death frees. The system says whether a child is stopped (waitid(2), WSTOPPED), so that neither a busy
process nor a starved machine is taken for that; a child that a debugger holds is not stopped in this sense.
"""

import asyncio
import signal

from hauberk.cli.process import Process

LOOK_S = 0.2
"""Between two looks. A process of which callers hear nothing is left by them after 1.1 s or more."""
LOOKS = 5
"""So many in a row must find it stopped. They are counted, and not the time: in that we may have been stopped
ourselves, or the machine asleep.
"""


async def killed_for_it(process: Process) -> str:
    """Kill `process` once it stands still, however long that takes to come; what was found, in words."""
    found = 0
    while True:
        await asyncio.sleep(LOOK_S)
        stopped_by = process.stopped_by
        if stopped_by is None:
            found = 0
            continue
        found += 1
        if found == LOOKS:
            process.signal(signal.SIGKILL)
            return f"was stopped by {stopped_by.name} for {LOOKS * LOOK_S:g} s, and killed"
