"""SIGTERM and the end of its terminal end a command as Ctrl-C does: through its clean-up, so that no copy of
a secret is left behind.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cleaned_up() -> Iterator[None]:
    """While the block runs these signals raise SystemExit in it; the exit code is a shell's for that signal.

    One that is ignored stays so: nohup has a reason.
    """

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
