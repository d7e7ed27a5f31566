"""SIGTERM ends a command as Ctrl-C does: through its clean-up, so that no copy of a secret is left behind."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def cleaned_up() -> Iterator[None]:
    """While the block runs SIGTERM raises SystemExit in it; the exit code is a shell's for that signal."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
