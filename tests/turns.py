"""Whose turn it is among the workers of one run: tests marked `alone` have the machine to themselves.

A promise in time is measured where nothing else runs; all other tests run beside one another. Two files are
locked for that. The hall is shared by tests that mind no company, exclusive to one that is alone. The gate is
passed on the way in; who waits for the hall to empty keeps it meanwhile, so that no newcomer overtakes.
"""

import fcntl
import os
from pathlib import Path


class Turns:
    """One worker's part in it. The files are in `folder`, which belongs to the run."""

    def __init__(self, folder: Path) -> None:
        self._gate, self._hall = (
            os.open(folder / f"turns.{name}", os.O_RDWR | os.O_CREAT, 0o600) for name in ("gate", "hall")
        )
        self._is_alone = False

    def enter(self, *, alone: bool) -> None:
        """Wait for a turn. Who has stayed alone goes on."""
        if self._is_alone and alone:
            return
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._hall, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._is_alone = alone

    def leave(self, *, stays: bool) -> None:
        """End the turn, unless it was alone and the next test here is to be alone too."""
        if not (self._is_alone and stays):
            fcntl.flock(self._hall, fcntl.LOCK_UN)
            self._is_alone = False
