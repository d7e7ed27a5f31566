"""Ends all that `hauberk up` started, should `up` itself be killed. Run as a file; imports next to nothing.

It leads the process group that every child belongs to, and reads a pipe that only `up` holds. When the pipe
ends, `up` is gone, however it ended: the group is asked to stop, and soon made to. A process group outlives
its members' numbers, so no stranger can be hit; a child is in it before it runs a single line of its own.
"""

import os
import signal
import time

PATIENCE_S = 2.0

if __name__ == "__main__":
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os.killpg(0, signal.SIGKILL)
